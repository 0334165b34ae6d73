"""What sections of a page are made of: tables, charts and small pictures, each with its data to take away."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from torch import Tensor

from spikevit.files import csv_text

PIXELS = 112  # the longer side of a small picture, at most


@dataclass(frozen=True)
class Cell:
    """A cell of a table. value: what sorts it, and what the CSV says. share: 0 … 1, how strong its colour.

    about: what stands below the text, smaller. best: in bold.
    """

    text: str
    value: float | None = None
    share: float = 0.0
    about: str = ""
    best: bool = False


@dataclass(frozen=True)
class Head:
    """Of a column."""

    text: str
    number: bool


@dataclass(frozen=True)
class Table:
    """name: its identifier on the page, and of its file."""

    name: str
    caption: str
    heads: list[Head]
    rows: list[list[Cell]]
    csv: Markup
    sortable: bool = False


@dataclass(frozen=True)
class Chart:
    """label: what it shows, for those who do not see it; caption: what stands below it."""

    name: str
    svg: Markup
    label: str
    caption: str
    csv: Markup | None = None
    wide: bool = False


def number(value: float, form: str = ".3f") -> Cell:
    """A cell that shows a number."""
    return Cell(format(value, form), value)


def table(
    name: str, caption: str, heads: Sequence[str], rows: Sequence[Sequence[Any]], sortable: bool = False
) -> Table:
    """A table of texts, whole numbers and cells; the first cell of a row names it."""
    cells = [[_cell(value) for value in row] for row in rows]
    plain = [
        {head: cell.text if cell.value is None else cell.value for head, cell in zip(heads, row, strict=True)}
        for row in cells
    ]
    numbers = [any(row[i].value is not None for row in cells) and i > 0 for i in range(len(heads))]
    found = [Head(head, is_number) for head, is_number in zip(heads, numbers, strict=True)]
    return Table(name, caption, found, cells, data_of(csv_text(plain)), sortable)


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(f"{value:,}", value) if isinstance(value, int) else Cell(str(value))


def chart(
    name: str, svg: str, label: str, caption: str = "", *, rows: Sequence[dict] = (), wide: bool = False
) -> Chart:
    """A drawing of `svg`, with the rows it was drawn from."""
    csv = data_of(csv_text(list(rows))) if rows else None
    return Chart(name, Markup(svg), label, caption or label, csv, wide)


def data_of(text: str) -> Markup:
    """A text as the address of a file of CSV that is on the page itself."""
    return Markup("data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode())


def picture(image: Tensor, over: Tensor | None = None, most: float = 1.0) -> Markup:
    """The address of a PNG of an image, uint8 (C, H, W); with the values of a grid (H', W'), 0 … most, laid over it."""
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    seen = image if len(image) == 3 else image[:1]  # grey, or the first of other channels
    pixels = seen.movedim(0, -1).squeeze(-1).numpy()
    shown = Image.fromarray(pixels)
    if over is not None:
        colours = colormaps["viridis"](over.float().numpy() / (most or 1.0))[..., :3]
        above = Image.fromarray((colours * 255).astype("u1"))
        below = Image.fromarray(np.asarray(shown.convert("RGB")))
        shown = Image.blend(below, above.resize(below.size, Image.Resampling.NEAREST), 0.6)
    shown.thumbnail((PIXELS, PIXELS))
    file = io.BytesIO()
    shown.save(file, "PNG", optimize=True)
    return Markup("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
