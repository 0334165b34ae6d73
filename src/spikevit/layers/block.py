"""Transformer blocks: a mixer of tokens and an MLP of channels, each added to what came in."""

from __future__ import annotations

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
    """x ← x + mixer(x); x ← x + MLP(x), for x (T, B, ..., C)."""

    def __init__(self, attn: nn.Module, mlp: nn.Module):
        super().__init__()
        self.attn = attn
        self.mlp = mlp

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = x + self.attn(x, stream)
        return x + self.mlp(x, stream)
