"""Channel MLP of spiking transformers: two linear maps, each with batch norm and neurons."""

from __future__ import annotations

from torch import Tensor, nn

from spikevit.layers.projection import SpikingLinear
from spikevit.neurons import NeuronConfig, Stream


class SpikingMLP(nn.Module):
    """LIF(BN(W2 · LIF(BN(W1 x)))) on the last axis of x (T, B, ..., C), hidden width `hidden`."""

    def __init__(self, dim: int, hidden: int, *, neuron: NeuronConfig):
        super().__init__()
        self.fc1 = SpikingLinear(dim, hidden, neuron=neuron)
        self.fc2 = SpikingLinear(hidden, dim, neuron=neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.fc2(self.fc1(x, stream), stream)
