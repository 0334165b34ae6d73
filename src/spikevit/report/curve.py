"""Accuracy against computation: one model at every setting of its knob, and what really ran at each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch.utils.data import Dataset, Subset

from spikevit.data import DataInfo
from spikevit.files import csv_text
from spikevit.models import SpikingModel
from spikevit.profiling.constants import Constants, load_constants
from spikevit.profiling.conventions import exact, paper
from spikevit.profiling.count import count
from spikevit.profiling.counts import Counts
from spikevit.profiling.profile import NOTE
from spikevit.training.evaluate import Score, as_input, evaluate, evaluating, in_order


@dataclass(frozen=True)
class Point:
    """One setting of the knob: accuracy and work over all images, and what ran, an image.

    macs, acs: executed, by the exact convention; exact_mj, paper_mj: energy by the two conventions, a model; wall_ms:
    time of the whole evaluation, data included, measured without counting. chosen: the model's own setting.
    """

    setting: float
    score: Score
    macs: float
    acs: float
    exact_mj: float
    paper_mj: float
    wall_ms: float
    chosen: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        s = self.score
        return {
            "setting": self.setting,
            "accuracy": s.accuracy,
            "right": s.right,
            "total": s.total,
            "work": s.work,
            "macs": self.macs,
            "acs": self.acs,
            "exact_mj": self.exact_mj,
            "paper_mj": self.paper_mj,
            "wall_ms": self.wall_ms,
            "chosen": self.chosen,
        }


@dataclass(frozen=True)
class Curve:
    """What `curve` found. images: that operations were counted on; energies are those of `constants`."""

    model: str
    data: str
    knob: str
    work_unit: str
    images: int
    constants: Constants
    points: list[Point]

    @property
    def chosen(self) -> Point:
        """The model's own setting."""
        return next(p for p in self.points if p.chosen)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {
            "model": self.model,
            "data": self.data,
            "knob": self.knob,
            "work_unit": self.work_unit,
            "note": f"energy: {NOTE}",
            "images": self.images,
            "constants": self.constants.to_dict(),
            "points": [p.to_dict() for p in self.points],
        }

    def to_csv(self) -> str:
        """One row for each setting."""
        return csv_text([{"knob": self.knob, "work_unit": self.work_unit, **p.to_dict()} for p in self.points])

    def plot(self, path: str | Path) -> Path:
        """Draws the curve as .svg or .png."""
        from spikevit.report.curve_plot import picture
        from spikevit.report.figure import save

        return save(picture(self), Path(path))

    def __rich__(self):
        from spikevit.report.curve_plot import table

        return table(self)


def operating_points(model: SpikingModel) -> list[tuple[float, SpikingModel]]:
    """The model at each setting of its knob, from the least computation to the most; weights are shared."""
    return [(setting, model.at(setting)) for setting in model.settings()]


def curve(
    model: SpikingModel,
    dataset: Dataset,
    info: DataInfo,
    *,
    batch_size: int = 256,
    count_images: int = 64,
    constants: str | Path | Constants = "fp32",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Curve:
    """Accuracy, work, operations, energy and time of the model at every setting of its knob, in evaluation mode.

    Accuracy, work and time are of all images; operations and energy of what ran on the first `count_images` of them.

    Args:
        model: of the zoo, or adapted by a method; its knob is its own (`SpikingModel.knob`).
        dataset, info, batch_size: as in `evaluate`.
        count_images: how many images to count on.
        constants: energy of one operation, as in `profile`.
        progress: called with the batches done and their number.
    """
    if count_images < 1:
        raise ValueError(f"count_images={count_images!r} must be at least 1")
    table, own = load_constants(constants), model.setting
    with evaluating(model):
        points, found, images = operating_points(model), [], 0
        for i, (setting, at) in enumerate(points):

            def told(done: int, total: int, i: int = i) -> None:
                progress(i * total + done, len(points) * total)

            counts = _count(at, dataset, info, batch_size, count_images)
            started = time.perf_counter()
            score = evaluate(at, dataset, info, batch_size=batch_size, progress=told)
            wall = time.perf_counter() - started
            spent, published = exact(counts, table), paper(counts, table)
            images = counts.images
            found.append(
                Point(
                    setting=setting,
                    score=score,
                    macs=spent.macs,
                    acs=spent.acs,
                    exact_mj=spent.mj,
                    paper_mj=published.mj,
                    wall_ms=wall / score.total * 1e3,
                    chosen=setting == own,
                )
            )
    name = model.name or type(model.base).__name__
    return Curve(name, info.name, model.knob, model.work_unit, images, table, found)


def _count(model: SpikingModel, dataset: Dataset, info: DataInfo, batch_size: int, images: int) -> Counts:
    """What ran on the first images."""
    n = min(images, len(cast(Sized, dataset)))
    loader = in_order(Subset(dataset, range(n)), min(batch_size, n))
    return count(model, (as_input(x, model, info) for x, _ in loader))
