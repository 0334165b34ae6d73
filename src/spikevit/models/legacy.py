"""Checkpoints of the original repositories: which of their tensors each of ours holds, and how to read them.

Ours fuses what theirs keeps apart (q, k, v in one projection), so that one of our tensors may hold several
originals, stacked along its first axis (parameters) or its last (spikes).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikevit.errors import unknown
from spikevit.models.base import SpikingModel
from spikevit.models.qkformer import QKFormer, QKFormerConfig
from spikevit.models.spikformer import Spikformer, SpikformerConfig


class Original(NamedTuple):
    """A tensor of the original: its name there, and `restore`, which cuts it from ours in the original's shape."""

    name: str
    restore: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Unit:
    """A projection with its batch norm and neurons, ours and theirs.

    ours: module prefix; theirs: "prefix.%s" of each part, % standing for conv (or linear), bn and lif.
    layer: the original's name for the projection; trailing: axes that its weight has behind (out, in).
    spikes: layout of its neurons' output there, see `_spikes`.
    """

    ours: str
    theirs: tuple[str, ...]
    layer: str
    trailing: int
    spikes: str


def original_names(model: SpikingModel) -> dict[str, list[Original]]:
    """For each of our parameters, buffers and neurons (by module name) the originals it holds, in order."""
    config = model.config
    grid = (config.image_size[0] // model.stride, config.image_size[1] // model.stride)
    names: dict[str, list[Original]] = {"head.weight": [_same("head.weight")], "head.bias": [_same("head.bias")]}
    ours = {*model.state_dict(), *(name for name, _ in model.named_modules())}
    for unit in _units(model):
        n = len(unit.theirs)
        ours_layer = f"{unit.ours}.{'conv' if f'{unit.ours}.conv.weight' in ours else 'linear'}"
        tensors = [(f"{ours_layer}.{kind}", f"{unit.layer}.{kind}") for kind in ("weight", "bias")]
        tensors += [
            (f"{unit.ours}.bn.{kind}", f"bn.{kind}")
            for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ]
        for mine, their in tensors:
            if mine in ours:
                trailing = unit.trailing if mine == f"{ours_layer}.weight" else 0
                names[mine] = [
                    Original(_fill(name, their), _part(i, n, dim=0, then=_trailing(trailing)))
                    for i, name in enumerate(unit.theirs)
                ]
        lif = unit.ours if unit.ours.endswith("_lif") else f"{unit.ours}.lif"
        then = _spikes(unit.spikes, grid)
        names[lif] = [
            Original(_fill(name, "lif"), _part(i, n, dim=-1, then=then)) for i, name in enumerate(unit.theirs)
        ]
    return names


def load_original(
    source: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor] | str | PathLike, **quirks: Any
) -> SpikingModel:
    """A model of ours with the weights of an original repository's checkpoint.

    Args:
        source: which code made it: "spikformer_cifar", "spikformer_imagenet", "qkformer_cifar", "qkformer_imagenet".
        config: the keyword arguments of the original's model (img_size_h, embed_dims, num_heads, depths, T, …).
        state_dict: its tensors by name, or a .pth file of them (also under a "model" or "state_dict" key). Files
            are read with `weights_only`: pickled code in them is refused, not run.
        **quirks: fields of our config; `legacy_batch_leak=True` for published QKFormer weights, which were trained
            and measured with that defect.

    Raises:
        ValueError: unknown source or quirk, tensors missing, unexpected or of another shape (all named).
    """
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    make, unused = SOURCES[source]
    model = make(config, quirks)
    given = dict(state_dict if isinstance(state_dict, Mapping) else _read(state_dict))
    names, loaded, missing = model.original_names, {}, []
    for name, tensor in model.state_dict().items():
        gone = [original.name for original in names[name] if original.name not in given]
        tensors = [given.pop(original.name) for original in names[name] if original.name in given]
        missing += gone
        if gone:
            continue
        for original, theirs in zip(names[name], tensors, strict=True):
            fits = original.restore(tensor).shape
            if theirs.shape != fits:
                raise ValueError(
                    f"state_dict does not fit config={dict(config)}: {original.name} is {tuple(theirs.shape)}, "
                    f"it should be {tuple(fits)}"
                )
        loaded[name] = torch.cat([t.reshape(-1, *tensor.shape[1:]) for t in tensors]) if tensor.dim() else tensors[0]
    unexpected = [name for name in given if not re.fullmatch(unused, name)]
    if missing or unexpected:
        raise ValueError(f"state_dict is not one of {source}: missing {missing[:5]}, unexpected {unexpected[:5]}")
    model.load_state_dict(loaded)
    return model


def _read(path: str | PathLike) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors (pickled code?) and was not loaded: {error}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(f"{path} holds no state_dict: a mapping from names to tensors was expected")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


# --- shapes ---------------------------------------------------------------------------------------------------


def _same(name: str) -> Original:
    return Original(name, lambda x: x)


def _fill(pattern: str, part: str) -> str:
    """ "a.q_%" and "conv.weight" give "a.q_conv.weight"; "a.proj_%1" gives "a.proj_conv1.weight"."""
    kind, _, leaf = part.partition(".")
    return pattern.replace("%", kind) + (f".{leaf}" if leaf else "")


def _part(i: int, n: int, *, dim: int, then: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Cuts part i of n along `dim` (a scalar is shared by all parts)."""
    return lambda x: then(x.chunk(n, dim)[i] if x.dim() and n > 1 else x)


def _trailing(axes: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[(..., *(None,) * axes)]


def _spikes(layout: str, grid: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """From ours, (T, B, N, C) or (T, B, H, W, C), to a layout of the originals."""

    def maps(x: Tensor) -> Tensor:  # (T, B, C, H, W)
        return (x.unflatten(2, grid) if x.dim() == 4 else x).movedim(-1, 2)

    return {
        "T B N C": lambda x: x,
        "T B C H W": maps,
        "T B C N": lambda x: x.movedim(-1, 2).flatten(3),
        "T B h 1 N": lambda x: x.transpose(2, 3).unsqueeze(3),
        "TB C N": lambda x: x.flatten(-3, -2).flatten(0, -3).mT,
    }[layout]


# --- the originals' names ---------------------------------------------------------------------------------------


def _units(model: SpikingModel) -> Iterator[Unit]:
    if isinstance(model, Spikformer):
        yield from _spikformer(model.config)
    elif isinstance(model, QKFormer):
        yield from _qkformer(model.config)
    else:
        raise ValueError(f"the original names of {type(model).__name__} are not known")


def _spikformer(config: SpikformerConfig) -> Iterator[Unit]:
    for i in range(4):
        yield Unit(f"patch_embed.proj.{i}", (f"patch_embed.proj_%{i or ''}",), "conv", 0, "T B C H W")
    yield Unit("patch_embed.rpe", ("patch_embed.rpe_%",), "conv", 0, "T B C H W")
    cifar = config.qkv_bias
    layer, extra = ("linear", 0) if cifar else ("conv", 1)
    tokens, maps = ("T B N C", "T B N C") if cifar else ("T B C N", "T B C H W")
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"block.{i}"
        yield Unit(f"{ours}.attn.qkv", tuple(f"{theirs}.attn.{x}_%" for x in "qkv"), layer, extra, tokens)
        yield Unit(f"{ours}.attn.attn_lif", (f"{theirs}.attn.attn_%",), layer, 0, tokens)
        yield Unit(f"{ours}.attn.proj", (f"{theirs}.attn.proj_%",), layer, extra, maps)
        for fc in ("fc1", "fc2"):
            yield Unit(f"{ours}.mlp.{fc}", (f"{theirs}.mlp.{fc}_%",), layer, 2 * extra, maps)


def _qkformer(config: QKFormerConfig) -> Iterator[Unit]:
    cifar = config.stem == "cifar"
    for s in range(3):
        ours, theirs = f"patch_embed.{s}", f"patch_embed{s + 1}"
        names = ["proj", "proj1", "proj2"][: 2 if cifar else 3] if s == 0 else ["proj3", "proj4"]
        for i, name in enumerate(names):
            yield Unit(f"{ours}.proj.{i}", (f"{theirs}.{name}_%",), "conv", 0, "T B C H W")
        yield Unit(f"{ours}.shortcut", (f"{theirs}.proj_res_%",), "conv", 0, "T B C H W")
        for i in range(config.depths[s]):
            ours, theirs = f"stages.{s}.{i}", f"stage{s + 1}.{i}"
            if config.mixers[s] == "ssa":
                qkv, attn, proj = "qkv", "T B C N", "TB C N"
                old = f"{theirs}.{'ssa' if cifar else 'attn'}"
            else:
                qkv, attn, proj = "qk", "T B h 1 N", "T B C H W"
                old = f"{theirs}.tssa"
            yield Unit(f"{ours}.attn.{qkv}", tuple(f"{old}.{x}_%" for x in qkv), "conv", 1, "T B C N")
            yield Unit(f"{ours}.attn.attn_lif", (f"{old}.attn_%",), "conv", 0, attn)
            yield Unit(f"{ours}.attn.proj", (f"{old}.proj_%",), "conv", 1, proj)
            for i_fc, fc in enumerate(("fc1", "fc2")):
                old_fc = f"mlp{i_fc + 1}" if cifar else fc
                yield Unit(f"{ours}.mlp.{fc}", (f"{theirs}.mlp.{old_fc}_%",), "conv", 2, "T B C H W")


def _common(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_classes": config["num_classes"],
        "in_channels": config["in_channels"],
        "image_size": (config["img_size_h"], config["img_size_w"]),
        "time_steps": config["T"],
        "embed_dim": config["embed_dims"],
        "mlp_ratio": config["mlp_ratios"],
    }


def _make_spikformer(cifar: bool):
    def make(config: Mapping[str, Any], quirks: dict[str, Any]) -> SpikingModel:
        ours = SpikformerConfig(
            **_common(config),
            depth=config["depths"],
            num_heads=config["num_heads"],
            pools=(2, 3) if cifar else (0, 1, 2, 3),
            qkv_bias=cifar,
        )
        return Spikformer(_with_quirks(ours, quirks))

    return make


def _make_qkformer(cifar: bool):
    def make(config: Mapping[str, Any], quirks: dict[str, Any]) -> SpikingModel:
        early, depth = ((1, 1), config["depths"] - 2) if cifar else ((1, 2), config["depths"] - 3)
        ours = QKFormerConfig(
            **_common(config),
            depths=(*early, depth),
            num_heads=8 if cifar else config["num_heads"],  # the CIFAR code ignores its argument
            stem="cifar" if cifar else "imagenet",
        )
        return QKFormer(_with_quirks(ours, quirks))

    return make


def _with_quirks(config, quirks: dict[str, Any]):
    try:
        return replace(config, **quirks)
    except TypeError:
        bad = next(name for name in quirks if not hasattr(config, name))
        raise unknown(
            f"quirk of {type(config).__name__}", bad, [n for n in vars(config) if n.startswith("legacy")]
        ) from None


# source -> how to make the model, and the originals' parameters that nothing uses
SOURCES: dict[str, tuple[Callable[[Mapping[str, Any], dict[str, Any]], SpikingModel], str]] = {
    "spikformer_cifar": (_make_spikformer(True), r"block\.\d+\.norm[12]\.(weight|bias)"),
    "spikformer_imagenet": (_make_spikformer(False), r"block\.\d+\.norm[12]\.(weight|bias)"),
    "qkformer_cifar": (_make_qkformer(True), r"(?!)"),
    "qkformer_imagenet": (_make_qkformer(False), r"(?!)"),
}
