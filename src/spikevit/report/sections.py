"""The sections of a report: each is a function from the runs that it shows to a piece of HTML.

Every section takes one run or several to compare, and says of each run what it lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from math import isnan, sqrt
from statistics import fmean
from typing import Any

import yaml
from markupsafe import Markup
from torch import Tensor

from spikevit.adaptive import DynamicTimeSteps, EarlyExit, Halting
from spikevit.models import SpikingModel
from spikevit.neurons import ExpGIF
from spikevit.profiling.profile import NOTE
from spikevit.report import svg
from spikevit.report.look import Close, Look
from spikevit.report.pieces import Cell, Chart, Table, chart, number, picture, table
from spikevit.report.run_files import Run

NONE = "–"


@dataclass(frozen=True)
class Shown:
    """A run with its model, and what was seen of it; `look` is None where it could not be run, for the reason `why`."""

    run: Run
    model: SpikingModel
    look: Look | None
    why: str = ""

    @property
    def name(self) -> str:
        """Of the run, as it was given."""
        return self.run.name

    @property
    def steps(self) -> DynamicTimeSteps | None:
        """Its allocated time steps."""
        return next((m for m in self.model.modules() if isinstance(m, DynamicTimeSteps)), None)

    @cached_property
    def score(self) -> tuple[int, int, str] | None:
        """Right, total, split: of results.json, where it is of this model; else of what was looked at."""
        results, converted = self.run.results, self.run.certificate is not None
        if results and not converted:
            return results["right"], results["total"], results["split"]
        return (self.look.right, self.look.total, self.look.split) if self.look else None


def render(template: str, **values: Any) -> Markup:
    """A template of page/, every value escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("spikevit.report", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return Markup(pages.get_template(template).render(**values))


def asset(name: str) -> Markup:
    """A file of page/ as it is."""
    return Markup(resources.files("spikevit.report").joinpath(f"page/{name}").read_text())


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, 0 … 1 (Wilson, 1927): (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)."""
    z, p = 1.959964, right / total
    centre, half = p + z * z / (2 * total), z * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (centre - half) / (1 + z * z / total), (centre + half) / (1 + z * z / total)


def short(name: str) -> str:
    """A module's name without the models that were put around its own."""
    while name.startswith("model."):
        name = name.removeprefix("model.")
    return name


# --- head -------------------------------------------------------------------------------------------------------------


def title(runs: list[Shown]) -> str:
    """What was trained on what."""
    if len(runs) > 1:
        return f"Comparison of {len(runs)} runs"
    shown = runs[0]
    return f"{shown.model.name or type(shown.model.base).__name__} on {shown.run.data or 'data it does not name'}"


def head(runs: list[Shown]) -> Markup:
    """What was trained, how good it is, what it costs; recipe and versions one click away."""
    warnings = []
    sets = {shown.name: shown.run.data for shown in runs}
    if len(set(sets.values())) > 1:
        named = "; ".join(f"{name}: {data or 'unknown'}" for name, data in sets.items())
        warnings.append(f"These runs are of different data sets, so that accuracies do not compare. {named}.")
    return render(
        "head.html",
        runs=[
            {
                "name": shown.name,
                "facts": list(_facts(shown)),
                "notes": [*([shown.run.missing["results"]] if "results" in shown.run.missing else []), *_stages(shown)],
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
        right, total, split = shown.score
        low, high = wilson(right, total)
        images = f"{right:,} of {total:,} {'validation' if split == 'val' else split} images"
        no_test = "; the data set has no test images" if split == "val" else ""
        yield fact("Accuracy", f"{right / total:.2%}", f"95 %: {low:.1%} to {high:.1%}; {images}{no_test}")
    else:
        yield fact("Accuracy", NONE, "not tested")
    yield fact("Time steps", *_time(shown))
    yield fact("Parameters", f"{sum(p.numel() for p in model.parameters()):,}", "the model that is shown")
    if look:
        exact, ann = look.costs.costs["exact"].energy, look.costs.baselines["ANN"]
        scale, unit = _unit([shown])
        about = f"exact convention, an image; {exact.mj / ann.mj:.2f} × the same network as an ANN; {NOTE}"
        yield fact("Energy", f"{exact.mj * scale:.3g} {unit}", about)
        rates = [fmean(rates) for rates in look.rates.values()]
        yield fact("Firing rate", f"{fmean(rates):.1%}", f"per neuron and step, mean over {len(rates)} layers")
    if shown.run.epochs:
        seconds = sum(row.get("seconds", 0.0) for row in shown.run.epochs)
        best = shown.run.about.get("epoch")
        about = f"{seconds / 60:.1f} minutes" + (f"; shown is epoch {best}" if best else "")
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
    if outer is not None and look:
        unit = "cells (block and step) a token" if isinstance(outer, Halting) else "time steps"
        most = f"of {model.most_work} {unit}, mean over images"
        return f"{float(look.work.mean()):.2f}", f"{most}; {float(look.work.min()):g} to {float(look.work.max()):g}"
    if shown.steps is not None:
        return f"{shown.steps.mean_steps:.2f}", f"{total}, mean over layers of neurons"
    return f"{model.config.time_steps}", "all layers, all images"


def _stages(shown: Shown) -> list[str]:
    """Accuracies on the way to a model that was converted."""
    results = shown.run.results
    if shown.run.certificate is None or not results:
        return []
    parts = [("as trained", results), *((f"in {name}", inside) for name, inside in shown.run.stages.items())]
    said = ", ".join(f"{name} {part['accuracy']:.2%}" for name, part in parts)
    return [f"On the way, on {results['total']:,} {results['split']} images: {said}. Shown is the network of spikes."]


def _open_steps(shown: Shown, place: int) -> Table | None:
    if shown.steps is None:
        return None
    rows = [
        [short(name), sum(mask), "".join("█" if passes else "·" for passes in mask)]
        for name, mask in shown.steps.table().items()
    ]
    return table(f"steps-{place}", "Time steps at which each layer passes spikes", ("layer", "open", "steps"), rows)


def _versions(run: Run) -> dict[str, str]:
    seed = (yaml.safe_load(run.recipe) or {}).get("trainer", {}).get("seed") if run.recipe else None
    return {"seed": NONE if seed is None else str(seed)} | run.results.get("versions", {})


def _unit(runs: list[Shown]) -> tuple[float, str]:
    looks = [shown.look for shown in runs if shown.look]
    return (1e3, "µJ") if all(look.costs.baselines["ANN"].mj < 0.1 for look in looks) else (1.0, "mJ")


def _energies(runs: list[Shown]) -> Table:
    """Every convention and baseline in a row, every run in a column."""
    (scale, unit), looks = _unit(runs), [shown.look for shown in runs]
    seen = [look for look in looks if look]
    conventions = list(dict.fromkeys(name for look in seen for name in look.costs.costs))
    baselines = list(dict.fromkeys(name for look in seen for name in look.costs.baselines))

    def row(name: str, called: str, of: Any) -> list[Any]:
        energies = [of(look).get(name) if look else None for look in looks]
        return [called, *(NONE if mj is None else number(mj * scale, ".4g") for mj in energies)]

    def spent(look: Look) -> dict[str, float]:
        return {name: cost.energy.mj for name, cost in look.costs.costs.items()}

    def base(look: Look) -> dict[str, float]:
        return {name: energy.mj for name, energy in look.costs.baselines.items()}

    rows = [row(name, name, spent) for name in conventions] + [
        row(name, f"the same network: {name}", base) for name in baselines
    ]
    heads = ("convention", *((f"{unit}, {shown.name}" for shown in runs) if len(runs) > 1 else [unit]))
    return table("energy", f"Energy of an image by convention, {unit} — {NOTE}", heads, rows)


def _differences(runs: list[Shown]) -> Table:
    """What differs between recipes."""
    flat = [dict(_leaves(yaml.safe_load(shown.run.recipe) or {})) for shown in runs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [[key, *(str(one.get(key, NONE)) for one in flat)] for key in keys if len({str(o.get(key)) for o in flat}) > 1]
    return table("recipes", "Where the recipes differ", ("key", *(shown.name for shown in runs)), rows)


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


# --- curves -----------------------------------------------------------------------------------------------------------


def curves(runs: list[Shown]) -> Markup:
    """Loss, accuracy, learning rate, work and firing rate over training."""
    missing = [f"{shown.name}: {shown.run.missing['curves']}" for shown in runs if "curves" in shown.run.missing]
    missing += [
        f"{shown.name}: {shown.run.missing['rates']}"
        for shown in runs
        if "rates" in shown.run.missing and "curves" not in shown.run.missing
    ]
    wanted = (
        ("loss", {"loss": "training", "val_loss": "validation"}, "loss", "Loss"),
        ("accuracy", {"val_accuracy": "validation"}, "accuracy", "Accuracy on validation images"),
        ("learning-rate", {"lr": "learning rate"}, "learning rate", "Learning rate"),
        ("work", {"val_work": "validation"}, _work_unit(runs), "Work of a validation image, mean"),
    )
    charts = []
    for name, columns, y, label in wanted:
        series = {}
        for shown in runs:
            for column, called in columns.items():
                if rows := [row for row in shown.run.epochs if column in row]:
                    line = called if len(runs) == 1 else f"{shown.name}" + (f", {called}" if len(columns) > 1 else "")
                    series[line] = [row["epoch"] for row in rows], [row[column] for row in rows]
        if series and (name != "work" or len({v for _, ys in series.values() for v in ys}) > 1):
            charts.append(_over_epochs(name, series, y, label))
    if series := _rates_over_epochs(runs):
        charts.append(_over_epochs("rates", series, "firing rate", "Firing rate on validation images, over layers"))
    return render("curves.html", missing=missing, charts=charts)


def _over_epochs(name: str, series: dict[str, Any], y: str, label: str) -> Chart:
    rows = [{"series": key, "epoch": x, "value": v} for key, (xs, ys) in series.items() for x, v in zip(xs, ys, strict=True)]
    ends = "; ".join(f"{key}: {ys[0]:.4g} to {ys[-1]:.4g}" for key, (_, ys) in series.items())
    return chart(f"curve-{name}", svg.lines(series, "epoch", y), f"{label} over epochs. {ends}", label, rows=rows)


def _work_unit(runs: list[Shown]) -> str:
    return " / ".join(dict.fromkeys(shown.model.work_unit for shown in runs))


def _rates_over_epochs(runs: list[Shown]) -> dict[str, tuple[list[float], list[float]]]:
    """Mean over layers; of a single run the layers that fire most and least, too."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for shown in runs:
        layers: dict[float, dict[str, list[float]]] = {}
        for row in shown.run.rates:
            layers.setdefault(float(row["epoch"]), {}).setdefault(row["layer"], []).append(float(row["rate"]))
        by_epoch = {epoch: [fmean(steps) for steps in found.values()] for epoch, found in layers.items()}
        kinds = {"mean": fmean, "highest": max, "lowest": min} if len(runs) == 1 else {shown.name: fmean}
        for name, of in kinds.items():
            if by_epoch:
                series[name] = list(by_epoch), [of(rates) for rates in by_epoch.values()]
    return series


# --- what it sees -----------------------------------------------------------------------------------------------------


def images(runs: list[Shown]) -> Markup:
    """Test images with predictions, the confusion matrix, firing rates, and a closer look at some images."""
    return render("images.html", runs=[_seen(shown, i) for i, shown in enumerate(runs)])


def _seen(shown: Shown, place: int) -> dict[str, Any]:
    look, name = shown.look, shown.name
    if look is None:
        return {"name": name, "missing": [shown.why], "gallery": []}
    few = f"the first {look.total:,} of {look.of:,}" if look.total < look.of else f"all {look.total:,}"
    split = "validation images; the data set has no test images" if look.split == "val" else f"{look.split} images"
    wrong = look.total - look.right
    return {
        "name": name,
        "missing": [],
        "about": f"{look.right:,} right and {wrong:,} wrong of {few} {split}. Wrong ones come first.",
        "gallery": [_tile(look, shown, i) for i in range(len(look.shown))],
        "exits": _exits(shown, place),
        "confusion": _confusion(look, place),
        "rates": _rates(look, place),
        "absent": _absent(shown),
        "close": [_closer(shown, look, close, f"{place}-{i}") for i, close in enumerate(look.close)],
    }


def _tile(look: Look, shown: Shown, i: int) -> dict[str, Any]:
    at = look.shown[i]
    truth, guess = (look.info.classes[int(part[at])] for part in (look.labels, look.predictions))
    right, sure = truth == guess, f"{float(look.confidence[at]):.0%} sure"
    text = guess if right else f"{guess}, is {truth}"
    return {
        "src": picture(look.images[i]),
        "right": right,
        "text": text,
        "small": sure + _took(shown, look, at),
        "alt": f"Image {at}: a {truth}, taken for {guess}" if not right else f"Image {at}: a {truth}, recognised",
    }


def _took(shown: Shown, look: Look, at: int) -> str:
    """What an image took, where images differ."""
    if isinstance(shown.model, EarlyExit):
        return f", exit at step {int(look.work[at])}"
    if isinstance(shown.model, Halting):
        return f", {float(look.work[at]):.1f} cells"
    return ""


def _exits(shown: Shown, place: int) -> Chart | None:
    """How many images exited at each step."""
    look = shown.look
    if look is None or not isinstance(shown.model, EarlyExit):
        return None
    counts = {str(t): int((look.work == t).sum()) for t in range(1, shown.model.most_work + 1)}
    said = ", ".join(f"{n} at step {t}" for t, n in counts.items())
    return chart(
        f"exits-{place}",
        svg.histogram(counts, "time step of exit", "images"),
        f"Images by the time step at which they exit: {said}",
        "Images by the time step at which they exit",
        rows=[{"step": t, "images": n} for t, n in counts.items()],
    )


def _confusion(look: Look, place: int) -> Table:
    """Rows are what an image is, columns what it was taken for; of many classes the pairs that were mixed up most."""
    counts, classes = look.confusion(), look.info.classes
    if len(classes) <= 20:
        rows = [
            [name, *(Cell(f"{n}" if n else "·", n, n / max(1, int(row.sum()))) for n in row.tolist())]
            for name, row in zip(classes, counts, strict=True)
        ]
        caption = "Confusion matrix: rows are what an image is, columns what it was taken for"
        return table(f"confusion-{place}", caption, ("is", *classes), rows)
    off = counts - counts.diag().diag()
    best = off.flatten().argsort(descending=True)[:30].tolist()
    pairs = [(i // len(classes), i % len(classes)) for i in best if off.flatten()[i]]
    rows = [[classes[i], classes[j], int(off[i, j]), int(counts[i].sum())] for i, j in pairs]
    heads = ("is", "taken for", "images", "of")
    return table(f"confusion-{place}", "The classes that were mixed up most", heads, rows, sortable=True)


def _rates(look: Look, place: int) -> Chart:
    names = {short(name): rates for name, rates in look.rates.items()}
    rows = [{"layer": name, "step": t, "rate": r} for name, rates in names.items() for t, r in enumerate(rates, 1)]
    mean = fmean(fmean(rates) for rates in names.values())
    label = "Share of neurons that fire, by layer and time step"
    return chart(f"rates-{place}", svg.heat(names, "time step"), f"{label}; mean {mean:.1%}", label, rows=rows, wide=True)


def _absent(shown: Shown) -> list[str]:
    close = shown.look.close[0] if shown.look and shown.look.close else None
    absent = []
    if close and not close.spikes:
        absent.append("No raster: this network sends whole numbers, not spikes yet. Convert it with spikevit convert.")
    if close and not close.maps:
        absent.append("No maps of attention: the mixers of this network have no neurons that belong to tokens.")
    return absent


def _closer(shown: Shown, look: Look, close: Close, place: str) -> dict[str, Any]:
    tile, image = _tile(look, shown, close.index), look.images[close.index]
    maps = [{"src": tile["src"], "alt": tile["alt"], "text": "the image"}]
    for name, grid in close.maps.items():
        text = f"{short(name)}: fires at 0 to {float(grid.max()):.0%} of cells"
        maps.append({"src": picture(image, grid, float(grid.max())), "alt": f"Map of {short(name)}", "text": text})
    if close.cells is not None:
        cells: Tensor = close.cells
        text = f"cells visited: {int(cells.min())} to {int(cells.max())} of {shown.model.most_work}"
        over = picture(image, cells.float(), float(shown.model.most_work))
        maps.append({"src": over, "alt": f"Halting map: {text}", "text": text})
    spikes = {short(name): s for name, s in close.spikes.items()}
    raster = None
    if spikes:
        fired = sum(int(s.sum()) for s in spikes.values())
        rows = [
            {"layer": name, "neuron": n + 1, "step": t + 1} for name, s in spikes.items() for n, t in s.nonzero().tolist()
        ]
        caption = "Spikes of some neurons of each layer; neurons lie side by side within a step"
        label = f"{caption}: {fired:,} spikes"
        raster = chart(f"raster-{place}", svg.raster(spikes), label, caption, rows=rows, wide=True)
    return {"title": f"{tile['alt']} ({tile['small']})", "maps": maps, "raster": raster}


# --- what it costs ----------------------------------------------------------------------------------------------------


def cost(runs: list[Shown]) -> Markup:
    """Energy by convention, every product, the spike-driven check with reasons, and what was not counted."""
    seen = [(shown, shown.look, i) for i, shown in enumerate(runs) if shown.look]
    missing = [f"{shown.name}: {shown.why}" for shown in runs if shown.look is None]
    return render(
        "cost.html",
        missing=missing,
        many=len(runs) > 1,
        bars=_bars([shown for shown, _, _ in seen]) if seen else [],
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
    scale, unit = _unit(runs)
    found, spread = {}, {}
    for shown in runs:
        assert shown.look is not None
        costs, column = shown.look.costs, "energy" if len(runs) == 1 else shown.name
        for name, c in costs.costs.items():
            found.setdefault(name, {})[column] = c.energy.mj * scale
            spread[name] = (c.spread or 0.0) * scale
        for name, e in costs.baselines.items():
            found.setdefault(name, {})[column] = e.mj * scale
    rows = [{"convention": name, **values} for name, values in found.items()]
    label = f"Energy of an image by convention, {unit} — {NOTE}"
    said = "; ".join(f"{name} {', '.join(f'{v:.3g}' for v in values.values())}" for name, values in found.items())
    drawn = svg.bars(found, f"{unit} an image ({NOTE})", spread=spread if len(runs) == 1 else None)
    charts = [chart("energy-bars", drawn, f"{label}: {said}", label, rows=rows)]
    if len(runs) > 1:
        places = {
            shown.name: (shown.look.costs.costs["exact"].energy.mj * scale, 100 * shown.score[0] / shown.score[1])
            for shown in runs
            if shown.look and shown.score
        }
        axes = (f"{unit} an image, exact ({NOTE})", "accuracy, %")
        label = "Accuracy against energy"
        said = "; ".join(f"{name}: {y:.2f} % at {x:.3g} {unit}" for name, (x, y) in places.items())
        rows = [{"run": name, "energy": x, "accuracy": y} for name, (x, y) in places.items()]
        charts.append(chart("accuracy-energy", svg.points(places, *axes), f"{label}: {said}", label, rows=rows))
    return charts


def _pays(look: Look) -> str:
    """Where spikes pay off, and with which energies."""
    said = []
    for name, rate in look.costs.break_even.items():
        where = "at any rate" if rate >= 1 else "at no rate" if isnan(rate) or rate <= 0 else f"at rates below {rate:.0%}"
        said.append(f"less than the {name} {where}")
    constants = look.costs.constants
    return (
        f"By the exact convention it costs {', and '.join(said)}. Energies ({NOTE}): {constants.name}, {constants.about}; "
        f"counted on {look.costs.counts.images} images."
    )


def _layers(look: Look, shown: Shown, place: int) -> Table:
    scale, unit = _unit([shown])
    rows = []
    for layer in look.costs.layers():
        operands = layer["operands"]
        rate = fmean(o["rate"] for o in operands) if operands else 0.0
        rows.append(
            [
                short(layer["module"]),
                layer["operator"],
                " × ".join(o["class"] for o in operands) or NONE,
                Cell(" × ".join(f"{o['rate']:.0%}" for o in operands) or NONE, rate),
                *(number(layer[key] / 1e6) for key in ("dense", "macs", "acs")),
                *(number(layer[key] * scale) for key in ("exact_mj", "paper_mj")),
            ]
        )
    heads = ("module", "operator", "operands", "non-zero", "M dense", "M MAC", "M AC", f"{unit} exact", f"{unit} paper")
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
    caption = "Work that is no product, entries an image: shifts are charged by exact, batch norm by syops, others by none"
    return table(f"uncharged-{place}", caption, ("operator", "entries"), rows) if rows else None


# --- conversion -------------------------------------------------------------------------------------------------------


def conversion(runs: list[Shown]) -> Markup:
    """The certificate: codes of each layer, and spikes against T."""
    return render("conversion.html", many=len(runs) > 1, runs=[_converted(shown, i) for i, shown in enumerate(runs)])


def _converted(shown: Shown, place: int) -> dict[str, Any]:
    c = shown.run.certificate
    if c is None:
        return {"name": shown.name, "missing": [shown.run.missing["conversion"]], "verdict": ""}
    rows, spikes, codes = [], {}, {}
    for layer in c.layers:
        steps, groups = layer.code
        levels = groups * (2**steps - 1) + 1
        spikes[layer.name] = {"spikes of a neuron": layer.spikes, "T": steps * groups}
        codes[layer.name] = {"codes in use": layer.distinct, "codes there are": levels}
        used = Cell(f"{layer.distinct} of {levels}{', dead' if layer.flagged else ''}", layer.distinct)
        rows.append([layer.name, steps, groups, steps * groups, layer.compared, layer.differing, used, number(layer.spikes)])
    compared = sum(layer.compared for layer in c.layers)
    verdict = (
        f"Lossless: 0 of {compared:,} codes differ on {c.images:,} images."
        if c.lossless
        else f"Not lossless: {c.differing:,} of {compared:,} codes differ on {c.images:,} images."
    )
    heads = ("layer", "n", "G", "T = n·G", "codes compared", "differ", "codes used", "spikes of a neuron")
    return {
        "name": shown.name,
        "missing": [],
        "lossless": c.lossless,
        "verdict": f"{verdict} Top-1 agreement {c.agreement:.2%}; logits differ by {c.logits:.3g} at most.",
        "charts": [
            _by_layer(f"conversion-spikes-{place}", spikes, "Spikes of a neuron for one image, and its time steps T"),
            _by_layer(f"conversion-codes-{place}", codes, "Codes in use, of those there are"),
        ],
        "layers": table(f"certificate-{place}", "The certificate, layer by layer", heads, rows, sortable=True),
        "files": {
            "mode": "exact, weights on grids" if c.exact else "float",
            "SHA-256 of both networks": c.model,
            "SHA-256 of the images": c.data,
            **{name: str(value) for name, value in c.versions.items()},
        },
    }


def _by_layer(name: str, rows: dict[str, dict[str, float]], label: str) -> Chart:
    data = [{"layer": layer, **values} for layer, values in rows.items()]
    return chart(name, svg.bars(rows, ""), f"{label}, by layer", label, rows=data, wide=True)
