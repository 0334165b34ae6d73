"""Halting maps: how far each token of an image went, laid over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from spikevit.adaptive.halting import Visits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 6


def picture(images: Tensor, visits: Visits, cells: int, titles: Sequence[str]) -> Figure:
    """Each image (C, H, W), in 0 … 1, and beside it how many of `cells` its tokens visited."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 1.35 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2 * COLUMNS, squeeze=False)
    shown = None
    for axis in axes.flat:
        axis.axis("off")
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, right = (axes[i // COLUMNS, 2 * (i % COLUMNS) + side] for side in (0, 1))
        seen = image.movedim(0, -1).squeeze(-1)
        left.imshow(seen, cmap="gray_r", vmin=0, vmax=1)
        left.set_title(title, fontsize=8, pad=2)
        shown = right.imshow(visits.cells[i].cpu(), cmap="viridis", vmin=1, vmax=cells)
        right.set_title(f"{float(visits.cells[i].float().mean()):.1f}", fontsize=8, pad=2)
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes, fraction=0.02, pad=0.01)
        bar.set_label(f"cells visited, of {cells}", fontsize=8)
    return figure
