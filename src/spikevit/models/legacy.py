"""Checkpoints of the original repositories: which of their tensors each of ours holds, and how to read them.

Ours fuses what theirs keeps apart (q, k, v in one projection), so that one of our tensors may hold several
originals, stacked along its first axis (parameters) or its last (spikes).
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikevit.errors import refuse_non_finite, unknown
from spikevit.files import check_zip, regular_file
from spikevit.models.base import SpikingModel
from spikevit.models.originals import units
from spikevit.models.sources import SOURCES, arguments


class Original(NamedTuple):
    """A tensor of the original: its name there, and `restore`, which cuts it from ours in the original's shape."""

    name: str
    restore: Callable[[Tensor], Tensor]


def original_names(model: SpikingModel) -> dict[str, list[Original]]:
    """For each of our parameters, buffers and neurons (by module name) the originals it holds, in order."""
    grid = (model.config.image_size[0] // model.stride, model.config.image_size[1] // model.stride)
    tensors, modules = model.state_dict(), dict(model.named_modules())
    names: dict[str, list[Original]] = {}
    for unit in units(model):
        module, n = modules[unit.ours], len(unit.theirs)
        layer = next((f".{kind}" for kind in ("conv", "linear") if hasattr(module, kind)), "")
        for ours, part, leaf in [
            (f"{unit.ours}{layer}.weight", "layer", "weight"),
            (f"{unit.ours}{layer}.bias", "layer", "bias"),
            *((f"{unit.ours}.bn.{leaf}", "bn", leaf) for leaf in BATCH_NORM),
        ]:
            if ours in tensors:
                then = _trailing(unit.trailing if leaf == "weight" and part == "layer" else 0)
                names[ours] = [
                    Original(f"{parts[part]}.{leaf}", _part(i, n, dim=0, then=then))
                    for i, parts in enumerate(unit.theirs)
                ]
        if unit.spikes:
            neuron = f"{unit.ours}.lif" if hasattr(module, "lif") else unit.ours
            then = _spikes(unit.spikes, grid)
            names[neuron] = [
                Original(parts["lif"], _part(i, n, dim=-1, then=then)) for i, parts in enumerate(unit.theirs)
            ]
    return names


BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def load_original(
    source: str, config: Mapping[str, Any], state_dict: Mapping[str, Tensor] | str | PathLike, **quirks: Any
) -> SpikingModel:
    """A model of ours with the weights of an original repository's checkpoint.

    Args:
        source: which code made it, one of `sources.SOURCES`: "spikformer_cifar", "qkformer_imagenet", "stmixer", …
        config: the keyword arguments of the original's model (img_size_h, embed_dims, num_heads, depths, T, …).
        state_dict: its tensors by name, or a .pth file of them (also under a "model" or "state_dict" key). Files
            are read with `weights_only`: pickled code in them is refused, not run; their checksums are looked at.
        **quirks: fields of our config; `legacy_batch_leak=True` for published QKFormer weights, which were trained
            and measured with that defect.

    Raises:
        ValueError: unknown source or quirk, arguments of another type or out of bounds, a damaged file, tensors
            missing, unexpected, of another shape or not finite (all named).
    """
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    original = SOURCES[source]
    try:
        ours = original.config(arguments(config))
    except KeyError as error:
        raise ValueError(f"config of {source} lacks {error}; it has {sorted(map(str, config))}") from None
    ours = _with_quirks(ours, quirks)
    if isinstance(state_dict, Mapping):
        called, given = "state_dict", _tensors(state_dict, "state_dict")
    else:
        called, given = str(state_dict), _tensors(_read(state_dict), str(state_dict))
    with torch.device("meta"):
        outline = original.build(ours)
    parts = _parts(outline, given, f"{called} does not fit {source} with config={dict(config)}", original.unused)
    model = original.build(ours)
    shapes = {name: tensor.shape[1:] for name, tensor in outline.state_dict().items() if tensor.dim()}
    model.load_state_dict(
        {n: torch.cat([t.reshape(-1, *shapes[n]) for t in ts]) if n in shapes else ts[0] for n, ts in parts.items()}
    )
    return model


def _parts(outline: SpikingModel, given: dict[str, Tensor], fault: str, unused: str) -> dict[str, list[Tensor]]:
    """The originals that each of our tensors holds, checked against the model without weights."""
    names = outline.original_names
    parts: dict[str, list[Tensor]] = {}
    missing: list[str] = []
    for name, ours in outline.state_dict().items():
        if name not in names:
            raise ValueError(f"{fault}: it has nothing for {name}, its quirks make a model that it never had")
        parts[name] = []
        for part in names[name]:
            theirs, fits = given.pop(part.name, None), part.restore(ours)
            if theirs is None:
                missing.append(part.name)
                continue
            if theirs.shape != fits.shape:
                raise ValueError(f"{fault}: {part.name} is {tuple(theirs.shape)}, it should be {tuple(fits.shape)}")
            if theirs.is_floating_point() != ours.is_floating_point():
                raise ValueError(f"{fault}: {part.name} is {theirs.dtype}, it should be {ours.dtype}")
            parts[name].append(theirs)
    unexpected = [name for name in given if not re.fullmatch(unused, name)]
    if missing or unexpected:
        raise ValueError(f"{fault}: missing {missing[:5]}, unexpected {unexpected[:5]}")
    flat = {part.name: t for name, ts in parts.items() for part, t in zip(names[name], ts, strict=True)}
    refuse_non_finite(flat, fault)
    return parts


def _with_quirks(config: Any, quirks: dict[str, Any]) -> Any:
    try:
        return replace(config, **quirks)
    except TypeError:
        bad = next(name for name in quirks if not hasattr(config, name))
        raise unknown(f"quirk of {type(config).__name__}", bad, vars(config)) from None


def _read(path: str | PathLike) -> Any:
    """What a file of torch.save holds; training scripts like to save their arguments beside it, which is harmless."""
    path = regular_file(Path(path), "a checkpoint")
    if zipfile.is_zipfile(path):  # files of before PyTorch 1.6 are none, and have no checksums
        check_zip(path, "a file of torch.save")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global:?|Unsupported class|type) ([\w.]+)", str(error))
        what = f"an object of {found[1]}" if found else "code"
        raise ValueError(
            f"{path} holds more than tensors: {what}. It was not loaded, and nothing in it ran. Where you trust it, "
            "torch.load(…, weights_only=False) reads it: give the mapping of tensors in it as state_dict"
        ) from None
    except Exception as error:  # a broken stream fails in many ways
        raise ValueError(f"{path} is truncated, or not a file of torch.save: {error!r}") from None


def _tensors(content: Any, called: str) -> dict[str, Tensor]:
    """The tensors by name, also under the keys that training scripts put them, without the prefix of DataParallel."""
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{called} holds no state_dict: a mapping from names to tensors was expected")
    for name, t in content.items():
        plain = isinstance(t, Tensor) and t.layout == torch.strided and not (t.is_meta or t.is_quantized)
        if not (isinstance(name, str) and plain):
            kind = type(t).__name__ if not isinstance(t, Tensor) else f"a tensor of layout {t.layout}"
            raise ValueError(f"{called} holds no state_dict: {name!r} is {kind}, dense tensors were expected")
    return {name.removeprefix("module."): tensor.detach().cpu() for name, tensor in content.items()}


# --- shapes ---------------------------------------------------------------------------------------------------


def _part(i: int, n: int, *, dim: int, then: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Cuts part i of n along `dim` (a scalar is shared by all parts)."""
    return lambda x: then(x.chunk(n, dim)[i] if x.dim() and n > 1 else x)


def _trailing(axes: int) -> Callable[[Tensor], Tensor]:
    """With `axes` more axes of length 1 behind; −1 is without the first one."""
    return lambda x: x[0] if axes < 0 else x[(..., *(None,) * axes)]


def _spikes(layout: str, grid: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """From ours, (T, B, N, C) or (T, B, H, W, C), to a layout of the originals."""
    layout, _, heads = layout.partition("/")

    def maps(x: Tensor) -> Tensor:  # (T, B, C, H, W)
        return (x.unflatten(2, grid) if x.dim() == 4 else x).movedim(-1, 2)

    return {
        "T B C": lambda x: x,
        "T B N C": lambda x: x,
        "T B C H W": maps,
        "T B C N": lambda x: x.movedim(-1, 2).flatten(3),
        "T B h 1 N": lambda x: x.transpose(2, 3).unsqueeze(3),
        "T B h d N": lambda x: x.movedim(2, -1),
        "T B h 1 d": lambda x: x.unflatten(-1, (int(heads), -1)).transpose(2, 3),
        "TB C N": lambda x: x.flatten(0, 1).mT,
        "TB C HW": lambda x: x.flatten(-3, -2).flatten(0, -3).mT,  # ours may have T·B in one axis too
        "TB C H W": lambda x: maps(x).flatten(0, 1),
    }[layout]
