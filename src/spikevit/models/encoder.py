"""Spiking transformers of one resolution: a stem, `depth` equal blocks on its tokens, a linear head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spikevit.attention import make_mixer
from spikevit.layers import Block, SpikingMLP, drop_rates
from spikevit.models.base import Depth, DropRate, ModelConfig, Ratio, SpikingModel, Width, make_head
from spikevit.neurons import Stream


@dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """embed_dim: width D. mixer: how tokens see each other, any of `attention.MIXERS`. drop_path_rate: of the last
    block in training, see `layers.drop_path`.
    """

    embed_dim: Width = 512
    depth: Depth = 8
    num_heads: Width = 8
    mlp_ratio: Ratio = 4.0
    mixer: str = "ssa"
    drop_path_rate: DropRate = 0.0


def stride_of(pools: tuple[int, ...], of: tuple[int, ...]) -> int:
    """Stride of a stem whose convolutions `pools` halve the map, out of those that can."""
    if len(set(pools)) < len(pools) or not set(pools) <= set(of):
        raise ValueError(f"pools={pools!r} must be different ones of the stem's convolutions {of}")
    return 2 ** len(pools)


class Encoder(SpikingModel):
    """Maps ► patch_embed ► tokens (T, B, N, D) ► blocks ► mean over tokens ► head, at every step.

    `membrane`: the stream that residuals add to holds membrane potentials (pre-activation), not spikes.
    """

    config: EncoderConfig
    membrane = False

    def __init__(
        self,
        config: EncoderConfig,
        patch_embed: nn.Module,
        *,
        mixer_options: dict[str, Any] | None = None,
        mlp_bias: bool = True,
    ):
        super().__init__(config)
        dim, neuron = config.embed_dim, config.neuron
        self.patch_embed = patch_embed
        grid = (config.image_size[0] // self.stride, config.image_size[1] // self.stride)
        self.tokens = grid[0] * grid[1]
        common = {
            "neuron": neuron,
            "tokens": self.tokens,
            "grid": grid,
            "membrane": self.membrane,
            **(mixer_options or {}),
        }
        self.blocks = nn.ModuleList(
            Block(
                make_mixer(config.mixer, dim, config.num_heads, **common),
                SpikingMLP(dim, int(dim * config.mlp_ratio), neuron=neuron, bias=mlp_bias, membrane=self.membrane),
                rate,
            )
            for rate in drop_rates(config.drop_path_rate, [config.depth])[0]
        )
        self.num_features = dim
        self.head = make_head(dim, config.num_classes)

    def trunk(self, x: Tensor, stream: Stream | None = None) -> Iterator[Tensor]:
        """Tokens (T, B, N, D) behind the stem, and behind each block."""
        x = self.front(x, stream)
        yield x
        for block in self.blocks:
            x = block(x, stream)
            yield x

    def features(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Tokens (T, B, N, D) behind the last block."""
        for tokens in self.trunk(x, stream):
            x = tokens
        return x

    def front(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Tokens (T, B, N, D) behind the stem."""
        return self.patch_embed(x, stream).flatten(2, 3)

    @property
    def encoder(self) -> nn.ModuleList:
        """The blocks behind the front."""
        return self.blocks
