"""Spikformer: When Spiking Neural Network Meets Transformer (Zhou et al., ICLR 2023, arXiv 2209.15425).

Spiking patch splitting, then blocks of spiking self-attention and MLP. Both branches of a block end in neurons,
so the residual stream is a sum of spikes (whole numbers, not binary).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from spikevit.layers import SpikingConv
from spikevit.models.encoder import Encoder, EncoderConfig, stride_of
from spikevit.models.registry import register
from spikevit.neurons import NeuronConfig, Stream


@dataclass(frozen=True)
class SpikformerConfig(EncoderConfig):
    """pools: behind which of the stem's four convolutions the map is halved.
    qkv_bias: the CIFAR code has biases there, the ImageNet code none.
    """

    pools: tuple[int, ...] = (0, 1, 2, 3)
    qkv_bias: bool = False


class PatchSplitting(nn.Module):
    """SPS (§3.2): four 3×3 convolutions to D/8, D/4, D/2, D, each BN, LIF [, max pool on the spikes]; then the
    relative position embedding x + LIF(BN(conv(x))). Maps (T, B, H, W, C) to (T, B, H', W', D).
    """

    def __init__(self, in_channels: int, dim: int, pools: tuple[int, ...], neuron: NeuronConfig):
        super().__init__()
        widths = [in_channels, dim // 8, dim // 4, dim // 2, dim]
        self.proj = nn.ModuleList(
            SpikingConv(widths[i], widths[i + 1], pool="spikes" if i in pools else None, neuron=neuron)
            for i in range(4)
        )
        self.rpe = SpikingConv(dim, dim, neuron=neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for proj in self.proj:
            x = proj(x, stream)
        return x + self.rpe(x, stream)


class Spikformer(Encoder):
    """x ← x + SSA(x); x ← x + MLP(x) (§3.1, eq. 3–4) on the tokens of SPS."""

    config: SpikformerConfig

    def __init__(self, config: SpikformerConfig):
        self.stride = stride_of(config.pools, (0, 1, 2, 3))
        stem = PatchSplitting(config.in_channels, config.embed_dim, config.pools, config.neuron)
        super().__init__(config, stem, mixer_options={"bias": config.qkv_bias})


_CIFAR = SpikformerConfig(num_classes=10, image_size=(32, 32), pools=(2, 3), qkv_bias=True)

# Published: 4-384 with 12 heads, 8-512 with 8, 8-768 with 12. The other head counts are not known: ours are of
# width 32 (CIFAR) and 64 (ImageNet); the number of parameters does not depend on them.
register("spikformer_4_256", Spikformer, _CIFAR, embed_dim=256, depth=4, num_heads=8)
register("spikformer_2_384", Spikformer, _CIFAR, embed_dim=384, depth=2, num_heads=12)
register("spikformer_4_384", Spikformer, _CIFAR, embed_dim=384, depth=4, num_heads=12)
register("spikformer_tiny", Spikformer, _CIFAR, embed_dim=64, depth=2, num_heads=4)
for _depth, _dim, _heads in ((8, 384, 6), (6, 512, 8), (8, 512, 8), (10, 512, 8), (8, 768, 12)):
    register(
        f"spikformer_{_depth}_{_dim}", Spikformer, SpikformerConfig(embed_dim=_dim, depth=_depth, num_heads=_heads)
    )
