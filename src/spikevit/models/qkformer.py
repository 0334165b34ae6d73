"""QKFormer: Hierarchical Spiking Transformer using Q-K Attention (Zhou et al., NeurIPS 2024, arXiv 2403.16552).

Three stages of width D/4, D/2, D, each behind a spiking patch embedding with a deformed shortcut (SPEDS). Early
stages mix tokens by Q-K attention, the last by SSA. Residual streams are sums of spikes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from spikevit.attention import make_mixer
from spikevit.errors import unknown
from spikevit.layers import Block, SpikingConv, SpikingMLP, drop_rates
from spikevit.models.base import Depth, DropRate, ModelConfig, Ratio, SpikingModel, Width, make_head
from spikevit.models.registry import register
from spikevit.neurons import NeuronConfig, Stream
from spikevit.schema import Positive

STRIDES = {"cifar": (1, 2, 4), "imagenet": (4, 8, 16)}  # of the stages, by stem


@dataclass(frozen=True)
class QKFormerConfig(ModelConfig):
    """embed_dim: width D of the last stage; width_shares: D over each stage's width.
    depths, mixers: blocks and attention (any of `attention.MIXERS`) of each stage.
    stem: "cifar" (stages at strides 1, 2, 4) or "imagenet" (4, 8, 16).
    attention_threshold: of the neurons behind attention.
    drop_path_rate: of the last block in training, see `layers.drop_path`.
    legacy_batch_leak: the defect of the published code in SSA; its weights were trained and measured with it.
    """

    embed_dim: Width = 768
    width_shares: tuple[Width, Width, Width] = (4, 2, 1)
    depths: tuple[Depth, Depth, Depth] = (1, 2, 7)
    num_heads: Width = 12
    mlp_ratio: Ratio = 4.0
    mixers: tuple[str, str, str] = ("qk_token", "qk_token", "ssa")
    attention_threshold: Positive = 0.5
    stem: str = "imagenet"
    legacy_batch_leak: bool = False
    drop_path_rate: DropRate = 0.0


class PatchEmbed(nn.Module):
    """SPEDS (§3.4): spiking convolutions in a row, plus a 1×1 spiking convolution around all but the first
    `before` of them; the two spike tensors are added. `convs` are (width, pool) of each.
    """

    def __init__(self, dim_in: int, convs: list[tuple[int, str | None]], *, before: int = 0, neuron: NeuronConfig):
        super().__init__()
        widths = [dim_in, *(width for width, _ in convs)]
        self.proj = nn.ModuleList(
            SpikingConv(widths[i], widths[i + 1], pool=pool, neuron=neuron) for i, (_, pool) in enumerate(convs)
        )
        self.before = before
        halvings = sum(pool is not None for _, pool in convs[before:])
        self.shortcut = SpikingConv(widths[before], widths[-1], kernel=1, stride=2**halvings, neuron=neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for i, proj in enumerate(self.proj):
            if i == self.before:
                around = x
            x = proj(x, stream)
        return x + self.shortcut(around, stream)


class QKFormer(SpikingModel):
    """Three stages of patch embedding and blocks on maps (T, B, H, W, C); linear head on the mean over space."""

    config: QKFormerConfig

    def __init__(self, config: QKFormerConfig):
        if config.stem not in STRIDES:
            raise unknown("stem", config.stem, STRIDES)
        self.stride = STRIDES[config.stem][-1]
        super().__init__(config)
        widths = [config.embed_dim // share for share in config.width_shares]
        self.patch_embed = nn.ModuleList(self._embed(config, widths))
        self.stages = nn.ModuleList(self._stage(config, i, width) for i, width in enumerate(widths))
        self.num_features = config.embed_dim
        self.head = make_head(config.embed_dim, config.num_classes)

    @staticmethod
    def _embed(config: QKFormerConfig, widths: list[int]) -> Iterator[PatchEmbed]:
        """The three patch embeddings; the released CIFAR and ImageNet code pool in different places."""
        first, neuron = widths[0], config.neuron
        stem: list[tuple[int, str | None]] = [(first // 2, None), (first, None)]
        if config.stem == "imagenet":
            stem = [(first // 2, "membrane"), (first, "membrane"), (first, None)]
        yield PatchEmbed(config.in_channels, stem, before=1, neuron=neuron)
        for dim_in, dim in pairwise(widths):
            convs: list[tuple[int, str | None]] = [(dim, None), (dim, "membrane")]
            yield PatchEmbed(dim_in, convs[::-1] if config.stem == "imagenet" else convs, neuron=neuron)

    @staticmethod
    def _stage(config: QKFormerConfig, i: int, width: int) -> nn.ModuleList:
        """The blocks of stage i."""
        name, neuron = config.mixers[i], config.neuron
        stride = STRIDES[config.stem][i]
        options: dict[str, Any] = {"neuron": neuron, "threshold": config.attention_threshold}
        options["grid"] = grid = (config.image_size[0] // stride, config.image_size[1] // stride)
        options["tokens"] = grid[0] * grid[1]
        if name == "ssa":
            options["legacy_batch_leak"] = config.legacy_batch_leak
        return nn.ModuleList(
            Block(
                make_mixer(name, width, config.num_heads, **options),
                SpikingMLP(width, int(width * config.mlp_ratio), neuron=neuron),
                rate,
            )
            for rate in drop_rates(config.drop_path_rate, config.depths)[i]
        )

    def features(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Maps (T, B, H, W, D) behind the last block."""
        x = self.front(x, stream)
        for block in self.encoder:
            x = block(x, stream)
        return x

    def front(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Maps (T, B, H, W, D) in front of the blocks of final resolution."""
        *early, _ = self.stages
        for i, embed in enumerate(self.patch_embed):
            x = embed(x, stream)
            for block in early[i] if i < len(early) else ():  # type: ignore[union-attr]
                x = block(x, stream)
        return x

    @property
    def encoder(self) -> Any:
        """The blocks of final resolution."""
        return self.stages[-1]


_CIFAR = QKFormerConfig(num_classes=10, image_size=(32, 32), embed_dim=384, depths=(1, 1, 2), num_heads=8, stem="cifar")
register("qkformer_4_384", QKFormer, _CIFAR)
register("qkformer_tiny", QKFormer, _CIFAR, embed_dim=64, depths=(1, 1, 1), num_heads=4)
for _dim, _heads in ((384, 6), (512, 8), (768, 12)):
    register(f"qkformer_10_{_dim}", QKFormer, QKFormerConfig(embed_dim=_dim, num_heads=_heads))
