"""Q-K attention (QKFormer, Zhou et al., NeurIPS 2024, §3.2): q decides by its sum which tokens or channels of k pass.

One binary mask, no v, no product of two matrices: the cost is linear in the number of tokens and of channels.
"""

from __future__ import annotations

from torch import Tensor

from spikevit.attention.mixer import Mixer
from spikevit.neurons import Stream


class QKTokenAttention(Mixer):
    """mask = LIF(Σ_channels q): per head, which tokens of k pass; spikes of the mask (T, B, N, heads)."""

    parts = ("q", "k")

    def mix(self, parts: Tensor, x: Tensor, stream: Stream | None) -> Tensor:
        """mask ⊙ k."""
        q, k = parts.unflatten(-1, (2, self.heads, -1)).unbind(3)
        mask = self.attn_lif(q.sum(-1), stream)
        return (mask.unsqueeze(-1) * k).flatten(3)


class QKChannelAttention(Mixer):
    """mask = LIF(Σ_tokens q): which channels of k pass; spikes of the mask (T, B, 1, C). Heads make no difference."""

    parts = ("q", "k")

    def mix(self, parts: Tensor, x: Tensor, stream: Stream | None) -> Tensor:
        """mask ⊙ k."""
        q, k = parts.chunk(2, dim=-1)
        return self.attn_lif(q.sum(2, keepdim=True), stream) * k
