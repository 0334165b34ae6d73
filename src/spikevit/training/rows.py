"""Tables that a run keeps: CSV files with rows for each epoch, written whole or not at all."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from spikevit.files import write_atomically


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds rows of one epoch to the table at `path`, whose later epochs (of a run that went on and was resumed) they
    replace; their keys are the columns.
    """
    kept = [old for old in read_rows(path) if int(old["epoch"]) < rows[0]["epoch"]]

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows([*kept, *rows])

    write_atomically(path, write)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; none where there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
