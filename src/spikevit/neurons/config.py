"""A neuron as data: what a model's config says of its neurons, and the neuron made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from spikevit.errors import unknown
from spikevit.neurons.staircase import ExpG
from spikevit.schema import Checked, Positive, of_kind, wrong

KINDS = ("lif", "plif", "if", "expg", "relu")


def refuse_other(neuron: Any, *, mapping: bool = True) -> None:
    """Refuses what is neither a NeuronConfig (or another of `Neurons`) nor, with `mapping`, a mapping of its fields."""
    if isinstance(neuron, type) or not (hasattr(neuron, "build") or (mapping and isinstance(neuron, Mapping))):
        kind = neuron if neuron in KINDS else "lif"
        right = f'a NeuronConfig or a mapping of its fields, such as neuron={{"kind": "{kind}"}}'
        right = right if mapping else f'a NeuronConfig, such as NeuronConfig("{kind}")'
        raise wrong("neuron", neuron, f"{right}; kinds: {', '.join(KINDS)}")


def build_neurons(neuron: Any, threshold: float = 1.0) -> Any:
    """A layer of neurons that fire at `threshold`, for a layer that is told which.

    Raises:
        ValueError: the name of a kind, a layer or a class in place of a NeuronConfig.
    """
    refuse_other(neuron, mapping=False)
    return neuron.build(threshold)


class Neurons(Protocol):
    """What layers ask for neurons."""

    def build(self, threshold: float = 1.0) -> nn.Module:
        """A layer of neurons that fire at `threshold`."""
        ...

    def mask(self) -> nn.Module:
        """A layer of neurons that fire at most once a step and value: what lets others pass."""
        ...


@dataclass(frozen=True)
class NeuronConfig(Checked):
    """Neurons of a model. The defaults are those of the field: SpikingJelly's LIF, τ = 2, sigmoid of steepness 4.

    kind: "lif", "if", "plif" (τ learnt), "expg" for models without a time axis (Ge²mS-T), or "relu", which makes the
    ANN twin of a network, of one time step. tau: time constant in
    steps. decay_input: whether x is divided by τ too. reset: "hard" (to 0) or "soft" (by subtraction). surrogate:
    "sigmoid", "atan", "triangle", "rectangle" or "dspike", of steepness alpha (None: its default).
    """

    kind: str = "lif"
    tau: Positive = 2.0
    decay_input: bool = True
    reset: str = "hard"
    detach_reset: bool = True
    surrogate: str = "sigmoid"
    alpha: Positive | None = None

    def build(self, threshold: float = 1.0):
        """A layer of such neurons that fire at `threshold`."""
        from spikevit.neurons.lif import IF, LIF, ParametricLIF, Rectifier
        from spikevit.neurons.surrogate import make_surrogate

        options: dict[str, Any] = {
            "reset": self.reset,
            "detach_reset": self.detach_reset,
            "surrogate": make_surrogate(self.surrogate, self.alpha),
        }
        if self.kind == "expg":
            raise ValueError("neuron kind 'expg' has no time axis and no common threshold: it is for ge2mst models")
        if self.kind == "relu":
            return Rectifier()
        if self.kind == "if":
            return IF(threshold, **options)
        leaky = {"lif": LIF, "plif": ParametricLIF}
        if self.kind not in leaky:
            raise unknown("neuron kind", self.kind, KINDS)
        return leaky[self.kind](threshold, tau=self.tau, decay_input=self.decay_input, **options)

    def mask(self) -> nn.Module:
        """A layer of such neurons at half the usual threshold, as behind attention."""
        return self.build(0.5)


@dataclass(frozen=True)
class StaircaseConfig(Checked):
    """Layers of ExpG-IF neurons to train (`Staircase`). threshold: θ they start from, whatever a layer asks for.

    code: of their spikes. power_of_two: Δ = 2^e. backend: "fused", "numba" or "plain".
    """

    code: ExpG
    threshold: Positive = 2.0
    power_of_two: bool = True
    backend: str = "fused"

    def __post_init__(self) -> None:
        of_kind("code", self.code, ExpG, "an ExpG(steps, groups)")
        super().__post_init__()

    def build(self, threshold: float = 1.0) -> nn.Module:
        """A layer of them."""
        from spikevit.neurons.expg import Staircase

        return Staircase(self.code, self.threshold, power_of_two=self.power_of_two, backend=self.backend)

    def mask(self) -> nn.Module:
        """A layer that fires once or not."""
        return replace(self, code=ExpG(1, 1), threshold=1.0).build()
