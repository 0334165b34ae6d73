"""Multi-scale spiking attention (MSViT), as its released code has it: Q-K attention with a third branch p.

The paper's fusion of scales is, in that code, this branch alone. Source: facts of the released code; the paper's text
was not used.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.attention.mixer import Mixer
from spikevit.layers.projection import batch_norm, folded, steps_apart
from spikevit.layers.tokens import apart, together
from spikevit.neurons import Neurons, Stream, build_neurons, needed


class TokenConv(nn.Module):
    """LIF(BN(conv(x))) along the tokens of x (T, B, N, C), all channels together; no bias.

    The convolution runs over the flattened tokens: it reaches from the end of a row to the start of the next.
    """

    def __init__(self, dim: int, kernel: int, *, neuron: Neurons):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, bias=False)
        self.bn: nn.BatchNorm1d | None = nn.BatchNorm1d(dim)
        self.lif = build_neurons(neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = together(needed(self.lif, x, stream), stream, positions=True)
        conv, bias = self.conv, self.conv.bias
        if self.bn is None or self.bn.training:
            currents = steps_apart(lambda m: conv(m.mT).mT, x, rest=bias)
        else:
            weight, bias = folded(conv, self.bn)
            currents = steps_apart(lambda m: F.conv1d(m.mT, weight, bias, padding=conv.padding).mT, x, rest=bias)
        currents = apart(currents, stream, positions=True)
        if self.bn is not None and self.bn.training:
            currents = batch_norm(self.bn, currents)
        return self.lif(currents, stream)


class MSTokenAttention(Mixer):
    """mask = LIF(Σ_channels q + Σ_channels p), p over `kernel` neighbouring tokens: which tokens of k pass, per head.

    `kernel` 3 in the CIFAR-10 and ImageNet code. Spikes of the mask (T, B, N, heads).
    """

    parts = ("q", "k")
    kernel = 3

    def __init__(self, dim: int, heads: int, *, neuron: Neurons, **options):
        super().__init__(dim, heads, neuron=neuron, **options)
        self.p = TokenConv(dim, self.kernel, neuron=neuron)

    def mix(self, parts: Tensor, x: Tensor, stream: Stream | None) -> Tensor:
        """mask ⊙ k."""
        q, k = parts.unflatten(-1, (2, self.heads, -1)).unbind(3)  # each (T, B, N, h, d)
        p = self.p(x, stream).unflatten(-1, (self.heads, -1))
        return (self.mask(q, p, stream) * k).flatten(3)

    def mask(self, q: Tensor, p: Tensor, stream: Stream | None) -> Tensor:
        """What q and p (T, B, N, h, d) let pass of k."""
        return self.attn_lif(q.sum(-1) + p.sum(-1), stream).unsqueeze(-1)


class MSChannelAttention(MSTokenAttention):
    """mask = LIF(Σ_channels q + p), p a plain projection: which channels of k pass at each token.

    The CIFAR-100 code. Spikes of the mask (T, B, N, heads, d).
    """

    kernel = 1

    def mask(self, q: Tensor, p: Tensor, stream: Stream | None) -> Tensor:
        """q is summed over the head's channels, p is not."""
        return self.attn_lif(q.sum(-1, keepdim=True) + p, stream)
