"""Batch norm folded into the weights for good: a model to look at or hand over, without norms of its own."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import nn

from spikevit.layers.projection import folded

Model = TypeVar("Model", bound=nn.Module)


def fold_batch_norm(model: Model) -> Model:
    """A copy of the model in evaluation mode whose linear maps and convolutions hold the batch norm behind them.

    What the layers of `projection` do on every evaluation is written into weight and bias once, and their `bn` is
    None: each runs as one nn.Linear or nn.Conv module, whose hooks see it. Same logits, same spikes.

    It is for evaluation. `train()` brings no norm back: the copy would learn as a network that has none. Its tensors
    are not those of the model's config, so that a checkpoint of it cannot be loaded again.

    A unit is any module with a batch norm `bn` behind its `linear` or `conv`; its forward must allow `bn` to be None.
    """
    return fold_batch_norm_(deepcopy(model).eval())


def fold_batch_norm_(model: Model) -> Model:
    """The same in place."""
    unit: Any
    for unit in model.modules():
        bn, layer = getattr(unit, "bn", None), getattr(unit, "linear", getattr(unit, "conv", None))
        if isinstance(bn, nn.BatchNorm1d) and isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            with torch.no_grad():
                weight, bias = folded(layer, bn)
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
            unit.bn = None
    return model
