"""Training: loss, accuracy, learning rate, work and firing rate over epochs."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from markupsafe import Markup

from spikevit.report import svg
from spikevit.report.pieces import Chart, chart
from spikevit.report.run_files import Run
from spikevit.report.sections.base import Shown, render

Line = tuple[list[float], list[float]]  # epochs and values


def curves(runs: list[Shown]) -> Markup:
    """Loss, accuracy, learning rate, work and firing rate over training."""
    missing = [f"{shown.name}: {shown.run.missing['curves']}" for shown in runs if "curves" in shown.run.missing]
    missing += [
        f"{shown.name}: {shown.run.missing['rates']}"
        for shown in runs
        if "rates" in shown.run.missing and "curves" not in shown.run.missing
    ]
    one = len(runs) == 1
    units = dict.fromkeys(shown.model.work_unit for shown in runs)
    losses = {"loss": "training", "val_loss": "validation"} if one else {"val_loss": "validation"}
    wanted = (
        ("loss", losses, "loss", "Loss" if one else "Loss on validation images"),
        ("accuracy", {"val_accuracy": "validation"}, "accuracy", "Accuracy on validation images"),
        ("learning-rate", {"lr": "learning rate"}, "learning rate", "Learning rate"),
        (
            "work",
            {"val_work": "validation"},
            "; ".join(units) if len(units) == 1 else "work, each in its unit",
            "Work of a validation image, mean",
        ),
    )
    charts = []
    for name, columns, y, label in wanted:
        series = {
            called if one else shown.name: _column(shown.run, column)
            for shown in runs
            for column, called in columns.items()
        }
        most = max(len(set(ys)) for _, ys in series.values())
        if most > (name == "work"):
            charts.append(_over_epochs(name, series, y, label))
    series = _rates_over_epochs(runs)
    if any(ys for _, ys in series.values()):
        charts.append(_over_epochs("rates", series, "firing rate", "Firing rate on validation images, over layers"))
    return render("curves.html", missing=missing, charts=charts)


def _column(run: Run, name: str) -> Line:
    """Epochs and values of a column of metrics.csv; nothing where it is not there."""
    rows = [row for row in run.epochs if name in row]
    return [row["epoch"] for row in rows], [row[name] for row in rows]


def _over_epochs(name: str, series: dict[str, Line], y: str, label: str) -> Chart:
    rows = [
        {"series": key, "epoch": x, "value": v} for key, (xs, ys) in series.items() for x, v in zip(xs, ys, strict=True)
    ]
    ends = "; ".join(f"{key}: {ys[0]:.4g} to {ys[-1]:.4g}" for key, (_, ys) in series.items() if ys)
    return chart(f"curve-{name}", svg.lines(series, "epoch", y), f"{label} over epochs. {ends}", label, rows=rows)


def _rates_over_epochs(runs: list[Shown]) -> dict[str, Line]:
    """Mean over layers; of a single run the layers that fire most and least, too."""
    series: dict[str, Line] = {}
    for shown in runs:
        layers: dict[float, dict[str, list[float]]] = {}
        for row in shown.run.rates:
            layers.setdefault(float(row["epoch"]), {}).setdefault(row["layer"], []).append(float(row["rate"]))
        by_epoch = {epoch: [fmean(steps) for steps in found.values()] for epoch, found in layers.items()}
        kinds: dict[str, Any] = (
            {"mean": fmean, "highest": max, "lowest": min} if len(runs) == 1 else {shown.name: fmean}
        )
        for name, of in kinds.items():
            series[name] = list(by_epoch), [of(rates) for rates in by_epoch.values()]
    return series
