"""Q-K attention (QKFormer, Zhou et al., NeurIPS 2024, §3.2): q decides by its sum which tokens or channels of k pass.

One binary mask, no v, no product of two matrices: the cost is linear in the number of tokens and of channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from spikevit.attention.ssa import check_heads
from spikevit.layers import SpikingLinear
from spikevit.neurons import NeuronConfig, Stream


class _QKAttention(nn.Module):
    """LIF(BN(W · (mask ⊙ k))), q, k = LIF(BN(W_qk x)) for x (T, B, ..., C); subclasses make the mask from q."""

    def __init__(self, dim: int, heads: int, *, neuron: NeuronConfig, threshold: float = 0.5):
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.qk = SpikingLinear(dim, 2 * dim, bias=False, neuron=neuron)
        self.attn_lif = neuron.build(threshold)
        self.proj = SpikingLinear(dim, dim, neuron=neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        q, k = self.qk(x.flatten(2, -2), stream).chunk(2, dim=-1)
        return self.proj(self.masked(q, k, stream).view(x.shape), stream)

    def masked(self, q: Tensor, k: Tensor, stream: Stream | None) -> Tensor:
        raise NotImplementedError


class QKTokenAttention(_QKAttention):
    """mask = LIF(Σ_channels q): per head, which tokens of k pass; spikes of the mask (T, B, N, heads)."""

    def masked(self, q: Tensor, k: Tensor, stream: Stream | None) -> Tensor:
        split = (self.heads, -1)
        mask = self.attn_lif(q.unflatten(-1, split).sum(-1), stream)
        return (mask.unsqueeze(-1) * k.unflatten(-1, split)).flatten(-2)


class QKChannelAttention(_QKAttention):
    """mask = LIF(Σ_tokens q): which channels of k pass; spikes of the mask (T, B, 1, C). Heads make no difference."""

    def masked(self, q: Tensor, k: Tensor, stream: Stream | None) -> Tensor:
        return self.attn_lif(q.sum(2, keepdim=True), stream) * k
