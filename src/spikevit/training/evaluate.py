"""How often a model is right, and how much it computes for it: one pass over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spikevit.data import Batches, DataInfo, make_loader, normalise
from spikevit.models import SpikingModel


@dataclass(frozen=True)
class Score:
    """right of total images. work: what an image took on average, in the model's `work_unit`."""

    right: int
    total: int
    work: float

    @property
    def accuracy(self) -> float:
        """Share of images classified right, 0 to 1."""
        return self.right / self.total


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
    """Runs the model in evaluation mode over every image once, in order; the mode is put back afterwards.

    progress is called with the batches done and their number.
    """
    right, total, work = 0, 0, 0.0
    loader = in_order(dataset, batch_size, workers)
    with evaluating(model):
        for i, (images, labels) in enumerate(loader):
            logits, taken = model.run(as_input(images, model, info))
            right += int((logits.argmax(-1).cpu() == labels).sum())
            total += len(labels)
            work += float(taken.double().sum())
            progress(i + 1, len(loader))
    return Score(right, total, work / total)


@torch.no_grad()
def logits_per_step(
    model: SpikingModel, dataset: Dataset, info: DataInfo, *, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Logits of every step (T, N, classes) and labels (N,) of all images, in evaluation mode."""
    with evaluating(model):
        found = [(model(as_input(x, model, info), per_step=True), y) for x, y in in_order(dataset, batch_size)]
    return torch.cat([z.cpu() for z, _ in found], 1), torch.cat([y for _, y in found])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then the mode that the model was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def in_order(dataset: Dataset, batch_size: int, workers: int = 0) -> DataLoader:
    """Every image once, in order."""
    n = len(cast(Sized, dataset))
    return make_loader(dataset, Batches(n, batch_size, seed=0, shuffle=False, drop_last=False), workers)


def as_input(images: Tensor, model: SpikingModel, info: DataInfo) -> Tensor:
    """As the model takes them."""
    return normalise(images.to(model.device), info).to(model.dtype)
