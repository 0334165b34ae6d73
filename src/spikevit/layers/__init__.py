"""Parts that know no paper: linear maps and convolutions with batch norm, MLP, block."""

from spikevit.layers.block import Block, SpikingMLP, drop_path, drop_rates
from spikevit.layers.projection import (
    ConvBN,
    LinearBN,
    MembraneConv,
    MembraneLinear,
    SpikingConv,
    SpikingLinear,
    max_pool,
)

__all__ = [
    "Block",
    "ConvBN",
    "LinearBN",
    "MembraneConv",
    "MembraneLinear",
    "SpikingConv",
    "SpikingLinear",
    "SpikingMLP",
    "drop_path",
    "drop_rates",
    "max_pool",
]
