"""Tables that a run keeps: CSV files with rows for each epoch, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikevit import files

NUMBERS = {
    "metrics.csv": ("epoch", "step", "lr", "loss", "val_loss", "val_work", "val_accuracy", "seconds"),
    "spikes.csv": ("epoch", "group", "step", "rate"),
}
GROWING = ("metrics.csv",)  # has more columns in later versions, all of numbers
TEXTS = {"metrics.csv": (), "spikes.csv": ("layer",)}


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds rows of one epoch to the table at `path`, whose later epochs (of a run that went on and was resumed) they
    replace; their keys are the columns, without those that a table of an earlier version lacks.
    """
    old = [row for row in read_rows(path) if row["epoch"] < rows[0]["epoch"]]
    kinds = {name: type(value) for name, value in rows[0].items() if not old or name in old[0]}
    files.write_text(path, files.csv_text([{n: kind(row[n]) for n, kind in kinds.items()} for row in [*old, *rows]]))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.csv or spikes.csv: finite numbers, and the layer's name; none where there is no such file.

    Raises:
        ValueError: it is broken; names the file.
    """
    return files.read_rows(path, NUMBERS[path.name], TEXTS[path.name], more=path.name in GROWING)
