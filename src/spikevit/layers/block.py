"""Transformer blocks: a mixer of tokens and an MLP of channels, each added to what came in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from spikevit.layers.projection import MembraneLinear, SpikingLinear
from spikevit.neurons import Neurons, Stream


class SpikingMLP(nn.Module):
    """Two linear maps with batch norm and neurons, on the last axis of x (T, B, ..., C), hidden width `hidden`.

    LIF(BN(W2 · LIF(BN(W1 x)))): spikes; with `membrane` BN(W2 · LIF(BN(W1 · LIF(x)))): membrane potentials.
    """

    def __init__(self, dim: int, hidden: int, *, neuron: Neurons, bias: bool = True, membrane: bool = False):
        super().__init__()
        unit = MembraneLinear if membrane else SpikingLinear
        self.fc1 = unit(dim, hidden, bias=bias, neuron=neuron)
        self.fc2 = unit(hidden, dim, bias=bias, neuron=neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.fc2(self.fc1(x, stream), stream)


class Block(nn.Module):
    """x ← x + mixer(x); x ← x + MLP(x), for x (T, B, ..., C); in training each branch passes `drop_path`."""

    def __init__(self, attn: nn.Module, mlp: nn.Module, drop_path_rate: float = 0.0):
        super().__init__()
        self.attn = attn
        self.mlp = mlp
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = x + self._branch(self.attn, x, stream)
        return x + self._branch(self.mlp, x, stream)

    def _branch(self, branch: nn.Module, x: Tensor, stream: Stream | None) -> Tensor:
        y = branch(x, stream)
        return drop_path(y, self.drop_path_rate) if self.training and self.drop_path_rate else y

    def extra_repr(self) -> str:
        return f"drop_path_rate={self.drop_path_rate:.3g}" if self.drop_path_rate else ""


def drop_path(y: Tensor, rate: float) -> Tensor:
    """Stochastic depth of a residual branch y (T, B, …): y · k_b / (1 − p), k_b = 0 with probability p = rate, else 1.

    One draw a sample, the same at all its time steps. The factor 1 / (1 − p) is that of timm (`scale_by_keep`), and
    holds for branches of spikes as for membrane potentials: every stream then has in training the mean that it has in
    evaluation, which the running statistics of the batch norms behind it rest on. So where spikes are added, the stream
    holds multiples of 1 / (1 − p) in training; in evaluation nothing is dropped or scaled, and spikes are spikes.
    A stream that is trained step by step draws at every step. Source: Huang et al., ECCV 2016.
    """
    keep = torch.empty(1, y.shape[1], *(1,) * (y.dim() - 2), dtype=y.dtype, device=y.device).bernoulli_(1 - rate)
    return y * (keep / (1 - rate))


def drop_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """The rate of each block of each stage, linear in depth from 0 to `rate`, as timm has it."""
    last = max(1, sum(depths) - 1)
    rates = (rate * i / last for i in range(sum(depths)))
    return [list(islice(rates, depth)) for depth in depths]
