"""How often a model is right, and how much it computes for it: one pass over a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

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
    loader = make_loader(dataset, Batches(len(dataset), batch_size, seed=0, shuffle=False, drop_last=False), workers)  # type: ignore[arg-type]
    was_training = model.training
    model.eval()
    right, total, work = 0, 0, 0.0
    try:
        for i, (images, labels) in enumerate(loader):
            x = normalise(images.to(model.device), info).to(model.dtype)
            logits, taken = model.run(x)
            right += int((logits.argmax(-1).cpu() == labels).sum())
            total += len(labels)
            work += float(taken.double().sum())
            progress(i + 1, len(loader))
    finally:
        model.train(was_training)
    return Score(right, total, work / total)


@torch.no_grad()
def logits_per_step(
    model: SpikingModel, dataset: Dataset, info: DataInfo, *, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Logits of every step (T, N, classes) and labels (N,) of all images, in evaluation mode."""
    loader = make_loader(dataset, Batches(len(dataset), batch_size, seed=0, shuffle=False, drop_last=False), 0)  # type: ignore[arg-type]
    was_training = model.training
    model.eval()
    try:
        found = [(model(normalise(x.to(model.device), info).to(model.dtype), per_step=True), y) for x, y in loader]
    finally:
        model.train(was_training)
    return torch.cat([z.cpu() for z, _ in found], 1), torch.cat([y for _, y in found])
