"""What a network costs: energy by convention, every product, the spike-driven check, and what was not counted."""

from __future__ import annotations

from math import nan
from statistics import fmean
from typing import Any

from markupsafe import Markup

from spikevit.adaptive.adapted import own_name
from spikevit.profiling.profile import NOTE
from spikevit.report import svg
from spikevit.report.look import Look
from spikevit.report.pieces import Cell, Chart, Table, chart, number, table
from spikevit.report.sections.base import NONE, Shown, render, unit_of
from spikevit.report.sections.energy import compared, opponents

ILL = "Layers are silent, or accuracy is at chance: what this network costs says nothing about one that works."


def cost(runs: list[Shown]) -> Markup:
    """Energy by convention, every product, the spike-driven check with reasons, and what was not counted."""
    seen = [(shown, shown.look, i) for i, shown in enumerate(runs) if shown.look]
    missing = [f"{shown.name}: {shown.why}" for shown in runs if shown.look is None]
    return render(
        "cost.html",
        missing=missing,
        many=len(runs) > 1,
        bars=_bars(runs) if seen else [],
        compared=compared(runs) if len(runs) > 1 else None,
        runs=[
            {
                "name": shown.name,
                "activity": _activity(shown, look),
                "opponents": opponents(shown, place) if len(runs) > 1 else None,
                "ill": "" if shown.sound else ILL,
                "parts": _parts(look, place),
                "layers": _layers(look, shown, place),
                "checks": [_check(c, place) for c in look.checks],
                "uncounted": [
                    f"Not counted: operator {o.operator} in {_place(o.module)}, {o.calls} calls."
                    for o in look.costs.counts.uncounted
                ],
                "left": _left(look, place),
            }
            for shown, look, place in seen
        ],
    )


def _bars(runs: list[Shown]) -> list[Chart]:
    scale, unit = unit_of(runs)
    axis = f"{unit} an image ({NOTE})"
    if len(runs) == 1:
        (look,) = [shown.look for shown in runs if shown.look]
        found = {name: {"energy": mj * scale} for name, mj in runs[0].energies.items()}
        spread = {name: (cost.spread or 0.0) * scale for name, cost in look.costs.costs.items()}
        label, drawn = f"Energy of an image by convention, {unit} — {NOTE}", svg.bars(found, axis, spread=spread)
    else:
        found = {shown.name: {"energy": shown.energies.get("exact", nan) * scale} for shown in runs}
        best = {s.name: min(b.energy.mj for b in s.look.costs.baselines.values()) * scale for s in runs if s.look}
        drawn = svg.bars(found, axis, marks={name: best.get(name, nan) for name in found})
        label = f"Energy of an image, {unit}, exact — {NOTE}. The mark is the fairest opponent: the cheapest ANN"
    said = "; ".join(f"{name} {values['energy']:.3g}" for name, values in found.items())
    rows = [{"convention" if len(runs) == 1 else "run": name, **values} for name, values in found.items()]
    charts = [chart("energy-bars", drawn, f"{label}: {said}", label, rows=rows)]
    places = {
        shown.name: (shown.energies["exact"] * scale, 100 * shown.score[0] / shown.score[1])
        if shown.energies and shown.score
        else (nan, nan)  # so that a run keeps its colour
        for shown in runs
    }
    if len(runs) > 1:
        axes = (f"{unit} an image, exact ({NOTE})", "accuracy, %")
        label = "Accuracy against energy"
        said = "; ".join(f"{name}: {y:.2f} % at {x:.3g} {unit}" for name, (x, y) in places.items() if x == x)
        rows = [{"run": name, "energy": x, "accuracy": y} for name, (x, y) in places.items()]
        charts.append(chart("accuracy-energy", svg.points(places, *axes), f"{label}: {said}", label, rows=rows))
    return charts


def _activity(shown: Shown, look: Look) -> str:
    """How much fires, at which activity spikes stop paying off, and with which energies."""
    costs, constants = look.costs, look.costs.constants
    said = " ".join([costs.activity(), *(costs.break_even() if shown.sound else [])])
    return f"{said} Energies ({NOTE}): {constants.name}, {constants.about}; counted on {costs.counts.images} images."


def _parts(look: Look, place: int) -> Table | None:
    """Firing rates of q, k, v, … of every mixer."""
    found = look.costs.attention_rates()
    names = list(dict.fromkeys(name for rates in found.values() for name in rates))
    rows = [
        [mixer, *(number(100 * rates[name], ".3g") if name in rates else NONE for name in names)]
        for mixer, rates in found.items()
    ]
    heads = ("mixer", *(f"{name}, %" for name in names))
    return table(f"parts-{place}", "Firing rates of the parts of attention", heads, rows) if rows else None


def _place(module: str) -> str:
    return own_name(module) or "the model itself"


def _layers(look: Look, shown: Shown, place: int) -> Table:
    scale, unit = unit_of([shown])
    rows = []
    for layer in look.costs.layers():
        operands = layer["operands"]
        rate = fmean(o["rate"] for o in operands) if operands else 0.0
        rows.append(
            [
                _place(layer["module"]),
                layer["operator"],
                " × ".join(o["class"] for o in operands) or NONE,
                Cell(" × ".join(f"{o['rate']:.0%}" for o in operands) or NONE, rate),
                *(number(layer[key] / 1e6, ".3g") for key in ("dense", "macs", "acs")),
                *(number(layer[key] * scale, ".3g") for key in ("exact_mj", "paper_mj")),
            ]
        )
    energies = (f"{unit} exact", f"{unit} paper")
    heads = ("module", "operator", "operands", "non-zero", "M dense", "M MAC", "M AC", *energies)
    caption = f"Every product, of one image; energies: {NOTE}"
    return table(f"layers-{place}", caption, heads, rows, sortable=True)


def _check(found: Any, place: int) -> dict[str, Any]:
    rows = [
        [own_name(v.module), v.operator, " × ".join(v.operands) or NONE, "pass" if v.passed else "fail", v.reason]
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
    rows = [[name, Cell(f"{n:,.0f}", n)] for name, n in look.costs.others().items()]
    caption = (
        "Work that is no product, entries an image: shifts are charged by exact, batch norm by syops, others by none"
    )
    return table(f"uncharged-{place}", caption, ("operator", "entries"), rows) if rows else None
