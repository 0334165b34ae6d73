"""The front of a plan: spikes against error, the longest T as colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spikevit.conversion.planner import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture(plan: Plan) -> Figure:
    """Every plan of the front, those before and after marked, a line along those of equal T."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import BoundaryNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    steps = sorted({p.steps for p in plan.front})
    colours = colormaps["viridis_r"].resampled(len(steps))
    norm = BoundaryNorm(np.arange(len(steps) + 1) - 0.5, len(steps))

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, t in enumerate(steps):
        points = [p for p in plan.front if p.steps == t]
        x, y = [p.spikes for p in points], [p.error for p in points]
        shown = axis.scatter(x, y, c=[i] * len(x), cmap=colours, norm=norm, s=10, linewidths=0, zorder=2)
        axis.plot(x, y, color=colours(i), linewidth=0.6, alpha=0.5, zorder=1)
    for point, name, marker in ((plan.before, "before", "X"), (plan.after, "after", "*")):
        axis.scatter([point.spikes], [point.error], marker=marker, s=150, c="crimson", edgecolors="white", zorder=3)
        label = f"{name}: T = {point.steps}"
        side = "left" if point is plan.before else "right"  # text to the side where nothing of the other mark is
        offset = (8, 8) if side == "left" else (-8, -12)
        axis.annotate(label, (point.spikes, point.error), offset, textcoords="offset points", ha=side, color="crimson")
    axis.set_xscale("log")
    axis.set_yscale("log")
    for scale, form in ((axis.xaxis, "{:,.0f}"), (axis.yaxis, "{:.2g}")):
        scale.set_major_formatter(FuncFormatter(lambda value, _, form=form: form.format(value)))
        scale.set_minor_formatter(FuncFormatter(lambda value, _, form=form: _few(value, form)))
    axis.set_xlabel("spikes an image, predicted")
    axis.set_ylabel("error: relative RMS, over layers")
    axis.set_title(f"{len(plan.front)} plans for {len(plan.layers)} layers of neurons", fontsize=11)
    axis.grid(True, which="both", linewidth=0.3, alpha=0.5)
    bar = figure.colorbar(shown, ax=axis, ticks=range(len(steps)), label="longest T of a layer")
    bar.ax.set_yticklabels([str(t) for t in steps])
    return figure


def _few(value: float, form: str) -> str:
    """Labels at 2 and 5 of every decade only."""
    return form.format(value) if f"{value:e}"[0] in "25" else ""
