"""Pictures as files: which endings there are, and how a figure is written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from spikevit.files import write_atomically

FORMATS = (".svg", ".png")


def check_path(path: Path) -> Path:
    """The path, if a picture can be written there.

    Raises:
        ValueError: it ends in neither .svg nor .png.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: a plot is written as {' or '.join(FORMATS)}; give it such an ending")
    return path


def writer(figure: Any, path: Path) -> Callable[[Path], Any]:
    """What writes a figure of matplotlib as the ending of `path` says, for `write_together`.

    The same figure gives the same file.
    """
    kind = check_path(path).suffix[1:]
    metadata = {"Date": None} if kind == "svg" else None
    return partial(figure.savefig, dpi=110, format=kind, metadata=metadata)


def save(figure: Any, path: Path) -> Path:
    """Writes a figure of matplotlib, whole or not at all."""
    write_atomically(path, writer(figure, path))
    return path
