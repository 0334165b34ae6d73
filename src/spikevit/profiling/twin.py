"""The same network without spikes, for the baselines: which network its products and its zeros are counted on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from torch import nn

from spikevit.models.running import zoo_model
from spikevit.neurons import ExpGIF, Neuron, Staircase


@contextmanager
def without_spikes(model: nn.Module) -> Iterator[nn.Module]:
    """The network whose activations an ANN of the same architecture would hold, in evaluation mode where ours is.

    Of a converted network its staircases; of tokens that halt, images that exit early and allocated time steps the
    model inside, every step of it, masks multiplied. Any other network is its own twin: its activations are what all
    time steps together carry.
    """
    inside, ours = model, zoo_model(model)
    if ours is model:
        inside = ours.base
    elif ours is not None and ours.base is not ours:
        name = next(name for name, m in model.named_modules() if m is ours)
        inside = deepcopy(model)
        inside.set_submodule(name, inside.get_submodule(name).base)  # type: ignore[arg-type]
    if any(isinstance(m, ExpGIF) for m in inside.modules()):
        inside = deepcopy(inside)
        for name, neuron in [(name, m) for name, m in inside.named_modules() if isinstance(m, ExpGIF)]:
            inside.set_submodule(name, _staircase(neuron))
    neurons = [m for m in inside.modules() if isinstance(m, Neuron)]
    gates = {m.gate for m in neurons if m.gate is not None and m.gate.skips}
    try:
        for gate in gates:
            gate.train()  # masks multiply, nothing is left out
        yield inside
    finally:
        for gate in gates:
            gate.eval()


def _staircase(neuron: ExpGIF) -> Staircase:
    """What the neuron's spikes stand for."""
    staircase = Staircase(neuron.code, channels=len(neuron.threshold) if neuron.threshold.dim() else None)
    staircase.threshold.data = neuron.threshold
    return staircase.eval()
