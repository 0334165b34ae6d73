"""Spiking token mixing (STMixer): one learnt N × N matrix a head instead of attention; no product of two spikes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikevit.attention.mixer import Mixer
from spikevit.layers.tokens import apart, together
from spikevit.neurons import Stream


class TokenMixing(nn.Module):
    """y_n = Σ_m W_h[n, m] x_m for the channels of head h, on x (T, B, N, C): no bias, no batch norm, no scale."""

    def __init__(self, tokens: int, heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, tokens, tokens))
        for head in self.weight:
            nn.init.kaiming_normal_(head, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        heads, tokens, _ = self.weight.shape
        if x.shape[2] != tokens:
            raise ValueError(f"token mixing has weights for {tokens} tokens, not {x.shape[2]}: set image_size for them")
        grouped = x.unflatten(-1, (heads, -1)).movedim(3, 2)  # (T, B, h, N, d)
        return (self.weight @ grouped).movedim(2, 3).flatten(3)


class SpikingTokenMixer(Mixer):
    """out = proj_out(LIF(STM(proj_in(x)))): the number of tokens is fixed by the image size."""

    parts = ("v",)

    def __init__(self, dim: int, heads: int, *, tokens: int | None = None, **options):
        super().__init__(dim, heads, **options)
        if tokens is None:
            raise ValueError("token mixing needs tokens=N, the number of tokens it mixes")
        self.mixing = TokenMixing(tokens, heads)

    def mix(self, parts: Tensor, x: Tensor, stream: Stream | None) -> Tensor:
        """STM, and neurons on what it gives."""
        mixed = self.mixing(together(parts, stream, positions=True))
        return self.attn_lif(apart(mixed, stream, positions=True), stream)
