"""Running statistics of batch norm from images, for the weights as they are: all layers of them, at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.models.running import inputs_of, network
from spikevit.profiling.finite import Finite, refuse_non_finite


def calibrate(model: nn.Module, images: Tensor | Iterable[Tensor]) -> nn.Module:
    """Sets the running statistics of every batch norm to those of these images; returns the model, in evaluation mode.

    For weights whose running statistics do not fit: fresh ones, whose neurons are silent until they do, those of a
    training of few steps, or of other images.

    Args:
        images: one batch, or batches, as in `count`, of which statistics are the mean.

    Raises:
        ValueError: no images; images, weights or what they make of each other are not finite.
    """
    network(model)
    try:
        model.train()
        with refuse_non_finite(model) as finite:
            if not re_estimate(model, _seen(model, images, finite)):
                raise ValueError("data holds no images: statistics are made of at least one batch")
    finally:
        model.eval()
    return model


def _seen(model: nn.Module, batches: Tensor | Iterable[Any], finite: Finite) -> Iterator[tuple[Any, ...]]:
    for inputs in inputs_of(model, batches):
        finite.see("images", inputs[0])
        finite.check()  # before statistics are made of them
        yield inputs


@torch.no_grad()
def re_estimate(model: nn.Module, batches: Iterable[Any]) -> int:
    """Sets running mean and variance of every batch norm in training mode to the mean of theirs over the batches.

    A batch is a tensor, or a tuple of all arguments of the model. Returns how many there were.

        μ = Σ_b μ_b / B        σ² = Σ_b σ²_b / B        over B batches, all of the same weights

    Running averages, x ← 0.9·x + 0.1·x_b from μ = 0 and σ² = 1, are of the weights of the last dozens of steps, and
    a share of 0.9ⁿ of them is where they began (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3).
    """
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    seen = 0
    was = [(bn.momentum, bn.num_batches_tracked) for bn in norms]
    try:
        for bn in norms:
            bn.momentum, bn.num_batches_tracked = None, torch.zeros_like(bn.num_batches_tracked)  # a plain mean
        for batch in batches:
            model(*batch) if isinstance(batch, tuple) else model(batch)
            seen += 1
    finally:
        for bn, (momentum, batches_tracked) in zip(norms, was, strict=True):
            bn.momentum, bn.num_batches_tracked = momentum, batches_tracked
    return seen
