"""Spikingformer: Spike-driven Residual Learning for Transformer-based SNN (Zhou et al., 2023, arXiv 2304.11954).

Pre-activation: neurons stand in front of every convolution and linear map, and residuals add membrane potentials, so
that every one of them but the first convolution sees binary spikes. Head on the real-valued stream.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from spikevit.layers import ConvBN, MembraneConv
from spikevit.models.encoder import Encoder, EncoderConfig, stride_of
from spikevit.models.registry import register
from spikevit.neurons import NeuronConfig, Stream


@dataclass(frozen=True)
class SpikingformerConfig(EncoderConfig):
    """pools: ahead of which of the stem's convolutions 1 … 4 (0 sees the image) spikes are pooled."""

    pools: tuple[int, ...] = (1, 2, 3, 4)


class Tokenizer(nn.Module):
    """Five 3×3 convolutions to D/8, D/4, D/2, D, D with batch norm: the first on the image, each other one behind
    neurons [and a max pool on their spikes]. Maps (T, B, H, W, C) to membrane potentials (T, B, H', W', D).
    """

    def __init__(self, in_channels: int, dim: int, pools: tuple[int, ...], neuron: NeuronConfig):
        super().__init__()
        widths = [dim // 8, dim // 4, dim // 2, dim, dim]
        self.first = ConvBN(in_channels, widths[0])
        self.proj = nn.ModuleList(
            MembraneConv(widths[i - 1], widths[i], pool=i in pools, neuron=neuron) for i in range(1, 5)
        )

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = self.first(x)
        for proj in self.proj:
            x = proj(x, stream)
        return x


class Spikingformer(Encoder):
    """x ← x + SSA(x); x ← x + MLP(x) on membrane potentials."""

    config: SpikingformerConfig
    membrane = True

    def __init__(self, config: SpikingformerConfig):
        self.stride = stride_of(config.pools, (1, 2, 3, 4))
        super().__init__(config, Tokenizer(config.in_channels, config.embed_dim, config.pools, config.neuron))


_CIFAR = SpikingformerConfig(num_classes=10, image_size=(32, 32), pools=(3, 4))

# Published head counts: 4-384 has 12, 8-512 has 8, 8-768 has 12; the others are ours, of width 32 and 64.
register("spikingformer_4_256", Spikingformer, _CIFAR, embed_dim=256, depth=4, num_heads=8)
register("spikingformer_2_384", Spikingformer, _CIFAR, embed_dim=384, depth=2, num_heads=12)
register("spikingformer_4_384", Spikingformer, _CIFAR, embed_dim=384, depth=4, num_heads=12)
register("spikingformer_tiny", Spikingformer, _CIFAR, embed_dim=64, depth=2, num_heads=4)
for _dim, _heads in ((384, 6), (512, 8), (768, 12)):
    register(f"spikingformer_8_{_dim}", Spikingformer, SpikingformerConfig(embed_dim=_dim, num_heads=_heads))
