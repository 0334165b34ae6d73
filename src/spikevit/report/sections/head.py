"""The head of a report: what was trained, how good it is, what it costs, and how it came about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from markupsafe import Markup

from spikevit.adaptive.adapted import own_name
from spikevit.profiling.profile import NOTE
from spikevit.report.pieces import Table, table
from spikevit.report.run_files import Run
from spikevit.report.sections import compare
from spikevit.report.sections.base import NONE, Shown, render, unit_of, wilson
from spikevit.report.sections.compare import epochs_of, seconds_of, time_of
from spikevit.report.sections.energy import conventions, energy_range, opponents


def title(runs: list[Shown]) -> str:
    """What was trained on what."""
    if len(runs) > 1:
        return f"Comparison of {len(runs)} runs"
    shown = runs[0]
    methods = " and ".join(name.replace("_", " ") for name, _ in shown.model.methods)
    what = (shown.model.name or type(shown.model.base).__name__) + (f" with {methods}" if methods else "")
    return f"{what} on {shown.run.data or 'data it does not name'}"


def head(runs: list[Shown]) -> Markup:
    """The verdict, what is wrong, what was trained and what it costs; recipe and versions one click away."""
    warnings = []
    tasks = {shown.name: shown.run.task for shown in runs}
    if len(set(tasks.values())) > 1:
        named = "; ".join(f"{name}: {task}" for name, task in tasks.items())
        warnings.append(f"These runs are of different data sets, so that accuracies do not compare. {named}.")
    one = runs[0] if len(runs) == 1 else None
    return render(
        "head.html",
        verdict=_verdict(one) if one else compare.verdict(runs),
        ill=[f"{'' if one else f'{shown.name}: '}{text}." for shown in runs for text in _ills(shown)],
        well=_well(runs),
        warnings=warnings,
        facts=list(_facts(one)) if one else [],
        opponents=opponents(one, 0) if one else None,
        conventions=conventions(one) if one else None,
        compared=None if one else compare.table_of(runs, alike=not warnings),
        differ=None if one else _differences(runs),
        runs=[
            {
                "name": shown.name,
                "notes": [*_doubts(shown), *_stages(shown)],
                "steps": _open_steps(shown, i),
                "recipes": _recipes(shown.run),
                "versions": _versions(shown.run),
            }
            for i, shown in enumerate(runs)
        ],
    )


def _verdict(shown: Shown) -> str:
    """How good it is and what that costs, in a sentence; no word of cost where that says nothing."""
    if shown.score is None:
        return "How many images it gets right is not known."
    right, total, which = shown.score
    said = f"{right / total:.1%} of {which.partition(';')[0]} are right"
    certificate = shown.run.certificate
    if certificate is not None:
        same = certificate.lossless and certificate.agreement == 1
        said += "; as spikes the same" if same else "; as spikes, which are not shown to be the same"
    if shown.fairest is None:
        return f"{said}."
    name, ratio = shown.fairest
    return f"{said}, at {ratio:.2g} × the energy of {'their' if certificate else 'its'} fairest opponent, the {name}."


def _ills(shown: Shown) -> list[str]:
    return [text[0].upper() + text[1:] for text in (shown.silence, shown.luck) if text]


def _well(runs: list[Shown]) -> str:
    """That all is well, where that is known of all."""
    if any(shown.look is None or not shown.sound for shown in runs):
        return ""
    chance = max(shown.look.chance for shown in runs if shown.look)
    of_all = "" if len(runs) == 1 else " in every run"
    return f"All layers fire{of_all}; accuracy is well above chance: the most frequent class alone is {chance:.0%}."


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
    if look:
        scale, unit = unit_of([shown])
        value = f"{shown.energies['exact'] * scale:.3g} {unit}"
        yield fact("Energy", value, f"an image, exact; {energy_range(shown)}; {NOTE}")
        rates = look.mean_rates.values()
        yield fact("Firing rate", f"{fmean(rates):.1%}", f"per neuron and step, mean over {len(rates)} layers")
    yield fact("Time steps", *time_of(shown))
    yield fact("Parameters", f"{sum(p.numel() for p in model.parameters()):,}", "the model that is shown")
    if look:
        one, *more = look.speeds
        batches = [f"{s.images_per_second:,.0f} images/s in batches of {s.batch}" for s in more]
        about = "; ".join(["one image, median", *batches, f"measured on {look.machine}"])
        yield fact("Latency", _duration(one.seconds), about)
    if shown.run.epochs:
        yield fact(
            "Training", f"{epochs_of(shown.run)} epoch{'s' if len(shown.run.epochs) > 1 else ''}", _trained(shown.run)
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _trained(run: Run) -> str:
    """How long that took, and which epochs are whose."""
    about = f"{seconds_of(run) / 60:.1f} minutes"
    if run.stages:
        parts = ", ".join(f"{len(stage.epochs)} in {stage.name}" for stage in run.stages)
        about += f"; {len(run.epochs)} as trained, {parts}"
    epoch = run.about.get("epoch")
    return about + (f"; shown is epoch {epoch}" if epoch else "; then converted" if run.certificate else "")


def _recipes(run: Run) -> dict[str, str]:
    """By the title of each: of the run, and of runs inside."""
    own = run.recipe or "The checkpoint does not hold its recipe."
    return {"Recipe": own} | {f"Recipe of {stage.name}": stage.recipe for stage in run.stages}


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
    parts = [("as trained", results), *((f"in {stage.name}", stage.results) for stage in shown.run.stages)]
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
