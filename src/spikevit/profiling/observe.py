"""Looking at neurons while a model runs: a hook per neuron, in firing order, that keeps nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spikevit.neurons import Neuron


@contextmanager
def observe(model: nn.Module, fn: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within the context, calls fn(name, spikes) each time a neuron of the model has fired.

    name is the neuron's module name, spikes its output (T, B, …), not copied. The hooks go with the context.
    """

    def hook(name: str):
        def look(_module, _args, spikes) -> None:  # what a hook returns would take the place of the spikes
            fn(name, spikes)

        return look

    handles = [
        module.register_forward_hook(hook(name)) for name, module in model.named_modules() if isinstance(module, Neuron)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def record_spikes(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Every neuron's spikes (T, B, …) for one batch, by module name in firing order; no gradients.

    The model runs in the mode (train or eval) it is in. Everything is kept at once: for rates use `firing_rates`.
    """
    spikes: dict[str, Tensor] = {}
    with torch.no_grad(), observe(model, spikes.__setitem__):
        model(images)
    return spikes


def firing_rates(model: nn.Module, batches) -> dict[str, float]:
    """Share of (step, neuron) cells that fired, by module name, over all batches of images; keeps only counts."""
    fired: dict[str, list[int]] = {}

    def count(name: str, spikes: Tensor) -> None:
        total = fired.setdefault(name, [0, 0])
        total[0] += int(spikes.count_nonzero())
        total[1] += spikes.numel()

    with torch.no_grad(), observe(model, count):
        for images in batches:
            model(images)
    return {name: n / cells for name, (n, cells) in fired.items()}
