"""Conversion: every staircase becomes the neurons it was trained for; nothing else changes but what carries values.

The reference and its spiking copy share their wiring and their weights, and no arithmetic: staircases against
charge and fire, products of values against additions of spikes step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from spikevit.attention.groupwise import GroupwiseSSA
from spikevit.conversion.certificate import Certificate, certify
from spikevit.layers.grid import FLOAT32, FLOAT64, OnGrid
from spikevit.neurons import ExpG, Staircase
from spikevit.neurons.expg import spiking_
from spikevit.profiling.count import Counts, count

# What may stand between neurons: linear, without weights of its own.
LINEAR = frozenset(["add", "sub", "neg", "mean", "sum", "mul", "div", "round", "rsub"]) | {"average pool", "batch norm"}


def convert(
    model: nn.Module,
    data: Tensor | Iterable[Any],
    *,
    codes: Mapping[str, tuple[int, int]] | None = None,
    batch_size: int = 64,
) -> tuple[Any, Certificate]:
    """The spiking copy of a staircase network, and the certificate that it computes the same.

    Args:
        model: any network of linear maps, convolutions, batch norm, average pools, residual sums and products of
            activations with `Staircase` neurons; in exact mode (`quantise`) equality is a matter of proof, else of
            rounding. It is not changed.
        data: images (N, ...), or an iterable of batches of them (or of (images, labels)), normalised as in training.
        codes: (n, G) for layers of neurons by name, shell patterns welcome, where it is not the staircase's own; the
            levels L = G·(2^n − 1) must be the same.

    Returns:
        The network that spikes, in evaluation mode, and its certificate on `data`.

    Raises:
        ValueError: no data; nothing to convert; sums that no accumulator holds; what cannot be converted without
            loss, with its module: softmax, layer norm, GELU, max pool and the like.
    """
    batches = _batches(data, batch_size)
    if not any(isinstance(m, Staircase) for m in model.modules()):
        raise ValueError(f"{type(model).__name__} has no staircase neurons: there is nothing to convert")
    reference = deepcopy(model).eval()
    _refuse(count(reference, batches[0][:2]))
    _check_accumulators(reference)
    spiking = spiking_(deepcopy(reference), _codes_of(reference, codes or {}))
    config = getattr(spiking, "config", None)
    if hasattr(config, "spikes"):
        layers = ((name, m.code) for name, m in spiking.named_modules() if hasattr(m, "fire"))
        spiking.config = replace(config, spikes=tuple((name, c.steps, c.groups) for name, c in layers))
    return spiking, certify(reference, spiking, batches)


def _batches(data: Tensor | Iterable[Any], batch_size: int) -> list[Tensor]:
    """All images, in batches."""
    if isinstance(data, Tensor):
        batches = list(data.split(batch_size)) if len(data) else []
    elif data is None:
        batches = []
    else:
        batches = [batch[0] if isinstance(batch, (list, tuple)) else batch for batch in data]
    if not batches:
        raise ValueError("data holds no images: conversion is certified on some, such as those of the test set")
    return batches


def _codes_of(model: nn.Module, codes: Mapping[str, tuple[int, int]]) -> dict[str, ExpG]:
    """The code of every layer of neurons by name, those of `codes` where a pattern fits."""
    chosen = {}
    names = [name for name, m in model.named_modules() if isinstance(m, Staircase)]
    for pattern, (steps, groups) in codes.items():
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"codes[{pattern!r}]: no layer of neurons is called that, but e.g. {', '.join(names[:3])}")
        chosen |= dict.fromkeys(found, ExpG(steps, groups))
    return chosen


def _refuse(counts: Counts) -> None:
    """Stops at the first operator that spikes cannot carry."""
    for other in [*counts.uncounted, *counts.elementwise]:
        if other.operator not in LINEAR and other.origin.operator != "image":
            where = other.module or "the model itself"
            raise ValueError(
                f"{where} cannot be converted without loss: {other.operator} is not linear, and no neurons; "
                "put Staircase neurons there, or leave it out"
            )


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
