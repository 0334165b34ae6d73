"""Checkpoints of the original repositories: which of their tensors each of ours holds, and how to read them.

Ours fuses what theirs keeps apart (q, k, v in one projection), so that one of our tensors may hold several
originals, stacked along its first axis (parameters) or its last (spikes).
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikevit.errors import unknown
from spikevit.models.base import SpikingModel
from spikevit.models.originals import units
from spikevit.models.sources import SOURCES


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
            are read with `weights_only`: pickled code in them is refused, not run.
        **quirks: fields of our config; `legacy_batch_leak=True` for published QKFormer weights, which were trained
            and measured with that defect.

    Raises:
        ValueError: unknown source or quirk, tensors missing, unexpected or of another shape (all named).
    """
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    original = SOURCES[source]
    try:
        ours = original.config(config)
    except KeyError as error:
        raise ValueError(f"config of {source} lacks {error}; it has {sorted(config)}") from None
    model = original.build(_with_quirks(ours, quirks))
    given = dict(state_dict if isinstance(state_dict, Mapping) else _read(state_dict))
    names, loaded, missing = model.original_names, {}, []
    for name, tensor in model.state_dict().items():
        if name not in names:
            raise ValueError(f"{source} has nothing for {name}: quirks={quirks} make a model that it never had")
        parts = {part.name: given.pop(part.name, None) for part in names[name]}
        missing += [part for part, theirs in parts.items() if theirs is None]
        tensors = [theirs for theirs in parts.values() if theirs is not None]
        if len(tensors) < len(parts):
            continue
        for part, theirs in zip(names[name], tensors, strict=True):
            if theirs.shape != (fits := part.restore(tensor).shape):
                raise ValueError(
                    f"state_dict does not fit config={dict(config)}: {part.name} is {tuple(theirs.shape)}, "
                    f"it should be {tuple(fits)}"
                )
        loaded[name] = torch.cat([t.reshape(-1, *tensor.shape[1:]) for t in tensors]) if tensor.dim() else tensors[0]
    unexpected = [name for name in given if not re.fullmatch(original.unused, name)]
    if missing or unexpected:
        raise ValueError(f"state_dict is not one of {source}: missing {missing[:5]}, unexpected {unexpected[:5]}")
    model.load_state_dict(loaded)
    return model


def _with_quirks(config: Any, quirks: dict[str, Any]) -> Any:
    try:
        return replace(config, **quirks)
    except TypeError:
        bad = next(name for name in quirks if not hasattr(config, name))
        raise unknown(f"quirk of {type(config).__name__}", bad, vars(config)) from None


def _read(path: str | PathLike) -> Mapping[str, Tensor]:
    """The state_dict in a file; training scripts like to save their arguments beside it, which is harmless."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} holds more than tensors (pickled code?); it was not loaded, nothing in it ran"
        ) from None
    except (OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is truncated, or not a file of torch.save: {error}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(f"{path} holds no state_dict: a mapping from names to tensors was expected")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


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
