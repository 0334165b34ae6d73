"""Libraries that only some data sets, augmentations and recipes need, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str | None = None) -> Any:
    """The module of that name; where it is missing, an ImportError that says which extra of spikevit brings it, or that
    it is to be installed by itself.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        install = package if extra is None else f'"spikevit[{extra}]"'
        raise ImportError(f"{package} cannot be imported ({error}): pip install {install}") from error
