"""Spiking self-attention (SSA): q, k, v are spikes, there is no softmax (Zhou et al., Spikformer, ICLR 2023, §3.3)."""

from __future__ import annotations

from torch import Tensor

from spikevit.attention.mixer import Mixer
from spikevit.layers import LinearBN, SpikingLinear
from spikevit.layers.tokens import apart, together
from spikevit.neurons import Stream


def spike_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q kᵀ v · scale over the last two axes (N, d), in whichever product order costs less.

    Without a softmax the product is associative, and for spikes both orders are exact: q (kᵀ v) costs
    2·N·d² multiplications a head, (q kᵀ) v costs 2·N²·d.
    """
    tokens, width = q.shape[-2:]
    if tokens > width:
        return q @ (k.transpose(-2, -1) @ v * scale)
    return (q @ k.transpose(-2, -1) * scale) @ v


class SSA(Mixer):
    """out = proj_out(LIF(q kᵀ v · scale)), q, k, v = proj_in(x), head by head.

    Args:
        scale: constant, whatever the head width (0.125 in the original).
        legacy_batch_leak: a defect of published code, needed by its weights: the neurons of proj_out take time and
            batch for one axis of T·B steps, so that each image starts from the membrane of the image before it.
    """

    def __init__(self, dim: int, heads: int, *, scale: float = 0.125, legacy_batch_leak: bool = False, **options):
        super().__init__(dim, heads, **options)
        if legacy_batch_leak and self.lif is not None:
            raise ValueError(
                "legacy_batch_leak=True is a defect of neurons behind proj_out; membrane=True has none there"
            )
        self.scale = scale
        self.legacy_batch_leak = legacy_batch_leak

    def mix(self, parts: Tensor, x: Tensor, stream: Stream | None) -> Tensor:
        """The product, and its neurons."""
        parts = together(parts, stream)
        q, k, v = parts.unflatten(-1, (3, self.heads, -1)).transpose(2, 4).unbind(3)  # each (T, B, h, N, d)
        out = spike_attention(q, k, v, self.scale).transpose(2, 3).flatten(3)
        return self.attn_lif(apart(out, stream), stream)

    def project(self, x: Tensor, stream: Stream | None) -> Tensor:
        """proj_out; with the defect, its neurons' time axis is laid through the batch."""
        if not self.legacy_batch_leak:
            return super().project(x, stream)
        if stream is not None:
            raise ValueError("legacy_batch_leak=True lets images leak into each other and cannot run step by step")
        assert isinstance(self.proj_out, SpikingLinear)
        currents = LinearBN.forward(self.proj_out, x)
        return self.proj_out.lif(currents.flatten(0, 1)).unflatten(0, x.shape[:2])
