"""Charts as SVG for a page. matplotlib draws; colours are left to the page, so that they follow light and dark.

Every chart is drawn in stand-in colours, which become CSS variables: --ink, --grid, --c0 … --c5.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from math import isnan, nan
from typing import Any

from torch import Tensor

INK, GRID = "#010203", "#020304"
SERIES = tuple(f"#0{i}0a0b" for i in range(1, 7))
VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)"} | {c: f"var(--c{i})" for i, c in enumerate(SERIES)}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "spikevit",
    "text.parse_math": False,  # a class may be called $x$
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.prop_cycle": f"cycler('color', {list(SERIES)})",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
_charts = count()


def _style(**more: Any) -> Any:
    """The context to draw in; `more` settings with _ for the dots of matplotlib's names."""
    import matplotlib

    return matplotlib.rc_context(STYLE | {name.replace("_", "."): value for name, value in more.items()})


def _figure(width: float, height: float, names: Collection[str] = ()) -> tuple[Any, Any]:
    """A figure with one plot of width × height inches, and room for ticks; `names`: of its rows, from top to bottom."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    left = 0.1 + 0.075 * max(map(len, names)) if names else 0.74
    figure = Figure(figsize=(left + width + 0.1, height + 0.6))
    FigureCanvasSVG(figure)
    full, tall = figure.get_size_inches()
    axis = figure.add_axes((left / full, 0.5 / tall, width / full, height / tall))
    if names:
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
    return figure, axis


def _steps(axis: Any, steps: int) -> None:
    """Time steps on the x axis, 1 … T."""
    axis.set_xlim(0.5, steps + 0.5)
    axis.set_xticks(range(1, steps + 1, 1 + steps // 24))


def _svg(figure: Any) -> str:
    """The figure as an element for a page: no size but its proportions, no identifiers but those it refers to."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    natural = f'style="--natural: {1.45 * 72 * figure.get_figwidth():.0f}px" '
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', natural, svg, count=1)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    prefix, used = f"c{next(_charts)}-", set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)
    return re.sub(r">\s+<", "><", svg).strip()


def _label(name: str) -> str:
    """For a legend, which would leave out names that begin with an underscore."""
    return f"\u200b{name}"


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> str:
    """Lines over x by name, each with its points; one without any keeps its colour free, as in other charts."""
    with _style():
        figure, axis = _figure(3.7, 2.1)
        for i, (name, (xs, ys)) in enumerate(series.items()):
            style = ("-", "--", ":", "-.")[i // len(SERIES) % 4]
            axis.plot(xs, ys, style, label=_label(name) if len(xs) else None, marker="o" if len(xs) < 3 else None)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.xaxis.get_major_locator().set_params(integer=all(v == int(v) for xs, _ in series.values() for v in xs))
        if len(series) > 1:
            axis.legend(ncols=1 + (len(series) > 4))
        return _svg(figure)


def bars(
    rows: Mapping[str, Mapping[str, float]],
    x: str,
    *,
    spread: Mapping[str, float] | None = None,
    marks: Mapping[str, float] | None = None,
) -> str:
    """Horizontal bars, a group for each row, a colour for each series; the value behind each.

    spread: of a row, as a line over its bar. marks: of a row, a value to compare with.
    """
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    with _style(axes_grid_axis="x"):
        figure, axis = _figure(3.6, 0.24 * len(rows) * max(1, 0.7 * len(names)), rows)
        height = 0.8 / len(names)
        for j, name in enumerate(names):
            places = [i - 0.4 + height * (j + 0.5) for i in range(len(rows))]
            values = [row.get(name, nan) for row in rows.values()]
            errors = [spread.get(row, 0.0) for row in rows] if spread else None
            style: Any = {"ecolor": INK, "lw": 0.8}
            drawn = axis.barh(places, values, height * 0.9, xerr=errors, label=_label(name), error_kw=style)
            axis.bar_label(drawn, ["" if isnan(v) else f"{v:.3g}" for v in values], padding=6, fontsize=8)
        if marks:
            axis.plot(list(marks.values()), range(len(rows)), "|", color=SERIES[1], markersize=10, markeredgewidth=2)
        axis.set_xlabel(x)
        axis.margins(x=0.15)
        if len(names) > 1:
            axis.legend()
        return _svg(figure)


def heat(rows: Mapping[str, Sequence[float]], x: str) -> str:
    """A cell for each value of each row, the stronger its colour the larger the value, which it also says."""
    from matplotlib.patches import Rectangle

    columns = max(len(values) for values in rows.values())
    most = max((v for values in rows.values() for v in values), default=0) or 1
    with _style(axes_grid=False, axes_spines_left=False, axes_spines_bottom=False, ytick_labelsize=8):
        figure, axis = _figure(min(0.42 * columns, 6.0), 0.2 * len(rows), rows)
        for i, values in enumerate(rows.values()):
            for j, value in enumerate(values):
                strength = min(1, value / most) * 0.75
                axis.add_patch(
                    Rectangle((j + 0.54, i - 0.46), 0.92, 0.92, color=SERIES[0], alpha=strength, linewidth=0)
                )
                if columns <= 16:
                    axis.text(j + 1, i, f"{value:.0%}", ha="center", va="center", fontsize=7)
        _steps(axis, columns)
        axis.tick_params(length=0)
        axis.set_xlabel(x)
        return _svg(figure)


def raster(spikes: Mapping[str, Tensor]) -> str:
    """A mark for every spike: of each layer some neurons (n, T), side by side within a step; the first layer on top."""
    columns = max(s.shape[1] for s in spikes.values())
    with _style(axes_grid=False, axes_spines_left=False, ytick_labelsize=8):
        figure, axis = _figure(min(0.9 * columns, 5.6), 0.2 * len(spikes), spikes)
        for i, s in enumerate(spikes.values()):
            neuron, step = s.nonzero(as_tuple=True)
            places = (step + 0.55 + 0.9 * (neuron + 0.5) / len(s)).tolist()
            x = [v for place in places for v in (place, place, nan)]  # one path of strokes
            axis.plot(x, [i - 0.32, i + 0.32, nan] * len(places), color=SERIES[0], linewidth=0.9)
            if s.shape[1] < columns:  # steps that this layer does not have
                axis.barh([i], columns - s.shape[1], 0.8, left=s.shape[1] + 0.5, color=GRID, alpha=0.6)
        for end in range(1, columns):
            axis.axvline(end + 0.5, color=GRID, linewidth=1)
        _steps(axis, columns)
        axis.set_xlabel("time step")
        return _svg(figure)


def histogram(counts: Mapping[str, int], x: str, y: str) -> str:
    """A bar for each whole number."""
    with _style(axes_grid_axis="y"):
        figure, axis = _figure(3.7, 1.9)
        axis.bar_label(axis.bar(list(counts), list(counts.values())), fontsize=8)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.margins(y=0.12)
        return _svg(figure)


def points(places: Mapping[str, tuple[float, float]], x: str, y: str) -> str:
    """A named point each."""
    with _style():
        figure, axis = _figure(3.7, 2.3)
        for name, (px, py) in places.items():
            axis.plot([px], [py], "o", markersize=7, label=_label(name) if px == px else None)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.margins(0.2)
        axis.legend(loc="best")
        return _svg(figure)
