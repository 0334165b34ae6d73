"""Libraries that only some data sets and augmentations need, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str) -> Any:
    """The module of that name; an ImportError that says which extra of spikevit brings it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'{package} cannot be imported ({error}): pip install "spikevit[{extra}]"') from error
