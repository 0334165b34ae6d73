"""What a network costs: energy by convention, every product, the spike-driven check, and what was not counted."""

from __future__ import annotations

from math import isnan, nan
from statistics import fmean
from typing import Any

from markupsafe import Markup

from spikevit.profiling.profile import NOTE
from spikevit.report import svg
from spikevit.report.look import Look
from spikevit.report.pieces import Cell, Chart, Table, chart, number, table
from spikevit.report.sections.base import NONE, Shown, render, short, unit_of


def cost(runs: list[Shown]) -> Markup:
    """Energy by convention, every product, the spike-driven check with reasons, and what was not counted."""
    seen = [(shown, shown.look, i) for i, shown in enumerate(runs) if shown.look]
    missing = [f"{shown.name}: {shown.why}" for shown in runs if shown.look is None]
    return render(
        "cost.html",
        missing=missing,
        many=len(runs) > 1,
        bars=_bars(runs) if seen else [],
        runs=[
            {
                "name": shown.name,
                "pays": _pays(look),
                "layers": _layers(look, shown, place),
                "checks": [_check(c, place) for c in look.checks],
                "uncounted": [
                    f"Not counted: operator {o.operator} in {short(o.module) or 'the model itself'}, {o.calls} calls."
                    for o in look.costs.counts.uncounted
                ],
                "left": _left(look, place),
            }
            for shown, look, place in seen
        ],
    )


def _bars(runs: list[Shown]) -> list[Chart]:
    scale, unit = unit_of(runs)
    found: dict[str, dict[str, float]] = {}
    spread: dict[str, float] = {}
    for shown in runs:
        if shown.look is None:
            continue
        costs, column = shown.look.costs, "energy" if len(runs) == 1 else shown.name
        for name, c in costs.costs.items():
            found.setdefault(name, {})[column] = c.energy.mj * scale
            spread[name] = (c.spread or 0.0) * scale
        for name, e in costs.baselines.items():
            found.setdefault(name, {})[column] = e.mj * scale
    columns = ["energy"] if len(runs) == 1 else [shown.name for shown in runs]
    found = {name: {column: values.get(column, nan) for column in columns} for name, values in found.items()}
    rows = [{"convention": name, **values} for name, values in found.items()]
    label = f"Energy of an image by convention, {unit} — {NOTE}"
    said = "; ".join(f"{name} {', '.join(f'{v:.3g}' for v in values.values())}" for name, values in found.items())
    drawn = svg.bars(found, f"{unit} an image ({NOTE})", spread=spread if len(runs) == 1 else None)
    charts = [chart("energy-bars", drawn, f"{label}: {said}", label, rows=rows)]
    if len(runs) > 1:
        places = {
            shown.name: (shown.look.costs.costs["exact"].energy.mj * scale, 100 * shown.score[0] / shown.score[1])
            if shown.look and shown.score
            else (nan, nan)
            for shown in runs
        }
        axes = (f"{unit} an image, exact ({NOTE})", "accuracy, %")
        label = "Accuracy against energy"
        said = "; ".join(f"{name}: {y:.2f} % at {x:.3g} {unit}" for name, (x, y) in places.items() if x == x)
        rows = [{"run": name, "energy": x, "accuracy": y} for name, (x, y) in places.items()]
        charts.append(chart("accuracy-energy", svg.points(places, *axes), f"{label}: {said}", label, rows=rows))
    return charts


def _pays(look: Look) -> str:
    """Where spikes pay off, and with which energies."""
    said = []
    for name, rate in look.costs.break_even.items():
        where = (
            "at any rate" if rate >= 1 else "at no rate" if isnan(rate) or rate <= 0 else f"at rates below {rate:.0%}"
        )
        said.append(f"less than the {name} {where}")
    constants = look.costs.constants
    return (
        f"By the exact convention it costs {', and '.join(said)}. Energies ({NOTE}): {constants.name}, "
        f"{constants.about}; counted on {look.costs.counts.images} images."
    )


def _layers(look: Look, shown: Shown, place: int) -> Table:
    scale, unit = unit_of([shown])
    rows = []
    for layer in look.costs.layers():
        operands = layer["operands"]
        rate = fmean(o["rate"] for o in operands) if operands else 0.0
        rows.append(
            [
                short(layer["module"]) or "the model itself",
                layer["operator"],
                " × ".join(o["class"] for o in operands) or NONE,
                Cell(" × ".join(f"{o['rate']:.0%}" for o in operands) or NONE, rate),
                *(number(layer[key] / 1e6, ".3g") for key in ("dense", "macs", "acs")),
                *(number(layer[key] * scale, ".3g") for key in ("exact_mj", "paper_mj")),
            ]
        )
    energies = (f"{unit} exact", f"{unit} paper, stem once")
    heads = ("module", "operator", "operands", "non-zero", "M dense", "M MAC", "M AC", *energies)
    caption = f"Every product, of one image; energies: {NOTE}"
    return table(f"layers-{place}", caption, heads, rows, sortable=True)


def _check(found: Any, place: int) -> dict[str, Any]:
    rows = [
        [short(v.module), v.operator, " × ".join(v.operands) or NONE, "pass" if v.passed else "fail", v.reason]
        for v in sorted(found.verdicts, key=lambda v: v.passed)
    ]
    name, heads = f"check-{found.rule.name}-{place}", ("module", "operator", "operands", "verdict", "why")
    caption = f"Rule {found.rule.name}, product by product"
    return {
        "name": found.rule.name,
        "about": found.rule.about,
        "passed": found.passed,
        "table": table(name, caption, heads, rows, sortable=True),
    }


def _left(look: Look, place: int) -> Table | None:
    """Work that no convention charges, or one alone."""
    counts = look.costs.counts
    kinds: dict[str, float] = {}
    for other in counts.elementwise:
        kinds[other.operator] = kinds.get(other.operator, 0.0) + other.elements / counts.images
    rows = [[name, Cell(f"{n:,.0f}", n)] for name, n in sorted(kinds.items(), key=lambda item: -item[1])]
    caption = (
        "Work that is no product, entries an image: shifts are charged by exact, batch norm by syops, others by none"
    )
    return table(f"uncharged-{place}", caption, ("operator", "entries"), rows) if rows else None
