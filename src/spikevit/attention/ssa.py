"""Spiking self-attention (SSA): q, k, v are spikes, there is no softmax (Zhou et al., Spikformer, ICLR 2023, §3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from spikevit.layers import LinearBN, SpikingLinear
from spikevit.neurons import NeuronConfig, Stream


def check_heads(dim: int, heads: int) -> None:
    """Heads must divide the width."""
    if heads < 1 or dim % heads:
        fits = [h for h in range(1, dim + 1) if dim % h == 0]
        raise ValueError(f"num_heads={heads} does not divide the width {dim}; these do: {fits}")


def spike_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q kᵀ v · scale over the last two axes (N, d), in whichever product order costs less.

    Without a softmax the product is associative, and for spikes both orders are exact: q (kᵀ v) costs
    2·N·d² multiplications a head, (q kᵀ) v costs 2·N²·d.
    """
    tokens, width = q.shape[-2:]
    if tokens > width:
        return q @ (k.transpose(-2, -1) @ v * scale)
    return (q @ k.transpose(-2, -1) * scale) @ v


class SSA(nn.Module):
    """out = LIF(BN(W · LIF(q kᵀ v · scale))) with q, k, v = LIF(BN(W_qkv x)), x (T, B, ..., C), heads over C.

    The three projections are one matrix and one call of neurons, in the order q, k, v.

    Args:
        scale: constant, whatever the head width (0.125 in the original).
        threshold: of the neurons behind the product (0.5 in the original).
        qkv_bias: bias of the three projections.
        legacy_batch_leak: a defect of published code, needed by its weights: the last neurons take time and
            batch for one axis of T·B steps, so that each image starts from the membrane of the image before it.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        neuron: NeuronConfig,
        qkv_bias: bool = False,
        scale: float = 0.125,
        threshold: float = 0.5,
        legacy_batch_leak: bool = False,
    ):
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.scale = scale
        self.legacy_batch_leak = legacy_batch_leak
        self.qkv = SpikingLinear(dim, 3 * dim, bias=qkv_bias, neuron=neuron)
        self.attn_lif = neuron.build(threshold)
        self.proj = SpikingLinear(dim, dim, neuron=neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        tokens = x.flatten(2, -2)
        qkv = self.qkv(tokens, stream).unflatten(-1, (3, self.heads, -1)).transpose(2, 4)  # (T, B, h, 3, N, d)
        q, k, v = qkv.unbind(3)
        out = spike_attention(q, k, v, self.scale).transpose(2, 3).flatten(3)
        out = self.attn_lif(out, stream).view(x.shape)
        return self.leaky_proj(out, stream) if self.legacy_batch_leak else self.proj(out, stream)

    def leaky_proj(self, x: Tensor, stream: Stream | None) -> Tensor:
        """`proj` with the neurons' time axis laid through the batch (see `legacy_batch_leak`)."""
        if stream is not None:
            raise ValueError("legacy_batch_leak=True lets images leak into each other and cannot run step by step")
        currents = LinearBN.forward(self.proj, x)
        return self.proj.lif(currents.flatten(0, 1)).unflatten(0, x.shape[:2])
