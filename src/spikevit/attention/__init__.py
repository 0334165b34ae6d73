"""Space: how tokens see each other, one mechanism a file."""

from spikevit.attention.qk import QKChannelAttention, QKTokenAttention
from spikevit.attention.ssa import SSA, check_heads, spike_attention

__all__ = ["SSA", "QKChannelAttention", "QKTokenAttention", "check_heads", "spike_attention"]
