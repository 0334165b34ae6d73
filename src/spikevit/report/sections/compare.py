"""Several runs in one table: how good each is, what it took, and whether the difference is more than luck."""

from __future__ import annotations

from spikevit.adaptive import EarlyExit, Halting
from spikevit.neurons import ExpGIF
from spikevit.profiling.profile import NOTE
from spikevit.report.pieces import Cell, Table, number, table
from spikevit.report.run_files import Run
from spikevit.report.sections.base import NONE, Shown, told_apart, unit_of, wilson


def ranked(runs: list[Shown]) -> list[Shown]:
    """From the most accurate to the least, those that were not tested last; as they are where data sets differ."""
    if len({shown.run.task for shown in runs}) > 1:
        return runs
    return sorted(runs, key=lambda shown: -shown.score[0] / shown.score[1] if shown.score else 1)


def verdict(runs: list[Shown]) -> str:
    """Which run is best, and from which others that is more than luck."""
    scores = {shown.name: shown.score for shown in runs if shown.score}
    if not scores:
        return "How many images these runs get right is not known."
    if len({shown.run.task for shown in runs}) > 1:
        return "These runs are of different data sets: each is a matter of its own."
    (first, (right, total, which)), *others = scores.items()
    said = f"Best is {first}: {right / total:.1%} of {which.partition(';')[0]} are right"
    alike = sum(not told_apart((right, total), score[:2]) for _, score in others)
    if not others:
        return f"{said}; no other run was tested."
    if not alike:
        return f"{said}, more than in any other run beyond the 95 % interval."
    return f"{said}; {alike} of the {len(others)} other runs cannot be told from it by so many images."


def table_of(runs: list[Shown], alike: bool) -> Table:
    """A row for each of `ranked` runs. alike: whether they are of the same images."""
    scale, unit = unit_of(runs)
    best = runs[0].score if alike else None
    rows = []
    for shown in runs:
        energy = number(shown.energies["exact"] * scale, ".3g") if shown.energies else NONE
        fairest = Cell(NONE)
        if shown.fairest:
            name, ratio = shown.fairest
            fairest = Cell(f"{ratio:.2f}", ratio, about=name)
        steps, seconds = time_of(shown)[0], seconds_of(shown.run)
        rows.append(
            [
                Cell(shown.name, about="" if shown.sound else "silent layers" if shown.silence else "at chance"),
                _accuracy(shown, best),
                energy,
                fairest,
                Cell(steps, _value(steps)),
                Cell(epochs_of(shown.run) or NONE, len(shown.run.epochs)),
                Cell(f"{seconds:,.0f}", seconds) if seconds else NONE,
            ]
        )
    heads = ("run", "accuracy", f"{unit} an image", "spikes ÷ fairest opponent", "T", "epochs", "training, s")
    caption = f"{len(runs)} runs{', the most accurate first' if alike else ''}. Energy: exact, {NOTE}. "
    caption += "The fairest opponent is the cheapest ANN of the same network; below 1, spikes cost less."
    return table("runs", caption, heads, rows, sortable=True)


def _accuracy(shown: Shown, best: tuple[int, int, str] | None) -> Cell | str:
    """With its 95 % interval; in bold the best, and what cannot be told from it is said to be so."""
    if shown.score is None:
        return NONE
    right, total, _ = shown.score
    low, high = wilson(right, total)
    about = f"{low:.1%} to {high:.1%}"
    top = best is not None and right / total == best[0] / best[1]
    if best and not top and not told_apart(best[:2], (right, total)):
        about += "; not told from the best"
    return Cell(f"{right / total:.2%}", right / total, about=about, best=top)


def _value(text: str) -> float | None:
    """What sorts a number of steps."""
    try:
        return float(text.split()[0])
    except ValueError:
        return None


def epochs_of(run: Run) -> str:
    """Its own, and those of the runs inside: "25 + 3"."""
    return " + ".join(str(len(rows)) for rows in (run.epochs, *(stage.epochs for stage in run.stages)) if rows)


def seconds_of(run: Run) -> float:
    """Of training, all stages."""
    tables = (run.epochs, *(stage.epochs for stage in run.stages))
    return sum(row.get("seconds", 0.0) for rows in tables for row in rows)


def time_of(shown: Shown) -> tuple[str, str]:
    """T: fixed, mean, or of each layer."""
    model, look = shown.model, shown.look
    layers = [m.code.time_steps for m in model.modules() if isinstance(m, ExpGIF)]
    total = f"of {model.config.time_steps}"
    if layers:
        low, high = min(layers), max(layers)
        return (f"{low}" if low == high else f"{low} to {high}"), "each layer has its own: see Conversion"
    if not model.time_axis:
        return "none", "staircases, not yet converted into spikes"
    outer = next((m for m in model.modules() if isinstance(m, (Halting, EarlyExit))), None)
    if outer is not None:
        unit = "cells (block and step) a token" if isinstance(outer, Halting) else "time steps"
        most = f"of {model.most_work} {unit}, mean over images"
        mean = shown.results.work if shown.results else None
        mean = float(look.work.mean()) if mean is None and look else mean
        least, largest = (float(look.work.min()), float(look.work.max())) if look else (0.0, 0.0)
        spread = f"; {least:.3g} to {largest:.3g}" if look else ""
        return (NONE if mean is None else f"{mean:.2f}"), most + spread
    if shown.steps is not None:
        return f"{shown.steps.mean_steps:.2f}", f"{total}, mean over layers of neurons"
    return f"{model.config.time_steps}", "all layers, all images"
