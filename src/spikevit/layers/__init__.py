"""Parts that know no paper: linear maps and convolutions with batch norm, MLP."""

from spikevit.layers.projection import ConvBN, LinearBN, SpikingConv, SpikingLinear, max_pool
from spikevit.layers.mlp import SpikingMLP

__all__ = ["ConvBN", "LinearBN", "SpikingConv", "SpikingLinear", "SpikingMLP", "max_pool"]
