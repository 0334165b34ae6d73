"""Looking at neurons while a model runs: a hook per neuron, in firing order, that keeps nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.neurons import ExpGIF, Neuron, Staircase, dense
from spikevit.neurons.staircase import spike_count

FIRING = (Neuron, Staircase, ExpGIF)


def seen(neuron: nn.Module, out: Any) -> Tensor:
    """What neurons of any kind sent: spikes (T, …), or the codes of a staircase."""
    if isinstance(neuron, Staircase):
        return (out / neuron.quantum).round_().to(neuron.code.dtype)
    if isinstance(neuron, ExpGIF):
        steps = out.steps
        return steps[:, 0] if steps.dim() > 2 and steps.shape[1] == 1 else steps
    return dense(out)


def fired(neuron: nn.Module, out: Any) -> tuple[int, int]:
    """How many spikes that is, or stands for, and of how many (step, neuron) cells."""
    sent = seen(neuron, out)
    if isinstance(neuron, Staircase):
        return int(spike_count(sent, neuron.code).sum()), sent.numel() * neuron.code.time_steps
    return int(sent.count_nonzero()), sent.numel()


@contextmanager
def observe(model: nn.Module, fn: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within the context, calls fn(name, spikes) each time a neuron of the model has fired.

    name is the neuron's module name, spikes its output (T, B, …), not copied. Of a converted network T is the layer's
    own; a staircase network has codes (1, B, …), whole numbers, instead. The hooks go with the context.
    """

    def hook(name: str):
        def look(module, _args, out) -> None:  # what a hook returns would take the place of the spikes
            fn(name, seen(module, out))

        return look

    handles = [
        module.register_forward_hook(hook(name)) for name, module in model.named_modules() if isinstance(module, FIRING)
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
    total: dict[str, list[int]] = {}

    def hook(name: str):
        def count(module, _args, out) -> None:
            total.setdefault(name, [0, 0])
            for i, n in enumerate(fired(module, out)):
                total[name][i] += n

        return count

    with torch.no_grad(), ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, FIRING):
                stack.callback(module.register_forward_hook(hook(name)).remove)
        for images in batches:
            model(images)
    return {name: n / cells for name, (n, cells) in total.items()}
