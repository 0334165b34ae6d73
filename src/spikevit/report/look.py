"""Running a trained model once, to see what a report shows of it: predictions, spikes, maps, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Subset

from spikevit.adaptive import DynamicTimeSteps, EarlyExit, Halting, add_halting
from spikevit.attention import GroupwiseSSA, MSTokenAttention, QKTokenAttention
from spikevit.data import Data, DataInfo
from spikevit.models import SpikingModel
from spikevit.neurons import Staircase
from spikevit.profiling.check import Check, check, load_rule, rules
from spikevit.profiling.finite import refuse_non_finite
from spikevit.profiling.observe import StepRates, observe
from spikevit.profiling.profile import Report, profile
from spikevit.report.speed import Speed, machine, speeds
from spikevit.training.evaluate import as_input, evaluating, in_order

GALLERY, CLOSE = 24, 3  # images shown, and those of them that are looked into
NEURONS = 40  # of a layer, in a raster
BINS = 10  # of confidences


@dataclass(frozen=True)
class Close:
    """One image, looked into. spikes: (neurons, T) of each layer, {} where neurons are staircases.

    maps: by block, where on the grid (H', W') the neurons of its mixer fire, a share. cells: visited by each token.
    """

    index: int
    spikes: dict[str, Tensor]
    maps: dict[str, Tensor]
    cells: Tensor | None


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is above `low`, and at most low + 1 / BINS: their mean confidence, and share right."""

    low: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Look:
    """What `look` found on the first `total` of `of` images of a split. work: of each image, in the model's unit.

    images: the first ones to show, uint8 (n, C, H, W), `shown` their places. rates: by layer, at each step; mean_rates:
    of all cells that were computed. silence: what to say of layers that never fired. over_time: accuracy of the mean of
    the first t steps' logits, t = 1 … T; [] where there is no common axis of steps, or where images leave it early.
    speeds: measured, on `machine`.
    """

    info: DataInfo
    split: str
    of: int
    labels: Tensor
    predictions: Tensor
    confidence: Tensor
    work: Tensor
    images: Tensor
    shown: list[int]
    rates: dict[str, list[float]]
    mean_rates: dict[str, float]
    silence: str
    close: list[Close]
    costs: Report
    checks: list[Check]
    over_time: list[float]
    speeds: list[Speed]
    machine: str

    @property
    def total(self) -> int:
        """Images looked at."""
        return len(self.labels)

    @property
    def right(self) -> int:
        """How many were classified right."""
        return int((self.labels == self.predictions).sum())

    @property
    def chance(self) -> float:
        """Share of the most frequent class among the images looked at."""
        return int(self.labels.bincount().max()) / self.total

    def calibration(self) -> list[Bin]:
        """Bins of equal width over the confidence, those with images (Guo et al., 2017)."""
        place = (self.confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
        right, found = (self.labels == self.predictions).double(), []
        for i in place.unique().tolist():
            inside = place == i
            means = [float(part.double()[inside].mean()) for part in (self.confidence, right)]
            found.append(Bin(i / BINS, int(inside.sum()), *means))
        return found

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, Σ_b n_b / n · |accuracy_b − confidence_b| over the bins of `calibration`."""
        return sum(b.images / self.total * abs(b.accuracy - b.confidence) for b in self.calibration())

    def confusion(self) -> Tensor:
        """Images of class i that were taken for class j, (classes, classes)."""
        n = self.info.num_classes
        return torch.bincount(self.labels * n + self.predictions, minlength=n * n).view(n, n)


@torch.no_grad()
def look(
    model: SpikingModel,
    data: Data,
    *,
    images: int = 2000,
    count_images: int = 16,
    constants: str = "fp32",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Look:
    """Runs the model over the first test images (validation images where there are none), in evaluation mode.

    Args:
        images: how many to classify. count_images: how many of them to count operations on.
        constants: energy of one operation, as in `profile`.
        progress: called with the images done and their number.

    Raises:
        ValueError: weights, membrane currents or logits that are not finite.
    """
    dataset = data.split(data.tested)
    of = len(cast(Sized, dataset))
    n = min(images, of)
    found: list[tuple[Tensor, ...]] = []
    counted: list[Tensor] = []
    kept: dict[bool, list[tuple[int, Tensor]]] = {False: [], True: []}  # images to show, wrong and right
    right_by_step: list[Tensor] = []
    with evaluating(model):
        with StepRates(model) as rates, refuse_non_finite(model) as finite:
            done, started = 0, time.perf_counter()
            for x, labels in in_order(Subset(dataset, range(n)), 64):
                rates.new_batch()
                per_step, work = _run(model, as_input(x, model, data.info))
                logits = per_step.mean(0)
                finite.see("logits", logits)
                finite.check()
                right_by_step.append(_right_by_step(per_step, labels))
                sure, classes = logits.float().softmax(-1).max(-1)
                found.append((labels, classes.cpu(), sure.cpu(), work.float().cpu()))
                for i, right in enumerate((classes.cpu() == labels).tolist()):
                    if len(kept[right]) < GALLERY:
                        kept[right].append((done + i, x[i]))
                if done < count_images:
                    counted.append(x)
                done += len(x)
                progress(done, n)
            slow = (time.perf_counter() - started) / n
        labels, predictions, confidence, work = map(torch.cat, zip(*found, strict=True))
        shown = [*kept[False][: max(GALLERY // 2, GALLERY - len(kept[True]))], *kept[True]][:GALLERY]
        wrong = sum(predictions[at] != labels[at] for at, _ in shown)
        chosen = [i for i in (0, int(wrong), 1, 2) if i < len(shown)]  # the first wrong one, the first right one, …
        by_step = [right / n for right in torch.stack(right_by_step).sum(0).tolist()]
        first = as_input(torch.cat(counted)[:64], model, data.info)
        costs = profile(
            model, as_input(torch.cat(counted)[:count_images], model, data.info).split(4), constants=constants
        )
        return Look(
            info=data.info,
            split=data.tested,
            of=of,
            labels=labels,
            predictions=predictions,
            confidence=confidence,
            work=work,
            images=torch.stack([image for _, image in shown]),
            shown=[at for at, _ in shown],
            rates={name: r.tolist() for name, r in rates.over_time().items()},
            mean_rates=rates.means(),
            silence=rates.alive.silence(),
            close=[
                _close(model, as_input(shown[i][1][None], model, data.info), i)
                for i in list(dict.fromkeys(chosen))[:CLOSE]
            ],
            costs=costs,
            checks=[check(costs.counts, load_rule(name)) for name in rules()],
            over_time=by_step if len(by_step) > 1 else [],
            speeds=speeds(model, first, slow),
            machine=machine(model.device),
        )


def _run(model: SpikingModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (T, B, classes) of every step, or (1, B, classes) where there are no steps in common; work as by `run`."""
    if not model.time_axis or isinstance(model, (EarlyExit, Halting)):
        logits, work = model.run(x)
        return logits[None], work
    logits = model(x, per_step=True)
    steps = model.mean_steps if isinstance(model, DynamicTimeSteps) else len(logits)
    return logits, torch.full((len(x),), float(steps))


def _right_by_step(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images the mean of the first t logits (T, B, classes) gets right, for t = 1 … T."""
    guesses = [logits[:t].mean(0).argmax(-1).cpu() for t in range(1, len(logits) + 1)]
    return torch.stack([(guess == labels).sum() for guess in guesses])


def _close(model: SpikingModel, x: Tensor, index: int) -> Close:
    """Spikes and maps of one image; tokens that halt stay in place, silent."""
    whole = add_halting(model.model, model.halting, masked=True).eval() if isinstance(model, Halting) else model
    calls: dict[str, list[Tensor]] = {}
    with observe(whole, lambda name, spikes: calls.setdefault(name, []).append(spikes)):
        whole(x)
    fired = {name: torch.cat(parts) for name, parts in calls.items()}
    codes = any(isinstance(module, Staircase) for module in whole.modules())
    return Close(
        index=index,
        spikes={} if codes else {name: _some(spikes) for name, spikes in fired.items()},
        maps=dict(_maps(whole, fired, x.shape[-2] / x.shape[-1])),
        cells=model.visits(x).cells[0].cpu() if isinstance(model, Halting) else None,
    )


def _some(spikes: Tensor) -> Tensor:
    """Evenly spaced neurons of one image's spikes (T, 1, …), as (neurons, T)."""
    flat = spikes.flatten(1)
    keep = torch.linspace(0, flat.shape[1] - 1, min(NEURONS, flat.shape[1])).long()
    return flat[:, keep].ne(0).T.cpu()


def _maps(model: Any, fired: dict[str, Tensor], aspect: float):
    """Share of (step, channel or head) cells at each token in which the neurons of a mixer fire, by block."""
    for name, spikes in fired.items():
        place, _, last = name.rpartition(".")
        if last != "attn_lif":
            continue
        mixer = model.get_submodule(place)
        if isinstance(mixer, GroupwiseSSA):  # (T, 1, H', W', C)
            grid = spikes.ne(0).float().mean((0, 1, 4))
        elif spikes.shape[2] > 1:  # (T, 1, N, …); neurons of SDSA belong to all tokens
            tokens = spikes.ne(0).float().transpose(0, 2).flatten(1).mean(1)
            grid = tokens.unflatten(0, (round((len(tokens) * aspect) ** 0.5), -1))
        else:
            continue
        mask = type(mixer) in (QKTokenAttention, MSTokenAttention)
        yield f"{place.removesuffix('.attn')}, {'token mask' if mask else 'attention'}", grid.cpu()
