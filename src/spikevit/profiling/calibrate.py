"""Running statistics of batch norm from images, for the weights as they are: all layers of them, at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.profiling.finite import Finite, refuse_non_finite


def calibrate(model: nn.Module, images: Tensor | Iterable[Tensor]) -> nn.Module:
    """Sets the running statistics of every batch norm to those of these images; returns the model, in evaluation mode.

    For weights whose running statistics do not fit: fresh ones, whose neurons are silent until they do, those of a
    training of few steps, or of other images.

    Args:
        images: one batch, or batches, of which statistics are the mean.

    Raises:
        ValueError: images, weights or what they make of each other are not finite.
    """
    try:
        model.train()
        with refuse_non_finite(model) as finite:
            re_estimate(model, _seen([images] if isinstance(images, Tensor) else images, finite))
    finally:
        model.eval()
    return model


def _seen(batches: Iterable[Tensor], finite: Finite) -> Iterator[Tensor]:
    for images in batches:
        finite.see("images", images)
        finite.check()  # before statistics are made of them
        yield images


@torch.no_grad()
def re_estimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets running mean and variance of every batch norm in training mode to the mean of theirs over the batches.

        μ = Σ_b μ_b / B        σ² = Σ_b σ²_b / B        over B batches, all of the same weights

    Running averages, x ← 0.9·x + 0.1·x_b from μ = 0 and σ² = 1, are of the weights of the last dozens of steps, and
    a share of 0.9ⁿ of them is where they began (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3).
    """
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    was = [(bn.momentum, bn.num_batches_tracked) for bn in norms]
    try:
        for bn in norms:
            bn.momentum, bn.num_batches_tracked = None, torch.zeros_like(bn.num_batches_tracked)  # a plain mean
        for images in batches:
            model(images)
    finally:
        for bn, (momentum, batches_tracked) in zip(norms, was, strict=True):
            bn.momentum, bn.num_batches_tracked = momentum, batches_tracked
