"""The head of a report: what was trained, how good it is, what it costs, and how it came about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from markupsafe import Markup

from spikevit.adaptive import EarlyExit, Halting
from spikevit.adaptive.adapted import own_name
from spikevit.neurons import ExpGIF
from spikevit.profiling.conventions import CONVENTIONS, Energy
from spikevit.profiling.profile import NOTE
from spikevit.report.pieces import Table, number, table
from spikevit.report.run_files import Run
from spikevit.report.sections.base import NONE, Shown, render, unit_of, wilson


def title(runs: list[Shown]) -> str:
    """What was trained on what."""
    if len(runs) > 1:
        return f"Comparison of {len(runs)} runs"
    shown = runs[0]
    methods = " and ".join(name.replace("_", " ") for name, _ in shown.model.methods)
    what = (shown.model.name or type(shown.model.base).__name__) + (f" with {methods}" if methods else "")
    return f"{what} on {shown.run.data or 'data it does not name'}"


def head(runs: list[Shown]) -> Markup:
    """What was trained, how good it is, what it costs; recipe and versions one click away."""
    warnings = []
    tasks = {shown.name: shown.run.task for shown in runs}
    if len(set(tasks.values())) > 1:
        named = "; ".join(f"{name}: {task}" for name, task in tasks.items())
        warnings.append(f"These runs are of different data sets, so that accuracies do not compare. {named}.")
    return render(
        "head.html",
        runs=[
            {
                "name": shown.name,
                "facts": list(_facts(shown)),
                "notes": [*_doubts(shown), *_stages(shown)],
                "steps": _open_steps(shown, i),
                "recipe": shown.run.recipe,
                "versions": _versions(shown.run),
            }
            for i, shown in enumerate(runs)
        ],
        warnings=warnings,
        energy=_energies(runs),
        differ=_differences(runs) if len(runs) > 1 else None,
    )


def _facts(shown: Shown) -> Iterable[dict[str, str]]:
    def fact(name: str, value: str, about: str = "") -> dict[str, str]:
        return {"name": name, "value": value, "about": about}

    look, model = shown.look, shown.model
    if shown.score:
        right, total, which = shown.score
        low, high = wilson(right, total)
        yield fact("Accuracy", f"{right / total:.2%}", f"95 %: {low:.1%} to {high:.1%}; {right:,} of {which}")
    else:
        yield fact("Accuracy", NONE, "not tested")
    yield fact("Time steps", *_time(shown))
    yield fact("Parameters", f"{sum(p.numel() for p in model.parameters()):,}", "the model that is shown")
    if look:
        exact, ratios = look.costs.costs["exact"].energy, {r["name"]: r["ratio"] for r in look.costs.opponents()}
        scale, unit = unit_of([shown])
        beside = [
            f"{ratios[name]:.2f} × the {name}" for name in dict.fromkeys(("ANN", look.costs.fairest)) if ratios[name]
        ]
        about = f"exact convention, an image; {', '.join(beside)}; {NOTE}"
        yield fact("Energy", f"{exact.mj * scale:.3g} {unit}", about)
        rates = look.mean_rates.values()
        yield fact("Firing rate", f"{fmean(rates):.1%}", f"per neuron and step, mean over {len(rates)} layers")
    if shown.run.epochs:
        seconds = sum(row.get("seconds", 0.0) for row in shown.run.epochs)
        best = shown.run.about.get("epoch")
        about = f"{seconds / 60:.1f} minutes"
        about += f"; shown is epoch {best}" if best else "; then converted" if shown.run.certificate else ""
        yield fact("Training", f"{len(shown.run.epochs)} epochs", about)


def _time(shown: Shown) -> tuple[str, str]:
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


def _doubts(shown: Shown) -> list[str]:
    """Why results.json is not shown, or that it is not known what it is of."""
    missing = shown.run.missing
    if "results" in missing:
        return [missing["results"]]
    if shown.contradiction:
        return [shown.contradiction]
    same = shown.look and shown.run.results and shown.look.total == shown.run.results.total  # as many are right
    return [missing["checkpoint"]] if "checkpoint" in missing and not same else []


def _stages(shown: Shown) -> list[str]:
    """Accuracies on the way to a model that was converted."""
    results = shown.run.results
    if shown.run.certificate is None or not results:
        return []
    parts = [("as trained", results), *((f"in {name}", inside) for name, inside in shown.run.stages.items())]
    said = ", ".join(f"{name} {part.accuracy:.2%}" for name, part in parts)
    return [f"On the way, on {results.total:,} {results.split} images: {said}. Shown is the network of spikes."]


def _open_steps(shown: Shown, place: int) -> Table | None:
    if shown.steps is None:
        return None
    rows = [
        [own_name(name), sum(mask), "".join("█" if passes else "·" for passes in mask)]
        for name, mask in shown.steps.table().items()
    ]
    return table(f"steps-{place}", "Time steps at which each layer passes spikes", ("layer", "open", "steps"), rows)


def _versions(run: Run) -> dict[str, str]:
    seed = run.settings.get("trainer", {}).get("seed")
    return {"seed": NONE if seed is None else str(seed)} | (run.results.versions if run.results else {})


def _energies(runs: list[Shown]) -> Table | None:
    """Every convention and baseline in a row: of one run operations and spread, of several an energy of each."""
    (scale, unit), (first, *others) = unit_of(runs), [shown.look for shown in runs]
    caption = f"Energy of an image by convention, {unit} — {NOTE}"
    if others:
        return _compared(runs, scale, unit, caption)
    if first is None:
        return None
    ann = first.costs.baselines["ANN"].energy.mj

    def row(name: str, e: Energy, spread: float | None) -> list[Any]:
        operations = [number(n / 1e6) for n in (e.macs, e.acs)]
        shown = number(spread * scale, ".3g") if spread is not None else NONE
        return [name, *operations, number(e.mj * scale, ".4g"), shown, number(e.mj / ann, ".2f") if ann else NONE]

    rows = [row(name, cost.energy, cost.spread) for name, cost in first.costs.costs.items()]
    rows += [row(f"the same network: {name}", b.energy, None) for name, b in first.costs.baselines.items()]
    return table("energy", caption, ("convention", "M MAC", "M AC", unit, "± over images", "÷ ANN"), rows)


def _compared(runs: list[Shown], scale: float, unit: str, caption: str) -> Table:
    rows = [
        [
            name if name in CONVENTIONS else f"the same network: {name}",
            *(number(shown.energies[name] * scale, ".4g") if name in shown.energies else NONE for shown in runs),
        ]
        for name in dict.fromkeys(name for shown in runs for name in shown.energies)
    ]
    return table("energy", caption, ("convention", *(f"{unit}, {shown.name}" for shown in runs)), rows)


def _differences(runs: list[Shown]) -> Table | None:
    """What differs between recipes."""
    flat = [dict(_leaves(shown.run.settings)) for shown in runs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [
        [key, *(str(one.get(key, NONE)) for one in flat)] for key in keys if len({str(o.get(key)) for o in flat}) > 1
    ]
    return (
        table("recipes", "Where the recipes differ", ("key", *(shown.name for shown in runs)), rows) if rows else None
    )


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
