"""A neuron as data: what a model's config says of its neurons, and the neuron made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spikevit.errors import unknown


@dataclass(frozen=True)
class NeuronConfig:
    """Neurons of a model. The defaults are those of the field: SpikingJelly's LIF, τ = 2, sigmoid of steepness 4.

    kind: "lif", "if" or "plif" (τ learnt). tau: time constant in steps. decay_input: whether x is divided by τ
    too. reset: "hard" (to 0) or "soft" (by subtraction). surrogate: "sigmoid", "atan", "triangle", "rectangle"
    or "dspike", of steepness alpha (None: its default).
    """

    kind: str = "lif"
    tau: float = 2.0
    decay_input: bool = True
    reset: str = "hard"
    detach_reset: bool = True
    surrogate: str = "sigmoid"
    alpha: float | None = None

    def build(self, threshold: float = 1.0):
        """A layer of such neurons that fire at `threshold`."""
        from spikevit.neurons.lif import IF, LIF, ParametricLIF
        from spikevit.neurons.surrogate import make_surrogate

        options: dict[str, Any] = {
            "reset": self.reset,
            "detach_reset": self.detach_reset,
            "surrogate": make_surrogate(self.surrogate, self.alpha),
        }
        if self.kind == "if":
            return IF(threshold, **options)
        leaky = {"lif": LIF, "plif": ParametricLIF}
        if self.kind not in leaky:
            raise unknown("neuron kind", self.kind, [*leaky, "if"])
        return leaky[self.kind](threshold, tau=self.tau, decay_input=self.decay_input, **options)
