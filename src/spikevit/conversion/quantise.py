"""Exact mode: batch norm folded, weights and thresholds on power-of-two grids, ready for a last fine-tuning."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spikevit.layers.fold import fold_batch_norm_
from spikevit.layers.grid import on_grid_, on_input_grid
from spikevit.models.running import network
from spikevit.neurons import ExpGIF, Staircase


def staircases_of(model: Any, what: str) -> list[Staircase]:
    """The layers of staircase neurons of a network, of which `what`, such as "convert", needs one."""
    found = [m for m in network(model).modules() if isinstance(m, Staircase)]
    if not found:
        spikes = any(isinstance(m, ExpGIF) for m in model.modules())
        how = "its neurons spike already" if spikes else "models of Ge2mS-T have such, as ge2mst_tiny does"
        raise ValueError(f"{type(model).__name__} has no staircase neurons: there is nothing to {what}; {how}")
    return found


def quantise(model: nn.Module, bits: int = 8) -> Any:
    """A copy of a staircase network in exact mode: its sums are exact, so that conversion is, on every device.

    Batch norm is folded into the weights; weights get `bits` bits on a power-of-two grid for each output channel,
    biases a finer one; thresholds become L · 2^e. The copy learns on, straight-through: fine-tune it as it is.

    Raises:
        ValueError: no staircases, layers without a grid, batch norm that is not folded (torch.nn.utils.fusion does).
    """
    staircases_of(model, "quantise for")
    copy: Any = fold_batch_norm_(deepcopy(model).eval())
    staircases = [m for m in copy.modules() if isinstance(m, Staircase)]
    for neuron in staircases:
        neuron.power_of_two = True
    on_grid_(copy, bits, max(neuron.code.levels for neuron in staircases))
    config: Any = getattr(copy, "config", None)
    if hasattr(config, "grid_bits"):
        copy.config = replace(config, grid_bits=bits, power_of_two=True)
    return copy


class InputGrid(nn.Module):
    """x rounded to multiples of 2^(−bits): in front of a network of your own, so that its first sums are exact."""

    def __init__(self, bits: int = 6):
        super().__init__()
        self.bits = bits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return on_input_grid(x, self.bits)
