"""Space: how tokens see each other, one mechanism a file, all of one shape, so that they can be swapped by name."""

from typing import Any

from spikevit.attention.groupwise import GroupwiseQK, GroupwiseSSA
from spikevit.attention.mixer import Mixer, check_heads
from spikevit.attention.multiscale import MSChannelAttention, MSTokenAttention
from spikevit.attention.qk import QKChannelAttention, QKTokenAttention
from spikevit.attention.sdsa import SDSA
from spikevit.attention.ssa import SSA, spike_attention
from spikevit.attention.token_mixer import SpikingTokenMixer, TokenMixing
from spikevit.errors import unknown

MIXERS: dict[str, type[Mixer]] = {
    "gw_qk": GroupwiseQK,
    "gw_ssa": GroupwiseSSA,
    "ms_channel": MSChannelAttention,
    "ms_token": MSTokenAttention,
    "qk_channel": QKChannelAttention,
    "qk_token": QKTokenAttention,
    "sdsa": SDSA,
    "ssa": SSA,
    "token_mixing": SpikingTokenMixer,
}


def make_mixer(name: str, dim: int, heads: int, **options: Any) -> Mixer:
    """The mixer of that name; options as in `Mixer` and in its own class."""
    if name not in MIXERS:
        raise unknown("mixer", name, MIXERS)
    return MIXERS[name](dim, heads, **options)


__all__ = [
    "MIXERS",
    "SDSA",
    "SSA",
    "GroupwiseQK",
    "GroupwiseSSA",
    "MSChannelAttention",
    "MSTokenAttention",
    "Mixer",
    "QKChannelAttention",
    "QKTokenAttention",
    "SpikingTokenMixer",
    "TokenMixing",
    "check_heads",
    "make_mixer",
    "spike_attention",
]
