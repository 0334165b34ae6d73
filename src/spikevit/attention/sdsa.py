"""Spike-driven self-attention (SDSA; Yao et al., Spike-driven Transformer, NeurIPS 2023, §3.3): masks and additions."""

from __future__ import annotations

from torch import Tensor

from spikevit.attention.mixer import Mixer
from spikevit.neurons import Stream


class SDSA(Mixer):
    """out = proj_out(q ⊙ LIF(Σ_tokens k ⊙ v)): which channels of q pass; spikes of the mask (T, B, 1, C).

    No product of matrices, no scale. Heads make no difference.
    """

    def mix(self, parts: Tensor, x: Tensor, stream: Stream | None) -> Tensor:
        """q ⊙ mask."""
        q, k, v = parts.chunk(3, dim=-1)
        return q * self.attn_lif((k * v).sum(2, keepdim=True), stream)
