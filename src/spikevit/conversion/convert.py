"""Conversion: every staircase becomes the neurons it was trained for; nothing else changes but what carries values.

The reference and its spiking copy share their wiring and their weights, and no arithmetic: staircases against
charge and fire, products of values against additions of spikes step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.attention.groupwise import GroupwiseSSA
from spikevit.conversion.certificate import Certificate, certify
from spikevit.layers.grid import FLOAT32, FLOAT64, OnGrid
from spikevit.neurons import ExpG, Neuron, NotConvertible, Staircase
from spikevit.neurons.expg import spiking_
from spikevit.profiling.count import Counts, count
from spikevit.profiling.values import REAL

# What may stand between neurons: linear, without weights of its own.
LINEAR = frozenset(["add", "sub", "neg", "mean", "sum", "mul", "div", "shift", "rsub", "average pool", "batch norm"])
NEURONS = ("staircase", "neuron")  # origins


def convert(
    model: nn.Module,
    data: Tensor | Iterable[Any],
    *,
    codes: Mapping[str, tuple[int, int] | tuple[int, int, str]] | None = None,
    batch_size: int = 64,
) -> tuple[Any, Certificate]:
    """The spiking copy of a staircase network, and the certificate that it computes the same.

    Args:
        model: any network of linear maps, convolutions, batch norm, average pools, residual sums and products of
            activations with `Staircase` neurons; in exact mode (`quantise`) equality is a matter of proof, else of
            rounding. It is not changed.
        data: images (N, ...), or an iterable of batches of them (or of (images, labels)), normalised as in training.
        codes: (n, G), or (n, G, order) as in `ExpG`, for layers of neurons by name, shell patterns welcome, where it is
            not the staircase's own; the levels L = G·(2^n − 1) must be the same.

    Returns:
        The network that spikes, in evaluation mode, and its certificate on `data`.

    Raises:
        ValueError: no data; nothing to convert; sums that no accumulator holds; what cannot be converted without
            loss, with its module: softmax, layer norm, GELU, max pool and the like.
    """
    batches = list(image_batches(data, batch_size))
    if not batches:
        raise ValueError("data holds no images: conversion is certified on some, such as those of the test set")
    if not any(isinstance(m, Staircase) for m in model.modules()):
        raise ValueError(f"{type(model).__name__} has no staircase neurons: there is nothing to convert")
    reference = deepcopy(model).eval()
    counts = count(reference, batches[0][:2])
    _refuse(reference, counts)
    _sum_in_float64_(reference, counts)
    _check_accumulators(reference)
    spiking: Any = spiking_(deepcopy(reference), _codes_of(reference, codes or {}))
    _try(spiking, batches[0][:2])
    config: Any = getattr(spiking, "config", None)
    if hasattr(config, "spikes"):
        layers = ((name, m.code) for name, m in spiking.named_modules() if hasattr(m, "fire"))
        spiking.config = replace(config, spikes=tuple((name, *c.plain) for name, c in layers))
    return spiking, certify(reference, spiking, batches)


def image_batches(data: Tensor | Iterable[Any] | None, batch_size: int) -> Iterator[Tensor]:
    """Images, batch by batch, of a tensor, or of batches of images or of (images, labels)."""
    if isinstance(data, Tensor):
        yield from data.split(batch_size) if len(data) else ()
    else:
        for batch in data if data is not None else ():
            yield batch[0] if isinstance(batch, (list, tuple)) else batch


def _codes_of(model: nn.Module, codes: Mapping[str, tuple[int, int] | tuple[int, int, str]]) -> dict[str, ExpG]:
    """The code of every layer of neurons by name, those of `codes` where a pattern fits."""
    chosen: dict[str, ExpG] = {}
    names = [name for name, m in model.named_modules() if isinstance(m, Staircase)]
    for pattern, code in codes.items():
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"codes[{pattern!r}]: no layer of neurons is called that, but e.g. {', '.join(names[:3])}")
        chosen |= dict.fromkeys(found, ExpG(*code))
    return chosen


def _refuse(model: nn.Module, counts: Counts) -> None:
    """Stops at the first thing that spikes cannot carry."""

    def refusal(module: str, what: str) -> ValueError:
        where = module or "the model itself"
        return ValueError(
            f"{where} cannot be converted without loss: {what}; put Staircase neurons there, or leave it out"
        )

    for name, m in model.named_modules():
        if isinstance(m, Neuron):
            raise refusal(name, f"{type(m).__name__} neurons have a time axis of their own")
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is None:
            raise refusal(name, f"{type(m).__name__} normalises by statistics of its input")
    for other in [*counts.uncounted, *counts.elementwise]:
        if other.origin.operator == "image":
            continue
        if other.operator not in LINEAR:
            raise refusal(other.module, f"{other.operator} is not linear, and no neurons")
        if other.remark == "of activations":
            raise refusal(other.module, f"{other.operator} of two activations that are not both spikes is not linear")
    for c in counts.operators:
        if len(c.operands) > 1 and not any(o.origin.operator in NEURONS or o.kind.name != REAL for o in c.operands):
            raise refusal(c.module, f"{c.operator} of two activations, neither of which is spikes, is not linear")


def _sum_in_float64_(model: nn.Module, counts: Counts) -> None:
    """Layers on a grid whose input is not the codes of neurons, so that their bound does not hold."""
    modules = dict(model.named_modules())
    for c in counts.operators:
        layer = modules[c.module]
        if isinstance(layer, OnGrid) and any(o.origin.operator not in NEURONS for o in c.operands):
            layer.levels = None


@torch.no_grad()
def _try(spiking: nn.Module, images: Tensor) -> None:
    """Runs the network once, to name the module in which spikes meet what they cannot carry."""
    running = [""]
    with ExitStack() as stack:
        for name, m in spiking.named_modules():
            stack.callback(m.register_forward_pre_hook(lambda *_, name=name: running.append(name)).remove)
            stack.callback(m.register_forward_hook(lambda *_: running.pop() and None).remove)
        try:
            spiking(images)
        except (NotConvertible, AttributeError, TypeError) as error:
            where = running[-1] or "the model itself"
            raise ValueError(f"{where} cannot be converted without loss: {error}") from error


def accumulators(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Of every product in exact mode and of attention: the largest sum in units of its grid, and what holds it."""
    found: dict[str, dict[str, Any]] = {}
    for name, m in model.named_modules():
        if isinstance(m, OnGrid):
            bound = m.bound()
            found[name] = {"bound": bound, "type": str(m.accumulates_in).removeprefix("torch.")}
        elif isinstance(m, GroupwiseSSA) and m.grid:
            levels = getattr(m.proj_in.lif, "code", ExpG(1)).levels
            tokens = max((side or max(m.grid)) ** 2 for side in m.windows)
            width = m.proj_out.linear.in_features // m.heads
            bound = width * tokens * levels**3
            found[name] = {"bound": bound, "type": "float32" if bound <= FLOAT32 else "float64"}
    return found


def _check_accumulators(model: nn.Module) -> None:
    for name, accumulator in accumulators(model).items():
        if (accumulator["bound"] or 0) > FLOAT64:
            raise ValueError(
                f"{name}: sums up to {accumulator['bound']:.3g} units need more than the 2^53 that float64 holds "
                "exactly; take fewer levels, G·(2^n − 1)"
            )
