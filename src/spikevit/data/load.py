"""Data sets by name: load_data("digits"), load_data("cifar100", root=...), load_data("folder", root=...)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from spikevit.data.cifar import CIFAR10, CIFAR100, load_cifar
from spikevit.data.digits import load_digits
from spikevit.data.folder import load_folder
from spikevit.data.sets import Data
from spikevit.errors import unknown

DATA_SETS: dict[str, Callable[..., Data]] = {
    "cifar10": partial(load_cifar, CIFAR10),
    "cifar100": partial(load_cifar, CIFAR100),
    "digits": load_digits,
    "folder": load_folder,
}


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    val_fraction: float = 0.1,
    on_corrupt: str = "error",
    crop_pct: float = 1.0,
) -> Data:
    """The data set of that name, in parts that are the same at every call and on every machine.

    root: where "cifar10", "cifar100" and "folder" lie. image_size: side or (H, W) in pixels, and channels: of the
    images; None is the data set's own (digits 16×16 × 1, CIFAR 32×32 × 3, folder 224×224 × 3). val_fraction: the
    share of the training images held back for validation, where the data set has no such part of its own. on_corrupt:
    what an unreadable image of "folder" does: "error" raises, "skip" leaves it out of its batch with a warning.
    crop_pct: of "folder", the share of the shorter side that is seen: 0.875 of 224 resizes it to 256 and cuts out the
    middle.
    """
    if name not in DATA_SETS:
        raise unknown("data set", name, DATA_SETS)
    if on_corrupt not in ("error", "skip"):
        raise unknown("on_corrupt", on_corrupt, ("error", "skip"))
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}; it must be at least 0 and below 1")
    if channels is not None and channels < 1:
        raise ValueError(f"channels is {channels}; it must be 1 or more")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size and tuple(image_size)
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"image_size is {image_size}; it must be a side or (height, width), in pixels")
    if crop_pct != 1 and name != "folder":
        raise ValueError(f"crop_pct is {crop_pct}; it is for name='folder': images of {name!r} are seen whole")
    folder = None if root is None else Path(root).expanduser()
    reading = {"crop_pct": crop_pct} if name == "folder" else {}
    return DATA_SETS[name](folder, size, channels, val_fraction, on_corrupt, **reading)


def load_source(source: Mapping[str, Any]) -> Data:
    """The data set that the fields of a recipe's `data` describe."""
    return load_data(**{key: value for key, value in source.items() if key not in ("batch_size", "workers")})


def load_data_of(about: Mapping[str, Any], **changes: Any) -> Data:
    """The data set that a checkpoint says it was trained on, with changes such as root="/elsewhere"; None is none."""
    source = about.get("data", {}).get("source")
    if source is None:
        raise ValueError("the checkpoint does not say what data it was trained on: name a data set")
    return load_source(source | {key: value for key, value in changes.items() if value is not None})
