"""Spike-driven Transformer (Yao et al., NeurIPS 2023, arXiv 2307.01694): masks and additions instead of attention.

Residuals add membrane potentials (MS shortcuts); spike-driven self-attention (SDSA) has no product of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from spikevit.layers import ConvBN, MembraneConv, SpikingConv, max_pool
from spikevit.models.encoder import Encoder, EncoderConfig, stride_of
from spikevit.models.registry import register
from spikevit.neurons import NeuronConfig, Stream


@dataclass(frozen=True)
class SDTConfig(EncoderConfig):
    """pools: at which of the stem's four convolutions the map is halved."""

    mixer: str = "sdsa"
    pools: tuple[int, ...] = (0, 1, 2, 3)


class PatchSplitting(nn.Module):
    """Three 3×3 convolutions to D/8, D/4, D/2, each BN, LIF [, max pool on the spikes]; a fourth to D with BN [and max
    pool], which stays a membrane potential x; then x + BN(conv(LIF(x))).
    """

    def __init__(self, in_channels: int, dim: int, pools: tuple[int, ...], neuron: NeuronConfig):
        super().__init__()
        widths = [in_channels, dim // 8, dim // 4, dim // 2]
        self.proj = nn.ModuleList(
            SpikingConv(widths[i], widths[i + 1], pool="spikes" if i in pools else None, neuron=neuron)
            for i in range(3)
        )
        self.last = ConvBN(widths[-1], dim)
        self.pool_last = 3 in pools
        self.rpe = MembraneConv(dim, dim, neuron=neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for proj in self.proj:
            x = proj(x, stream)
        x = self.last(x)
        x = max_pool(x) if self.pool_last else x
        return x + self.rpe(x, stream)


class SpikeDrivenTransformer(Encoder):
    """x ← x + SDSA(x); x ← x + MLP(x) on membrane potentials; the head sees spikes of the mean over tokens."""

    config: SDTConfig
    membrane = True

    def __init__(self, config: SDTConfig):
        self.stride = stride_of(config.pools, (0, 1, 2, 3))
        super().__init__(config, PatchSplitting(config.in_channels, config.embed_dim, config.pools, config.neuron))
        self.head_lif = config.neuron.build()

    def readout(self, tokens: Tensor, stream: Stream | None = None) -> Tensor:
        """Spikes of the mean over tokens."""
        return self.head_lif(super().readout(tokens), stream)


_CIFAR = SDTConfig(num_classes=10, image_size=(32, 32), pools=(2, 3), depth=2)

register("sdt_2_256", SpikeDrivenTransformer, _CIFAR, embed_dim=256)
register("sdt_2_512", SpikeDrivenTransformer, _CIFAR, embed_dim=512)
register("sdt_tiny", SpikeDrivenTransformer, _CIFAR, embed_dim=64, num_heads=4)
for _dim in (384, 512, 768):
    register(f"sdt_8_{_dim}", SpikeDrivenTransformer, SDTConfig(embed_dim=_dim))
for _depth in (6, 10):
    register(f"sdt_{_depth}_512", SpikeDrivenTransformer, SDTConfig(embed_dim=512, depth=_depth))
