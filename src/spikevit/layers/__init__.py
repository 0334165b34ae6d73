"""Parts that know no paper: linear maps and convolutions with batch norm, MLP."""

from spikevit.layers.mlp import SpikingMLP
from spikevit.layers.projection import ConvBN, LinearBN, SpikingConv, SpikingLinear, max_pool

__all__ = ["ConvBN", "LinearBN", "SpikingConv", "SpikingLinear", "SpikingMLP", "max_pool"]
