"""What a network sees: images with predictions, the confusion matrix, firing rates, and some images closely."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from markupsafe import Markup
from torch import Tensor

from spikevit.adaptive import EarlyExit, Halting
from spikevit.adaptive.adapted import own_name
from spikevit.report import svg
from spikevit.report.look import BINS, Close, Look
from spikevit.report.pieces import Cell, Chart, Table, chart, picture, table
from spikevit.report.sections.base import NONE, Shown, images_of, render, wilson

MOST = 100  # classes in a table


def images(runs: list[Shown]) -> Markup:
    """Test images with predictions, the confusion matrix, firing rates, and a closer look at some images."""
    return render("images.html", runs=[_seen(shown, i) for i, shown in enumerate(runs)])


def _seen(shown: Shown, place: int) -> dict[str, Any]:
    look, name = shown.look, shown.name
    if look is None:
        return {"name": name, "missing": [shown.why], "gallery": []}
    few = f"the first {look.total:,} of {look.of:,}" if look.total < look.of else f"all {look.total:,}"
    wrong = look.total - look.right
    tiles = [_tile(look, shown, i) for i in range(len(look.shown))]
    return {
        "name": name,
        "missing": [],
        "about": f"{look.right:,} right and {wrong:,} wrong of {few} {images_of(look.split)}. Wrong ones come first: "
        f"what they are → what they were taken for. Below is how sure it was; a guess is {_guess(look)} sure.",
        "gallery": tiles,
        "charts": [c for c in (_exits(shown, place), _over_time(look, place), _calibration(look, place)) if c],
        "confusion": _confusion(look, place),
        "classes": _classes(look, place),
        "rates": _rates(look, place),
        "absent": _absent(shown),
        "close": [
            _closer(shown, look, close, tiles[close.index], f"{place}-{i}") for i, close in enumerate(look.close)
        ],
    }


def _tile(look: Look, shown: Shown, i: int) -> dict[str, Any]:
    at = look.shown[i]
    truth, guess = (look.info.classes[int(part[at])] for part in (look.labels, look.predictions))
    right, sure = truth == guess, f"{float(look.confidence[at]):.0%} sure"
    sure += "" if right else f"; a guess is {_guess(look)}"
    text = guess if right else f"{truth} → {guess}"
    return {
        "src": picture(look.images[i]),
        "right": right,
        "text": text,
        "small": sure + _took(shown, look, at),
        "alt": f"Image {at}: a {truth}, taken for {guess}" if not right else f"Image {at}: a {truth}, recognised",
    }


def _guess(look: Look) -> str:
    """How sure one is who knows nothing: one of the number of classes."""
    return f"{1 / look.info.num_classes:.2g}" if look.info.num_classes > 200 else f"{1 / look.info.num_classes:.0%}"


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


def _over_time(look: Look, place: int) -> Chart | None:
    """Accuracy of the mean of the first t steps."""
    if not look.over_time:
        return None
    steps = list(range(1, len(look.over_time) + 1))
    said = ", ".join(f"{value:.1%} at {t}" for t, value in zip(steps, look.over_time, strict=True))
    label = "Accuracy after t time steps, of the mean of the first t logits"
    drawn = svg.lines({"accuracy": (steps, look.over_time)}, "time steps t", "accuracy", marked=True)
    rows = [{"steps": t, "accuracy": value} for t, value in zip(steps, look.over_time, strict=True)]
    return chart(f"over-time-{place}", drawn, f"{label}: {said}", label, rows=rows)


def _calibration(look: Look, place: int) -> Chart:
    """Accuracy against confidence."""
    bins, error = look.calibration(), look.calibration_error
    rows = [vars(b) for b in bins]
    said = ", ".join(f"{b.images} images {b.confidence:.0%} sure, {b.accuracy:.0%} right" for b in bins)
    gap = sum(b.images * (b.confidence - b.accuracy) for b in bins) / look.total
    lean = "" if abs(gap) < 0.01 else f": on the whole {'more' if gap > 0 else 'less'} sure than right"
    label = f"Calibration: on the line it would be right as often as it is sure. Expected error {error:.1%}{lean}"
    drawn = svg.reliability([(b.confidence, b.accuracy, b.images) for b in bins], 1 / BINS)
    return chart(f"calibration-{place}", drawn, f"{label}. {said}", label, rows=rows)


def _classes(look: Look, place: int) -> Table:
    """How many of each class are right, the lowest first; of many classes the lowest `MOST`."""
    counts, names = look.confusion(), look.info.classes
    rows: list[list[Any]] = []
    for i, name in enumerate(names):
        total, right = int(counts[i].sum()), int(counts[i, i])
        if total:
            low, high = wilson(right, total)
            off = counts[i].clone()
            off[i] = 0
            other = names[int(off.argmax())] if off.any() else NONE
            accuracy = Cell(f"{right / total:.1%}", right / total, share=right / total)
            rows.append([name, total, right, accuracy, f"{low:.0%} to {high:.0%}", other])
    rows.sort(key=lambda row: row[3].value)
    caption = "Accuracy by class, the lowest first" + (f": {MOST} of {len(rows)}" if len(rows) > MOST else "")
    heads = ("class", "images", "right", "accuracy", "95 %", "most often taken for")
    return table(f"classes-{place}", caption, heads, rows[:MOST], sortable=True)


def _confusion(look: Look, place: int) -> Table | None:
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
    if not pairs:
        return None
    rows = [[classes[i], classes[j], int(off[i, j]), int(counts[i].sum())] for i, j in pairs]
    heads = ("is", "taken for", "images", "of")
    return table(f"confusion-{place}", "The classes that were mixed up most", heads, rows, sortable=True)


def _rates(look: Look, place: int) -> Chart:
    names = {own_name(name): rates for name, rates in look.rates.items()}
    rows = [{"layer": name, "step": t, "rate": r} for name, rates in names.items() for t, r in enumerate(rates, 1)]
    mean = fmean(look.mean_rates.values())
    label = "Share of neurons that fire, by layer and time step"
    return chart(
        f"rates-{place}", svg.heat(names, "time step"), f"{label}; mean {mean:.1%}", label, rows=rows, wide=True
    )


def _absent(shown: Shown) -> list[str]:
    close = shown.look.close[0] if shown.look and shown.look.close else None
    absent = []
    if close and not close.spikes:
        absent.append("No raster: this network sends whole numbers, not spikes yet. Convert it with spikevit convert.")
    if close and not close.maps:
        absent.append("No maps of attention: the mixers of this network have no neurons that belong to tokens.")
    return absent


def _closer(shown: Shown, look: Look, close: Close, tile: dict[str, Any], place: str) -> dict[str, Any]:
    image = look.images[close.index]
    maps = [{"src": tile["src"], "alt": tile["alt"], "text": "the image"}]
    for name, grid in close.maps.items():
        fires = f"up to {float(grid.max()):.0%} of its neurons fire" if grid.any() else "silent"
        text = f"{own_name(name)}: {fires}"
        maps.append({"src": picture(image, grid, float(grid.max())), "alt": f"Map of {own_name(name)}", "text": text})
    if close.cells is not None:
        cells: Tensor = close.cells
        text = f"cells visited: {int(cells.min())} to {int(cells.max())} of {shown.model.most_work}"
        over = picture(image, cells.float(), float(shown.model.most_work))
        maps.append({"src": over, "alt": f"Halting map: {text}", "text": text})
    spikes = {own_name(name): s for name, s in close.spikes.items()}
    raster = None
    if spikes:
        fired = sum(int(s.sum()) for s in spikes.values())
        rows = [
            {"layer": name, "neuron": n + 1, "step": t + 1}
            for name, s in spikes.items()
            for n, t in s.nonzero().tolist()
        ]
        caption = "Spikes of some neurons of each layer; neurons lie side by side within a step"
        label = f"{caption}: {fired:,} spikes"
        raster = chart(f"raster-{place}", svg.raster(spikes), label, caption, rows=rows, wide=True)
    return {"title": f"{tile['alt']} ({tile['small']})", "maps": maps, "raster": raster}
