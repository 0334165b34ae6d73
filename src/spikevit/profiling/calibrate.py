"""Fresh weights that fire: batch norm statistics from images, for looking at models that were never trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikevit.profiling.finite import refuse_non_finite


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> nn.Module:
    """Sets the running statistics of every batch norm to those of one batch; returns the model, in evaluation mode.

    Raises:
        ValueError: images, weights or what they make of each other are not finite.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [bn.momentum for bn in norms]
    try:
        for bn in norms:
            bn.momentum = 1.0
        model.train()
        with refuse_non_finite(model) as finite:
            finite.see("images", images)
            finite.check()  # before statistics are made of them
            model(images)
    finally:
        for bn, momentum in zip(norms, before, strict=True):
            bn.momentum = momentum
        model.eval()
    return model
