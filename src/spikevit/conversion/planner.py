"""The planner: which levels and which code each layer of neurons should have, spikes against error.

Reconstruction: the paper's text was not available (Hao et al., Ge2mS-T, arXiv 2604.08894).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from math import ceil, floor, inf, log2, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.attention.groupwise import GroupwiseQK
from spikevit.conversion.convert import image_batches
from spikevit.conversion.quantise import staircases_of
from spikevit.errors import unknown
from spikevit.layers.grid import OnGrid
from spikevit.neurons import ExpG, Staircase
from spikevit.neurons.staircase import in_force, spike_count
from spikevit.profiling.observe import firing_rates
from spikevit.schema import Count, NotNegative, fit

BINS = 4096  # of a histogram, from 0 to θ; as many again up to 2·θ, since in exact mode the threshold moves
FINEST = BINS // 8  # levels: a code of more would have fewer than 8 bins a level
OBJECTIVES = ("spikes", "error", "steps")


@dataclass
class Histogram:
    """How often a layer's input x, in units of its threshold, fell into each of 2·4096 bins of [0, 2).

    counts: int64 (8192,). below, above: how often it was under 0, and 2 or more. neurons: of the layer, per image.
    """

    counts: Tensor
    below: int = 0
    above: int = 0
    neurons: int = 0

    @property
    def total(self) -> int:
        """All inputs."""
        return int(self.counts.sum()) + self.below + self.above

    def spikes(self, code: ExpG, threshold: float = 1.0) -> float:
        """Mean number of spikes per neuron and image, Σ_b count_b · c(k_b) / total; k_b: the code of a bin's middle.

        threshold: that of the neurons, in units of the one that the histogram was taken with; up to 2.
        """
        k = _codes(code, threshold)
        fired = int((spike_count(k, code) * self.counts).sum()) + self.above * code.time_steps
        return fired / max(1, self.total)

    def error(self, code: ExpG, threshold: float = 1.0) -> float:
        """Relative RMS error of the decoded output, √(Σ (a − y)² / Σ y²) with y = clip(x, 0, θ), the unquantised one.

        Of a layer that no positive input ever reached, it is what even inputs would have: not 0.
        """
        y = _middles().clamp(max=1)
        a = _codes(code, threshold) * (threshold / code.levels)
        counts, above = self.counts.double(), self.above
        if not counts.any() and not above:
            counts = torch.ones_like(counts)
            counts[BINS:] = 0
        wrong = float((counts * (a - y).square()).sum()) + above * (threshold - 1) ** 2
        return sqrt(wrong / (float((counts * y.square()).sum()) + above))


@dataclass(frozen=True)
class Choice:
    """A code for a layer, and what it does there.

    threshold, quantum: θ and Δ over those that the layer had. spikes: mean number per neuron and image. error:
    relative RMS of the decoded output against the unquantised one.
    """

    code: ExpG
    threshold: float
    quantum: float
    spikes: float
    error: float


@dataclass(frozen=True)
class LayerPlan:
    """A layer of neurons: how many there are, what it had, and what is chosen for it.

    counted: mean spikes per neuron and image of the planned network (`Plan.check`).
    """

    name: str
    neurons: int
    before: Choice
    after: Choice
    counted: float | None = None


@dataclass(frozen=True)
class Point:
    """One choice for every layer, as a network: spikes of an image, the longest T, and the error.

    error: root mean square, over the layers, of their relative errors.
    """

    spikes: float
    steps: int
    error: float
    choices: tuple[Choice, ...] = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """Codes for every layer of neurons, and what else could have been chosen.

    front: points of which no other has fewer spikes, a shorter T and a smaller error at once; by T, then by spikes.
    limits: what was asked for. images: how many were looked at.
    """

    layers: tuple[LayerPlan, ...]
    before: Point
    after: Point
    front: tuple[Point, ...]
    limits: dict[str, Any]
    images: int

    def at(self, point: Point) -> Plan:
        """The same plan with another point of the front chosen."""
        if point not in (*self.front, self.before, self.after):
            raise ValueError(f"{point} is not a point of this plan; take one of its front")
        layers = zip(self.layers, point.choices, strict=True)
        chosen = tuple(replace(layer, after=choice, counted=None) for layer, choice in layers)
        return replace(self, after=point, layers=chosen)

    def check(self, model: nn.Module, data: Tensor | Iterable[Any], *, batch_size: int = 64) -> Plan:
        """The same plan with the spikes counted that the planned network takes on images.

        They differ from those predicted as far as coarser codes in front of a layer change its inputs. model: the one
        planned for.
        """
        planned = self.apply(model).eval()
        rates = firing_rates(planned, image_batches(data, batch_size))
        if not rates:
            raise ValueError("data holds no images: spikes are counted on some")
        layers = (replace(x, counted=rates[x.name] * x.after.code.time_steps) for x in self.layers)
        return replace(self, layers=tuple(layers))

    @property
    def counted(self) -> float | None:
        """Spikes of an image, of the planned network, where `check` counted them."""
        spikes = [x.counted * x.neurons for x in self.layers if x.counted is not None]
        return sum(spikes) if spikes else None

    def apply(self, model: nn.Module) -> Any:
        """A copy of the model that was planned for with the codes chosen: to evaluate, fine-tune, convert.

        The thresholds stay; in exact mode, where Δ must be a power of two, they move to L·2^e as the plan says.

        Raises:
            ValueError: the model has not these layers with the codes they had when planned.
        """
        copy = deepcopy(model)
        found = _staircases(copy)
        for layer in self.layers:
            if layer.name not in found:
                raise unknown("layer of neurons", layer.name, found)
            neuron = found[layer.name]
            if neuron.code != layer.before.code:
                raise ValueError(
                    f"{layer.name} has {neuron.code}, the plan was made for {layer.before.code}: "
                    "plan again for this model"
                )
            if neuron.power_of_two:
                quantum = neuron.quantum * layer.after.quantum  # both powers of two
                neuron.threshold.data.copy_(quantum * layer.after.code.levels)
            neuron.code = layer.after.code
        _remember(copy, found, self.after.steps)
        return copy

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; points of the front without their layers' codes."""

        def choice(c: Choice) -> dict[str, Any]:
            shape = {"levels": c.code.levels, "n": c.code.steps, "G": c.code.groups, "T": c.code.time_steps}
            return shape | {"threshold": c.threshold, "spikes": c.spikes, "error": c.error}

        def point(p: Point) -> dict[str, Any]:
            return {"spikes": p.spikes, "T": p.steps, "error": p.error}

        return {
            "images": self.images,
            "limits": self.limits,
            "before": point(self.before),
            "after": point(self.after) | {"counted": self.counted},
            "layers": [
                {
                    "name": x.name,
                    "neurons": x.neurons,
                    "before": choice(x.before),
                    "after": choice(x.after) | {"counted": x.counted},
                }
                for x in self.layers
            ],
            "front": [point(p) for p in self.front],
        }

    def plot(self, path: str | Path) -> Path:
        """Draws the front to an .svg or .png: spikes against error, T as colour, before and after marked."""
        from spikevit.report.figure import save
        from spikevit.report.plan_plot import picture

        return save(picture(self), Path(path))

    def __rich__(self):
        from spikevit.report.terminal import plan

        return plan(self)


def plan(
    model: nn.Module,
    data: Tensor | Iterable[Any],
    *,
    max_steps: int = 16,
    max_shift: int = 8,
    max_error: float | None = None,
    objective: str = "spikes",
    batch_size: int = 64,
) -> Plan:
    """Chooses levels and code (L, n, G) of every layer of `Staircase` neurons, by what the images put into them.

    One pass over the images keeps a histogram for every layer. From it follow, for all codes (n, G) within the
    limits, the spikes (Σ over neurons of c(k)) and the error of the decoded output. The threshold stays, Δ = θ/L
    follows L. In exact mode Δ must be a power of two: then the candidates are the two powers next to θ/L, so that θ
    moves to L·Δ, by less than a factor of two, and what the move costs is part of the error.

    The front, for each limit on T: every layer starts with its cheapest code; then, again and again, that step of
    one layer to finer levels is taken which removes most error² per spike, along the convex hull of each layer's
    (spikes, error²). All points on the hull of the network's are found so, but few between them.

    The plan chosen is the best there is: with objective "spikes" or "steps", of all plans within the limits none is
    predicted to take fewer spikes (with "steps": none of the least T).

    What is predicted is each layer's spikes on the inputs it has now. Coarser codes in front of a layer change its
    inputs, too: `Plan.check` counts what the planned network takes. The error is one of rounding, a proxy: the
    accuracy must be measured, and fine-tuning brings back what it can.

    Args:
        model: any network with `Staircase` neurons, trained. It is not changed. Masks of Q-K attention, which fire
            once or not by intention, are no part of a plan.
        data: images (N, ...), or an iterable of batches of them (or of (images, labels)), normalised as in training.
        max_steps: T = n·G of a layer, at most. (L is 512 at most: so fine are the histograms.)
        max_shift: n of a layer, at most: by so many bits its receivers shift.
        max_error: of the network, at most; None: that of the codes it has now (with objective "error": any).
        objective: what should be least within the limits: "spikes", "error", or "steps" (then spikes).
        batch_size: of images in one tensor.

    Raises:
        ValueError: no staircases, no images, an input that is not a number, limits that no codes satisfy (with the
            one that does), unknown objective.

    Source: reconstruction: the paper's text was not available (Hao et al., Ge2mS-T, arXiv 2604.08894).
    """
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    for name, value in (("max_steps", max_steps), ("max_shift", max_shift)):
        fit(value, Count, name)
    fit(max_error, NotNegative | None, "max_error")
    staircases_of(model, "plan")
    neurons = _staircases(model)
    histograms, images = measure(model, data, batch_size=batch_size)
    shapes = ((n, g) for n in range(1, max_shift + 1) for g in range(1, max_steps // n + 1))
    codes = [ExpG(n, g) for n, g in shapes if g * (2**n - 1) <= FINEST]
    before, candidates = [], []
    for name, found in histograms.items():
        neuron = neurons[name]
        before.append(_choice(found, neuron.code, neuron.code.levels, neuron.power_of_two))
        candidates.append([c for code in codes for c in _choices(found, code, neuron)])
    weights = [found.neurons for found in histograms.values()]
    now = _point(before, weights)
    limit = max_error if max_error is not None else None if objective == "error" else now.error
    points = _sweep(candidates, weights, max_steps)
    if all(c.code.time_steps <= max_steps and c.code.steps <= max_shift for c in before):
        points.append(now)
    allowed = [p for p in points if limit is None or p.error <= limit]
    if not allowed:
        whose = "" if max_error is not None else ", that of the codes it has"
        raise ValueError(
            f"max_error={limit:.4g}{whose}: no codes within max_steps={max_steps} and max_shift={max_shift} satisfy "
            f"it; the least that works is {ceil(1e4 * min(p.error for p in points)) / 1e4:.4f}"
        )
    keys = {
        "spikes": lambda p: (p.spikes, p.error, p.steps),
        "error": lambda p: (p.error, p.spikes, p.steps),
        "steps": lambda p: (p.steps, p.spikes, p.error),
    }
    best = min(allowed, key=keys[objective])
    if objective != "error":
        assert limit is not None
        best = _fewest(best, candidates, weights, limit, best.steps if objective == "steps" else max_steps)
    limits = {"max_steps": max_steps, "max_shift": max_shift, "max_error": limit, "objective": objective}
    layers = zip(histograms, weights, before, best.choices, strict=True)
    return Plan(
        layers=tuple(LayerPlan(*layer) for layer in layers),
        before=now,
        after=best,
        front=_front([*points, best]),
        limits=limits,
        images=images,
    )


@torch.no_grad()
def measure(
    model: nn.Module, data: Tensor | Iterable[Any], *, batch_size: int = 64
) -> tuple[dict[str, Histogram], int]:
    """The histogram of every layer of staircase neurons, in firing order and evaluation mode, and how many images."""
    copy, images = deepcopy(model).eval(), 0
    neurons = _staircases(copy)
    histograms: dict[str, Histogram] = {}
    for name, neuron in neurons.items():
        neuron.register_forward_pre_hook(_look(name, histograms))
    for batch in image_batches(data, batch_size):
        copy(batch)
        images += len(batch)
    if not images:
        raise ValueError("data holds no images: a plan is made from what some, such as training images, put in")
    if unused := neurons.keys() - histograms.keys():
        raise ValueError(f"{', '.join(sorted(unused))}: no input reached these neurons; the model does not use them")
    for found in histograms.values():
        found.neurons = found.total // images
    return histograms, images


def _look(name: str, histograms: dict[str, Histogram]):
    """A hook that adds a layer's inputs to its histogram."""

    def look(neuron: Staircase, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach()
        if x.isnan().any():
            raise ValueError(f"{name}: an input is not a number")
        theta = in_force(neuron.threshold, neuron.code, neuron.power_of_two)
        y = (x.to(torch.promote_types(x.dtype, theta.dtype)) / theta).flatten()
        bins = (y * BINS).clamp_(-1, 2 * BINS).floor_().long() + 1  # 0: below; 2·4096 + 1: above
        counts = torch.bincount(bins, minlength=2 * BINS + 2).cpu()
        histogram = histograms.setdefault(name, Histogram(torch.zeros(2 * BINS, dtype=torch.int64)))
        histogram.counts += counts[1:-1]
        histogram.below += int(counts[0])
        histogram.above += int(counts[-1])

    return look


def _choices(found: Histogram, code: ExpG, neuron: Staircase) -> Iterator[Choice]:
    """A code with its Δ, in exact mode with the two powers of two next to θ/L."""
    levels = neuron.code.levels
    if not neuron.power_of_two:
        yield _choice(found, code, levels, False)
        return
    exponent = log2(levels / code.levels)
    for e in sorted({floor(exponent), ceil(exponent)}):
        yield _choice(found, code, levels, True, e)


def _choice(found: Histogram, code: ExpG, levels: int, power_of_two: bool, exponent: int = 0) -> Choice:
    """A code in the place of one of `levels` levels; exponent: log2 of how much larger Δ gets, in exact mode."""
    quantum = 2.0**exponent if power_of_two else levels / code.levels
    threshold = code.levels * quantum / levels if power_of_two else 1.0
    return Choice(code, threshold, quantum, found.spikes(code, threshold), found.error(code, threshold))


def _sweep(candidates: list[list[Choice]], weights: list[int], max_steps: int) -> list[Point]:
    """Points of the network for every limit on T, from the cheapest codes along the layers' hulls to the finest."""
    points = []
    for limit in range(1, max_steps + 1):
        hulls = [_hull([c for c in layer if c.code.time_steps <= limit] or layer) for layer in candidates]
        steps = [
            (_slope(a, b) / weight, i, b)
            for i, (hull, weight) in enumerate(zip(hulls, weights, strict=True))
            for a, b in pairwise(hull)
        ]
        chosen = [hull[0] for hull in hulls]
        points.append(_point(chosen, weights))
        for _, i, choice in sorted(steps, key=lambda step: -step[0]):
            chosen[i] = choice
            points.append(_point(chosen, weights))
    return points


def _hull(choices: list[Choice]) -> list[Choice]:
    """The lower left convex hull of (spikes, error²), by rising spikes."""
    hull: list[Choice] = []
    for c in sorted(choices, key=lambda c: (c.spikes, c.error, c.code.time_steps)):
        if hull and c.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], c):
            hull.pop()
        hull.append(c)
    return hull


def _slope(a: Choice, b: Choice) -> float:
    return (a.error**2 - b.error**2) / (b.spikes - a.spikes)


def _point(choices: Iterable[Choice], weights: list[int]) -> Point:
    choices = tuple(choices)
    return Point(
        spikes=sum(c.spikes * weight for c, weight in zip(choices, weights, strict=True)),
        steps=max(c.code.time_steps for c in choices),
        error=sqrt(sum(c.error**2 for c in choices) / len(choices)),
        choices=choices,
    )


def _fewest(point: Point, candidates: list[list[Choice]], weights: list[int], limit: float, steps: int) -> Point:
    """The plan of fewest spikes with an error up to the limit and T ≤ steps, of which `point` is one.

    At any price λ ≥ 0 of error², such a plan takes Σ (spikes + λ·error²) − λ·limit²·layers spikes at least, summed over
    its layers; with the cheapest choice of each layer this is a bound for all plans (Lagrange), highest at one λ. What
    a plan's choices cost there above the cheapest ones, its spikes exceed the bound by, at least. So all plans of which
    that lies in a window are searched: the best of them is the best of all if its spikes lie in the window, too. Else
    the window is doubled.
    """
    choices = [[c for c in layer if c.code.time_steps <= steps] for layer in candidates]
    figures = [
        torch.tensor([(c.spikes * weight, c.error**2) for c in layer], dtype=torch.float64).T
        for layer, weight in zip(choices, weights, strict=True)
    ]
    hulls = zip(map(_hull, choices), weights, strict=True)
    slopes = [weight / _slope(a, b) for hull, weight in hulls for a, b in pairwise(hull)]
    prices, budget = torch.tensor([0.0, *slopes], dtype=torch.float64), len(choices) * limit**2
    bounds = sum(_priced(layer, prices).amin(-1) for layer in figures) - budget * prices
    bound, price = float(bounds.max()), prices[bounds.argmax()]
    window = max(0.0, point.spikes - bound) / 64
    while True:
        if found := _best_within(window, figures, price, budget):
            better = _point((layer[i] for layer, i in zip(choices, found, strict=True)), weights)
            if better.error <= limit:
                point = min(point, better, key=lambda p: (p.spikes, p.error))
        if point.spikes - bound <= window:
            return point
        window = min(2 * window, point.spikes - bound)


def _best_within(window: float, figures: list[Tensor], price: Tensor, budget: float) -> list[int]:
    """A choice for each layer: the fewest spikes of those that cost so little above the cheapest ones; [] if none.

    Layer by layer: of all sums so far those are kept that no other one beats or equals in spikes and error².
    """
    spikes = errors = above = torch.zeros(1, dtype=torch.float64)
    taken = []
    for layer in figures:
        cost = _priced(layer, price)
        added = zip((spikes, errors, above), (*layer, cost - cost.min()), strict=True)
        spikes, errors, above = ((so_far[:, None] + x).flatten() for so_far, x in added)
        kept = (above <= window).nonzero()[:, 0]
        kept = kept[errors[kept].argsort(stable=True)]
        least = spikes[kept].cummin(0).values
        kept = kept[torch.cat([least.new_full((1,), inf), least])[:-1] > spikes[kept]]
        spikes, errors, above = spikes[kept], errors[kept], above[kept]
        taken.append((kept // layer.shape[1], kept % layer.shape[1]))
    inside = errors <= budget * (1 + 1e-12)  # as sums in another order may be; sorted by error², so by falling spikes
    if not inside.any():
        return []
    at, chosen = int(inside.sum()) - 1, []
    for before, choice in reversed(taken):
        chosen.append(int(choice[at]))
        at = int(before[at])
    return chosen[::-1]


def _priced(layer: Tensor, price: Tensor) -> Tensor:
    """spikes + price · error² of a layer's choices (2, choices), at prices (...): (..., choices)."""
    spikes, errors = layer
    return spikes + price[..., None] * errors


def _front(points: list[Point]) -> tuple[Point, ...]:
    """Those that no other one beats or equals in spikes, T and error, by T and then by spikes."""
    front: list[Point] = []
    best: list[tuple[float, float]] = []  # (spikes, error) of those with no longer T, as steps that go down
    for p in sorted(points, key=lambda p: (p.steps, p.spikes, p.error)):
        i = bisect_right(best, (p.spikes, inf))
        if i and best[i - 1][1] <= p.error:
            continue
        front.append(p)
        beaten = takewhile(lambda q: q[1] >= p.error, best[i:])  # noqa: B023
        best[i : i + len(list(beaten))] = [(p.spikes, p.error)]
    return tuple(front)


def _codes(code: ExpG, threshold: float) -> Tensor:
    """k of the middle of every bin: int32 (8192,)."""
    return (_middles() / threshold).clamp(max=1).mul(code.levels).add(0.5).floor().int()


def _middles() -> Tensor:
    """Of the bins, in units of the threshold: float64 (8192,)."""
    return (torch.arange(2 * BINS, dtype=torch.float64) + 0.5) / BINS


def _staircases(model: nn.Module) -> dict[str, Staircase]:
    """Layers of staircase neurons by name, without masks."""
    masks = {mask for m in model.modules() if isinstance(m, GroupwiseQK) for mask in m.attn_lif.children()}
    return {name: m for name, m in model.named_modules() if isinstance(m, Staircase) and m not in masks}


def _remember(model: Any, neurons: dict[str, Staircase], steps: int) -> None:
    """Tells grids the most levels that now come in, and the config the codes of all layers."""
    levels = max(m.code.levels for m in neurons.values())
    for m in model.modules():
        if isinstance(m, OnGrid) and m.levels is not None:
            m.levels = levels
    config: Any = getattr(model, "config", None)
    if hasattr(config, "codes"):
        codes = tuple((name, m.code.steps, m.code.groups) for name, m in neurons.items())
        code = config.expg.steps, config.expg.groups  # no longer what time_steps says
        model.config = replace(config, time_steps=steps, code=code, codes=codes)
