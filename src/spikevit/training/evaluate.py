"""How often a model is right, and how much it computes for it: one pass over a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spikevit.data import Batches, DataInfo, make_loader, normalise
from spikevit.data.sets import check_labels
from spikevit.models import SpikingModel
from spikevit.models.running import evaluating, zoo_network
from spikevit.profiling.finite import Finite, refuse_non_finite
from spikevit.profiling.health import at_chance
from spikevit.profiling.observe import Fired
from spikevit.schema import of_kind, wrong


@dataclass(frozen=True)
class Score:
    """right of total images. work: what an image took on average, in the model's `work_unit`.

    chance: share of the most frequent class. silence: what to say of layers of neurons that never fired, or "".
    """

    right: int
    total: int
    work: float
    chance: float = 0.0
    silence: str = ""

    @property
    def accuracy(self) -> float:
        """Share of images classified right, 0 to 1."""
        return self.right / self.total

    @property
    def at_chance(self) -> str:
        """What to say where accuracy is no better than luck, "" where it is."""
        return at_chance(self.right, self.total, self.chance)


@torch.no_grad()
def evaluate(
    model: SpikingModel,
    dataset: Dataset,
    info: DataInfo,
    *,
    batch_size: int = 256,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Runs the model in evaluation mode over every image once, in order; the modes are put back afterwards.

    progress is called with the batches done and their number.

    Raises:
        ValueError: a data set of other classes than the model, labels that are none of them; weights, images, membrane
            currents or logits that are not finite; images that are no (C, H, W).
    """
    _refuse_unfit(model, dataset, info)
    right, total, work, classes = 0, 0, 0.0, Counter[int]()
    loader = in_order(dataset, batch_size, workers)
    with evaluating(model), refuse_non_finite(model) as finite, Fired(model) as fired:
        for i, (x, labels) in enumerate(inputs(loader, model, info, finite)):
            logits, taken = model.run(x)
            finite.see("logits", logits)
            finite.check()
            right += int((logits.argmax(-1).cpu() == labels).sum())
            total += len(labels)
            classes.update(labels.tolist())
            work += float(taken.double().sum())
            progress(i + 1, len(loader))
    return Score(right, total, work / total, max(classes.values()) / total, fired.silence())


@torch.no_grad()
def logits_per_step(
    model: SpikingModel, dataset: Dataset, info: DataInfo, *, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Logits of every step (T, N, classes) and labels (N,) of all images, in evaluation mode.

    Raises:
        ValueError: as `evaluate`.
    """
    _refuse_unfit(model, dataset, info)
    found = []
    with evaluating(model), refuse_non_finite(model) as finite:
        for x, labels in inputs(in_order(dataset, batch_size), model, info, finite):
            logits = model(x, per_step=True)
            finite.see("logits", logits)
            finite.check()
            found.append((logits.cpu(), labels))
    return torch.cat([z for z, _ in found], 1), torch.cat([y for _, y in found])


def _refuse_unfit(model: Any, dataset: Any, info: Any) -> None:
    """Refuses what is no model, no part of a data set or no description of one, and those of other classes."""
    zoo_network(model, "evaluation").require_classes("evaluation")
    of_kind("info", info, DataInfo, "a DataInfo, as data.info is one")
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):  # as all data, and a loader, lack one
        raise wrong("dataset", dataset, 'a Dataset with a length, such as data.split("test")')
    if info.num_classes != model.config.num_classes:
        raise ValueError(
            f"info is of {info.num_classes} classes, {model.name or type(model).__name__} has "
            f"num_classes={model.config.num_classes}: reset_classifier({info.num_classes}) gives it a fresh head"
        )


def inputs(
    loader: Iterable[tuple[Tensor, Tensor]], model: SpikingModel, info: DataInfo, finite: Finite
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images as the model takes them, which `finite` has seen, and labels."""
    for images, labels in loader:
        check_labels(labels, info)
        if images.shape[-2:] != info.image_size:
            raise ValueError(
                f"images are {tuple(images.shape[1:])}, info has image_size={info.image_size}: resize them or describe "
                "them as they are"
            )
        x = as_input(images, model, info)
        finite.see("images", x)
        yield x, labels


def in_order(dataset: Dataset, batch_size: int, workers: int = 0) -> DataLoader:
    """Every image once, in order."""
    n = len(cast(Sized, dataset))
    return make_loader(dataset, Batches(n, batch_size, seed=0, shuffle=False, drop_last=False), workers)


def as_input(images: Tensor, model: SpikingModel, info: DataInfo) -> Tensor:
    """As the model takes them."""
    return normalise(images.to(model.device), info).to(model.dtype)
