"""Data: sets by name, batches as a function of seed and epoch, augmentation on the device.

Everything below is imported when it is first used, so that a recipe can name an AugmentConfig without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikevit.data.augment import Augment, normalise
    from spikevit.data.batches import Batches, collate, make_loader
    from spikevit.data.config import AugmentConfig
    from spikevit.data.images import read_image
    from spikevit.data.load import DATA_SETS, load_data
    from spikevit.data.sets import Data, DataInfo, ImageSet

_WHERE = {
    "DATA_SETS": "load",
    "Augment": "augment",
    "AugmentConfig": "config",
    "Batches": "batches",
    "Data": "sets",
    "DataInfo": "sets",
    "ImageSet": "sets",
    "collate": "batches",
    "load_data": "load",
    "make_loader": "batches",
    "normalise": "augment",
    "read_image": "images",
}

__all__ = [
    "DATA_SETS",
    "Augment",
    "AugmentConfig",
    "Batches",
    "Data",
    "DataInfo",
    "ImageSet",
    "collate",
    "load_data",
    "make_loader",
    "normalise",
    "read_image",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'spikevit.data' has no attribute {name!r}")
    return getattr(import_module(f"spikevit.data.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
