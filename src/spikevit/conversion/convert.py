"""Conversion: every staircase becomes the neurons it was trained for; nothing else changes but what carries values.

The reference and its spiking copy share their wiring and their weights, and no arithmetic: staircases against
charge and fire, products of values against additions of spikes step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from fnmatch import fnmatchcase
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.conversion.certificate import Certificate, certify
from spikevit.conversion.proof import ITSELF, Proof, holds, running
from spikevit.conversion.quantise import staircases_of
from spikevit.layers.grid import FLOAT64, OnGrid
from spikevit.neurons import ExpG, Neuron, NotConvertible, Staircase
from spikevit.neurons.expg import spiking_
from spikevit.profiling.count import count
from spikevit.profiling.counts import Counts
from spikevit.profiling.values import REAL
from spikevit.schema import Count, fit, of_kind, wrong

# What may stand between neurons: linear, without weights of its own.
LINEAR = frozenset(["add", "sub", "neg", "mean", "sum", "mul", "div", "shift", "rsub", "average pool", "batch norm"])
NEURONS = ("staircase", "neuron")  # origins
Code = tuple[int, int] | tuple[int, int, str]


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
            rounding: the certificate says which, and why. It is not changed.
        data: images (N, ...), or an iterable of batches of them (or of (images, labels)), normalised as in training.
        codes: (n, G), or (n, G, order) as in `ExpG`, for layers of neurons by name, shell patterns welcome, where it is
            not the staircase's own; the levels L = G·(2^n − 1) must be the same.

    Returns:
        The network that spikes, in evaluation mode, and its certificate on `data`.

    Raises:
        ValueError: no data; nothing to convert; in exact mode, sums that no accumulator holds; what cannot be converted
            without loss, with its module: softmax, layer norm, GELU, max pool and the like.
    """
    staircases_of(model, "convert")
    batches = list(image_batches(data, batch_size))
    if not batches:
        raise ValueError("data holds no images: conversion is certified on some, such as those of the test set")
    reference = deepcopy(model).eval()
    counts = count(reference, batches[0][:2])
    _refuse(reference, counts)
    _make_room_(reference, batches[0][:2])
    spiking: Any = spiking_(deepcopy(reference), _codes_of(reference, codes or {}))
    _try(spiking, batches[0][:2])
    config: Any = getattr(spiking, "config", None)
    if hasattr(config, "spikes"):
        layers = ((name, m.code) for name, m in spiking.named_modules() if hasattr(m, "fire"))
        spiking.config = replace(config, spikes=tuple((name, *c.plain) for name, c in layers))
    return spiking, certify(reference, spiking, batches)


def image_batches(data: Tensor | Iterable[Any] | None, batch_size: int) -> Iterator[Tensor]:
    """Images, batch by batch, of a tensor, or of batches of images or of (images, labels)."""
    fit(batch_size, Count, "batch_size")
    if isinstance(data, Tensor):
        yield from data.split(batch_size) if len(data) else ()
    else:
        for batch in data if data is not None else ():
            yield batch[0] if isinstance(batch, (list, tuple)) else batch


def _codes_of(model: nn.Module, codes: Mapping[str, tuple[int, int] | tuple[int, int, str]]) -> dict[str, ExpG]:
    """The code of every layer of neurons by name, those of `codes` where a pattern fits."""
    chosen: dict[str, ExpG] = {}
    names = [name for name, m in model.named_modules() if isinstance(m, Staircase)]
    for pattern, code in of_kind("codes", codes, Mapping, "a mapping: {layer: (n, G)}").items():
        try:
            code = fit(code, Code, "code")
        except ValueError:
            raise wrong(f"codes[{pattern!r}]", code, "(n, G), such as (2, 5), or (n, G, order)") from None
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"codes[{pattern!r}]: no layer of neurons is called that, but e.g. {', '.join(names[:3])}")
        chosen |= dict.fromkeys(found, ExpG(*code))
    return chosen


def _refuse(model: nn.Module, counts: Counts) -> None:
    """Stops at the first thing that spikes cannot carry."""

    def refusal(module: str, what: str) -> ValueError:
        where = module or ITSELF
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


def _make_room_(model: nn.Module, images: Tensor) -> None:
    """Layers on a grid take float64 where their input is larger than the codes they were made for, as of pools.

    So do those that see the image, which may lie on any grid. What not even float64 holds is refused in exact mode.
    """
    proof = Proof(model)
    proof.look(images)
    proof.conclude()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, OnGrid)}
    for name, s in proof.sums.items():
        if name in layers and (s.image or s.bound > holds(s.type)):
            layers[name].levels = None
        if layers and FLOAT64 < s.bound < inf and not s.image:
            raise ValueError(
                f"{name or ITSELF}: sums up to {s.bound:.3g} units need more than the 2^53 that float64 holds exactly; "
                "take fewer levels, G·(2^n − 1)"
            )


@torch.no_grad()
def _try(spiking: nn.Module, images: Tensor) -> None:
    """Runs the network once, to name the module in which spikes meet what they cannot carry."""
    with running(spiking) as names:
        try:
            spiking(images)
        except (NotConvertible, AttributeError, TypeError) as error:
            where = names[-1] or ITSELF
            raise ValueError(f"{where} cannot be converted without loss: {error}") from error
