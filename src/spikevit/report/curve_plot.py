"""Accuracy against computation, as a picture and as a table: one point for each setting of a model's knob."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikevit.profiling.profile import NOTE, energy_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group

    from spikevit.report.curve import Curve


def picture(curve: Curve) -> Figure:
    """Accuracy against energy on the left, against work on the right, the own setting marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale, unit = energy_unit(p.exact_mj for p in curve.points)
    points, own = curve.points, curve.chosen
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    sides = (
        (left, lambda p: p.exact_mj * scale, f"energy of an image, {unit} (exact; {NOTE})"),
        (right, lambda p: p.score.work, f"{curve.work_unit} of an image, mean"),
    )
    for axis, x_of, label in sides:
        x, y = [x_of(p) for p in points], [p.score.accuracy * 100 for p in points]
        axis.plot(x, y, color="tab:blue", linewidth=0.8, alpha=0.6, zorder=1)
        axis.scatter(x, y, s=16, color="tab:blue", zorder=2)
        mark = x_of(own), own.score.accuracy * 100
        axis.scatter([mark[0]], [mark[1]], marker="*", s=150, c="crimson", edgecolors="white", zorder=3)
        late = mark[0] > (min(x) + max(x)) / 2  # text to the side where there is room
        axis.annotate(
            _called(curve, own.setting),
            mark,
            (-8, -26) if late else (8, -26),
            textcoords="offset points",
            ha="right" if late else "left",
            color="crimson",
        )
        axis.set_xlabel(label)
        axis.grid(True, linewidth=0.3, alpha=0.5)
        axis.margins(0.08)
    left.set_ylabel(f"accuracy, % of {own.score.total} images of {curve.data}")
    ends = "" if len(points) == 1 else f", {_words(curve.knob)} {points[0].setting:g} to {points[-1].setting:g}"
    figure.suptitle(curve.model + ends, fontsize=11)
    return figure


def table(curve: Curve) -> Group:
    """Every setting in a row, the model's own in bold with a star."""
    from rich.console import Group

    from spikevit.report.terminal import Table, words

    scale, unit = energy_unit(p.exact_mj for p in curve.points)
    title = f"{curve.model}: accuracy on {curve.chosen.score.total} images of {curve.data}, and what an image took"
    found = Table(title)
    ours = ("", _words(curve.knob), "accuracy", f"{curve.work_unit}, mean")
    for head in (*ours, "M MAC", "M AC", f"{unit}, exact", f"{unit}, paper", "wall ms"):
        found.add_column(head, justify="right")
    for p in curve.points:
        found.add_row(
            "★" if p.chosen else "",
            f"{p.setting:.4g}",
            f"{p.score.accuracy:.2%}",
            f"{p.score.work:.2f}",
            f"{p.macs / 1e6:.3f}",
            f"{p.acs / 1e6:.3f}",
            f"{p.exact_mj * scale:.3f}",
            f"{p.paper_mj * scale:.3f}",
            f"{p.wall_ms:.2f}",
            style="bold" if p.chosen else "",
        )
    c = curve.constants
    about = (
        f"★ the model's own setting. Operations: as executed on the first {curve.images} images. Energy: {NOTE}; "
        f"{c.name}: {c.about}. Wall time: of the whole evaluation on this machine, measured."
    )
    return Group(found, words(about, "dim"))


def _words(knob: str) -> str:
    return "no knob" if knob == "none" else knob.replace("_", " ")


def _called(curve: Curve, setting: float) -> str:
    return "the model" if curve.knob == "none" else f"{_words(curve.knob)} = {setting:.4g}"
