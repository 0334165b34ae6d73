"""Charts as SVG for a page. matplotlib draws; colours are left to the page, so that they follow light and dark.

Every chart is drawn in stand-in colours, which become CSS variables: --ink, --grid, --c0 … --c5.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from math import ceil, isnan, nan
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
    "font.size": 10,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
CHARACTER = 0.07  # width of a letter of a row's name, in inches
_charts = count()


def _style(**more: Any) -> Any:
    """The context to draw in; `more` settings with _ for the dots of matplotlib's names."""
    import matplotlib

    return matplotlib.rc_context(STYLE | {name.replace("_", "."): value for name, value in more.items()})


def _figure(width: float, height: float, names: Collection[str] = ()) -> tuple[Any, Any]:
    """A figure with one plot of width × height inches, and room for ticks; `names`: of its rows, from top to bottom."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(dpi=72)  # that of SVG, in which words are measured
    FigureCanvasSVG(figure)
    left = 0.1 + CHARACTER * max(map(len, names)) if names else 0.66
    axis = figure.add_axes((0, 0, 1, 1))
    _place(figure, axis, (left, 0.5, width, height, 0.1, 0.1))
    if names:
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
    return figure, axis


def _place(figure: Any, axis: Any, inches: tuple[float, ...]) -> None:
    """The plot in its figure: room to the left, below, its width and height, room to the right, above."""
    left, below, width, height, right, above = inches
    full, tall = left + width + right, below + height + above
    figure.set_size_inches(full, tall)
    axis.set_position((left / full, below / tall, width / full, height / tall))


def _fit(figure: Any) -> None:
    """More room on every side where words do not fit; the plot keeps its size."""
    axis, dpi = figure.axes[0], figure.dpi
    box, plot = axis.get_tightbbox(), axis.get_window_extent()
    full, tall = figure.get_size_inches()
    had = (plot.x0 / dpi, plot.y0 / dpi, full - plot.x1 / dpi, tall - plot.y1 / dpi)
    need = (plot.x0 - box.x0, plot.y0 - box.y0, box.x1 - plot.x1, box.y1 - plot.y1)
    left, below, right, above = (max(a, b / dpi + 0.06) for a, b in zip(had, need, strict=True))
    _place(figure, axis, (left, below, plot.width / dpi, plot.height / dpi, right, above))


def _steps(axis: Any, steps: int) -> None:
    """Time steps on the x axis, 1 … T."""
    axis.set_xlim(0.5, steps + 0.5)
    axis.set_xticks(range(1, steps + 1, 1 + steps // 24))


def _svg(figure: Any) -> str:
    """The figure as an element for a page: no size but its proportions, no identifiers but those it refers to."""
    _fit(figure)
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


def _legend(axis: Any, many: int) -> None:
    """In the plot where few names fit, else below it, in columns."""
    if many > 4:
        axis.legend(loc="upper left", bbox_to_anchor=(-0.2, -0.22), ncols=2, columnspacing=1, handlelength=1.5)
    elif many > 1:
        axis.legend(handlelength=1.5)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, *, marked: bool = False
) -> str:
    """Lines over x by name, each with its points; one without any keeps its colour free, as in other charts."""
    with _style():
        figure, axis = _figure(3.3, 2.0)
        for i, (name, (xs, ys)) in enumerate(series.items()):
            style = ("-", "--", ":", "-.")[i // len(SERIES) % 4]
            marker = "o" if marked or len(xs) < 3 else None
            axis.plot(xs, ys, style, label=_label(name) if len(xs) else None, marker=marker)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        places = {x for xs, _ in series.values() for x in xs}
        if len(places) == 1:
            axis.set_xticks(list(places))
        else:
            axis.xaxis.get_major_locator().set_params(integer=all(x == int(x) for x in places))
        _legend(axis, len(series))
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
        figure, axis = _figure(2.3, 0.26 * len(rows) * max(1, 0.7 * len(names)), rows)
        height = 0.8 / len(names)
        for j, name in enumerate(names):
            places = [i - 0.4 + height * (j + 0.5) for i in range(len(rows))]
            values = [row.get(name, nan) for row in rows.values()]
            errors = [spread.get(row, 0.0) for row in rows] if spread else None
            style: Any = {"ecolor": INK, "lw": 0.8}
            drawn = axis.barh(places, values, height * 0.9, xerr=errors, label=_label(name), error_kw=style)
            axis.bar_label(drawn, ["" if isnan(v) else f"{v:.3g}" for v in values], padding=6)
        if marks:
            axis.plot(list(marks.values()), range(len(rows)), "|", color=SERIES[1], markersize=10, markeredgewidth=2)
        axis.set_xlabel(x)
        axis.margins(x=0.15)
        _legend(axis, len(names))
        return _svg(figure)


def heat(rows: Mapping[str, Sequence[float]], x: str) -> str:
    """A cell for each value of each row, the stronger its colour the larger the value, which it also says."""
    from matplotlib.patches import Rectangle

    columns = max(len(values) for values in rows.values())
    most = max((v for values in rows.values() for v in values), default=0) or 1
    with _style(axes_grid=False, axes_spines_left=False, axes_spines_bottom=False, ytick_labelsize=8.5):
        figure, axis = _figure(min(0.37 * columns, 6.0), 0.2 * len(rows), rows)
        for i, values in enumerate(rows.values()):
            for j, value in enumerate(values):
                strength = min(1, value / most) * 0.75
                axis.add_patch(
                    Rectangle((j + 0.54, i - 0.46), 0.92, 0.92, color=SERIES[0], alpha=strength, linewidth=0)
                )
                if columns <= 16:
                    axis.text(j + 1, i, f"{value:.0%}", ha="center", va="center", fontsize=8.5)
        _steps(axis, columns)
        axis.tick_params(length=0)
        axis.set_xlabel(x)
        return _svg(figure)


def raster(spikes: Mapping[str, Tensor]) -> str:
    """A mark for every spike: of each layer some neurons (n, T), side by side within a step; the first layer on top."""
    columns = max(s.shape[1] for s in spikes.values())
    with _style(axes_grid=False, axes_spines_left=False, ytick_labelsize=8.5):
        figure, axis = _figure(min(0.75 * columns, 5.6), 0.2 * len(spikes), spikes)
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
        figure, axis = _figure(3.3, 2.0)
        axis.bar_label(axis.bar(list(counts), list(counts.values())))
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.margins(y=0.12)
        return _svg(figure)


def reliability(bins: Sequence[tuple[float, float, int]], width: float) -> str:
    """Accuracy over confidence, a bar for each bin (confidence, accuracy, images), and the line where both are one."""
    with _style():
        figure, axis = _figure(3.3, 2.0)
        places = [max(0, ceil(round(sure / width, 6)) - 1) * width for sure, _, _ in bins]
        drawn = axis.bar(places, [right for _, right, _ in bins], width * 0.9, align="edge", alpha=0.6)
        axis.bar_label(drawn, [f"{n:,}" for *_, n in bins])
        axis.plot([0, 1], [0, 1], "--", color=INK, linewidth=0.8)
        axis.plot([sure for sure, _, _ in bins], [right for _, right, _ in bins], "o", color=SERIES[1])
        axis.set_xlabel("confidence (number: images)")
        axis.set_ylabel("accuracy")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.12)
        return _svg(figure)


def points(places: Mapping[str, tuple[float, float]], x: str, y: str) -> str:
    """A named point each."""
    with _style():
        figure, axis = _figure(3.3, 2.2)
        for i, (name, (px, py)) in enumerate(places.items()):
            mark = "osD^v"[i // len(SERIES) % 5]
            axis.plot([px], [py], mark, markersize=7, label=_label(name) if px == px else None)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.margins(0.2)
        _legend(axis, max(2, len(places)))
        return _svg(figure)
