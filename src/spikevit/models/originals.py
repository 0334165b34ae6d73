"""What the tensors and neurons of the original repositories are called.

For every module of ours that holds weights or fires, a `Unit` names the originals it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spikevit.models.base import SpikingModel
from spikevit.models.msvit import MSViT
from spikevit.models.qkformer import QKFormer, QKFormerConfig
from spikevit.models.sdt import SDTConfig, SpikeDrivenTransformer
from spikevit.models.spikformer import Spikformer, SpikformerConfig
from spikevit.models.spikingformer import Spikingformer, SpikingformerConfig
from spikevit.models.stmixer import STMixer, STMixerConfig


@dataclass(frozen=True)
class Unit:
    """One module of ours and the originals it stands for, in the order in which it holds them.

    ours: our module. theirs: for each original, the names of its parts: "layer" (the projection), "bn", "lif".
    trailing: axes of length 1 that the original's weight has behind (out, in). spikes: layout of its spikes there; none
    where our module has no neurons.
    """

    ours: str
    theirs: tuple[Mapping[str, str], ...]
    trailing: int = 0
    spikes: str = ""


def named(pattern: str, layer: str) -> dict[str, str]:
    """Names of the parts after the pattern "a.q_%": a.q_conv (or whatever `layer` is), a.q_bn, a.q_lif."""
    return {part: pattern.replace("%", word) for part, word in (("layer", layer), ("bn", "bn"), ("lif", "lif"))}


def numbered(prefix: str, layer: int, bn: int, lif: int | None = None) -> dict[str, str]:
    """Names of the parts of an nn.Sequential."""
    parts = {"layer": f"{prefix}.{layer}", "bn": f"{prefix}.{bn}"}
    return parts if lif is None else parts | {"lif": f"{prefix}.{lif}"}


def units(model: SpikingModel) -> Iterator[Unit]:
    """All units of a model."""
    for family, names in NAMES.items():
        if type(model) is family:
            yield from names(model.config)
            yield Unit("head", ({"layer": "head"},))
            return
    raise ValueError(f"the original names of {type(model).__name__} are not known")


def spikformer(config: SpikformerConfig) -> Iterator[Unit]:
    """ZK-Zhou/spikformer. The CIFAR code has linear layers, the ImageNet code 1×1 convolutions."""
    for i in range(4):
        yield Unit(f"patch_embed.proj.{i}", (named(f"patch_embed.proj_%{i or ''}", "conv"),), 0, "T B C H W")
    yield Unit("patch_embed.rpe", (named("patch_embed.rpe_%", "conv"),), 0, "T B C H W")
    layer, extra = ("linear", 0) if config.qkv_bias else ("conv", 1)
    tokens, maps = ("T B N C", "T B N C") if config.qkv_bias else ("T B C N", "T B C H W")
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"block.{i}"
        qkv = tuple(named(f"{theirs}.attn.{x}_%", layer) for x in "qkv")
        yield Unit(f"{ours}.attn.proj_in", qkv, extra, tokens)
        yield Unit(f"{ours}.attn.attn_lif", ({"lif": f"{theirs}.attn.attn_lif"},), 0, tokens)
        yield Unit(f"{ours}.attn.proj_out", (named(f"{theirs}.attn.proj_%", layer),), extra, maps)
        for fc in ("fc1", "fc2"):
            yield Unit(f"{ours}.mlp.{fc}", (named(f"{theirs}.mlp.{fc}_%", layer),), 2 * extra, maps)


def spikingformer(config: SpikingformerConfig) -> Iterator[Unit]:
    """zhouchenlin2096/Spikingformer."""
    stem = "patch_embed.block{}_%" if config.pools == (3, 4) else "patch_embed.proj{}_%"
    first = 0 if config.pools == (3, 4) else ""
    yield Unit("patch_embed.first", (named(stem.format(first), "conv"),))
    for i in range(4):
        yield Unit(f"patch_embed.proj.{i}", (named(stem.format(i + 1), "conv"),), 0, "T B C H W")
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"block.{i}"
        yield from _membrane_attention(ours, theirs, "proj_lif", "attn_lif", 1, "T B C N", "T B C N")
        for fc, old in (("fc1", "mlp1"), ("fc2", "mlp2")):
            yield Unit(f"{ours}.mlp.{fc}", (named(f"{theirs}.mlp.{old}_%", "conv"),), 2, "T B C H W")


def sdt(config: SDTConfig) -> Iterator[Unit]:
    """BICLab/Spike-Driven-Transformer."""
    stem = "patch_embed"
    for i in range(3):
        yield Unit(f"{stem}.proj.{i}", (named(f"{stem}.proj_%{i or ''}", "conv"),), 0, "T B C H W")
    yield Unit(f"{stem}.last", (named(f"{stem}.proj_%3", "conv"),))
    rpe = {"layer": f"{stem}.rpe_conv", "bn": f"{stem}.rpe_bn", "lif": f"{stem}.proj_lif3"}
    yield Unit(f"{stem}.rpe", (rpe,), 0, "T B C H W")
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"block.{i}"
        mask = f"T B h 1 d/{config.num_heads}"
        yield from _membrane_attention(ours, theirs, "shortcut_lif", "talking_heads_lif", 2, "T B C H W", mask)
        for fc in ("fc1", "fc2"):
            yield Unit(f"{ours}.mlp.{fc}", (named(f"{theirs}.mlp.{fc}_%", "conv"),), 2, "T B C H W")
    yield Unit("head_lif", ({"lif": "head_lif"},), 0, "T B C")


def _membrane_attention(
    ours: str, theirs: str, first: str, attn: str, trailing: int, spikes: str, mask: str
) -> Iterator[Unit]:
    """Attention with neurons `first` at its input and no neurons at its end."""
    yield Unit(f"{ours}.attn.lif", ({"lif": f"{theirs}.attn.{first}"},), 0, "T B C H W")
    yield Unit(f"{ours}.attn.proj_in", tuple(named(f"{theirs}.attn.{x}_%", "conv") for x in "qkv"), trailing, spikes)
    yield Unit(f"{ours}.attn.attn_lif", ({"lif": f"{theirs}.attn.{attn}"},), 0, mask)
    yield Unit(f"{ours}.attn.proj_out", (named(f"{theirs}.attn.proj_%", "conv"),), trailing)


def qkformer(config: QKFormerConfig) -> Iterator[Unit]:
    """zhouchenlin2096/QKFormer, and MSViT, which edits it. CIFAR and ImageNet files use different names."""
    cifar = config.stem == "cifar"
    for s in range(3):
        ours, theirs = f"patch_embed.{s}", f"patch_embed{s + 1}"
        names = ["proj", "proj1", "proj2"][: 2 if cifar else 3] if s == 0 else ["proj3", "proj4"]
        for i, name in enumerate(names):
            yield Unit(f"{ours}.proj.{i}", (named(f"{theirs}.{name}_%", "conv"),), 0, "T B C H W")
        yield Unit(f"{ours}.shortcut", (named(f"{theirs}.proj_res_%", "conv"),), 0, "T B C H W")
        mixer = config.mixers[s]
        parts, attn, end = ("qkv", "T B C N", "TB C HW") if mixer == "ssa" else ("qk", "T B h 1 N", "T B C H W")
        attn = "T B h d N" if mixer == "ms_channel" else attn
        for i in range(config.depths[s]):
            ours, theirs = f"stages.{s}.{i}", f"stage{s + 1}.{i}"
            old = f"{theirs}.{'tssa' if mixer != 'ssa' else 'ssa' if cifar else 'attn'}"
            yield Unit(f"{ours}.attn.proj_in", tuple(named(f"{old}.{x}_%", "conv") for x in parts), 1, "T B C N")
            if mixer.startswith("ms_"):
                yield Unit(f"{ours}.attn.p", (named(f"{old}.p_%", "conv"),), 0, "T B C N")
            yield Unit(f"{ours}.attn.attn_lif", ({"lif": f"{old}.attn_lif"},), 0, attn)
            yield Unit(f"{ours}.attn.proj_out", (named(f"{old}.proj_%", "conv"),), 1, end)
            for fc, cifar_fc in (("fc1", "mlp1"), ("fc2", "mlp2")):
                name = f"{theirs}.mlp.{cifar_fc if cifar else fc}_%"
                yield Unit(f"{ours}.mlp.{fc}", (named(name, "conv"),), 2, "T B C H W")


def stmixer(config: STMixerConfig) -> Iterator[Unit]:
    """brain-intelligence-lab/STMixer_demo: nn.Sequential everywhere, time and batch in one axis."""
    for i in range(4):
        names = numbered("patch_embd.proj_conv", 3 * i, 3 * i + 1, 3 * i + 2)
        yield Unit(f"patch_embed.proj.{i}", (names,), 0, "TB C H W")
    yield Unit("patch_embed.last", (numbered("patch_embd.proj_conv", 12, 13),))
    yield Unit("patch_embed.shortcut", (numbered("patch_embd.short_proj1", 0, 1),))
    for i in range(config.depth):
        ours, mix, channel = f"blocks.{i}", f"block.{i}.token_mix", f"block.{i}.channel_mix"
        yield Unit(f"{ours}.attn.lif", ({"lif": f"{mix}.fc1.0"},), 0, "TB C N")
        yield Unit(f"{ours}.attn.proj_in", (numbered(f"{mix}.fc1", 1, 2, 3),), 1, "TB C N")
        yield _mixing(f"{ours}.attn.mixing", mix, config)
        yield Unit(f"{ours}.attn.attn_lif", ({"lif": f"{mix}.fc2.0"},), 0, "TB C N")
        yield Unit(f"{ours}.attn.proj_out", (numbered(f"{mix}.fc2", 1, 2),), 1)
        for fc in ("fc1", "fc2"):
            yield Unit(f"{ours}.mlp.{fc}", (numbered(f"{channel}.{fc}", 1, 2, 0),), 1, "TB C N")
    for i, encoders in enumerate(config.sml_depths):
        yield Unit(f"sml.{i}.proj", (numbered(f"sml{i + 1}.proj_conv", 0, 1),), 1)
        for j in range(encoders):
            ours, theirs = f"sml.{i}.encoders.{j}", f"sml{i + 1}.encoder.{j}"
            yield Unit(f"{ours}.mix_in", (numbered(f"{theirs}.spatial_mix.fc1", 1, 2),), 1)
            yield _mixing(f"{ours}.mixing", f"{theirs}.spatial_mix", config)
            yield Unit(f"{ours}.mix_out", (numbered(f"{theirs}.spatial_mix.fc2", 1, 2),), 1)
            yield Unit(f"{ours}.fc1", (numbered(f"{theirs}.channel_mix.fc1", 1, 2),), 1)
            yield Unit(f"{ours}.fc2", (numbered(f"{theirs}.channel_mix.fc2", 0, 1),), 1)
        yield Unit(f"sml.{i}.head", ({"layer": f"sml{i + 1}.head"},))


def _mixing(ours: str, theirs: str, config: STMixerConfig) -> Unit:
    """One matrix a head there, stacked here."""
    return Unit(ours, tuple({"layer": f"{theirs}.attn.linear_mix.{h}"} for h in range(config.num_heads)), -1)


NAMES: dict[type[SpikingModel], Callable[[Any], Iterator[Unit]]] = {
    MSViT: qkformer,
    QKFormer: qkformer,
    STMixer: stmixer,
    SpikeDrivenTransformer: sdt,
    Spikformer: spikformer,
    Spikingformer: spikingformer,
}
