"""trainer.fast_dev_run: a few batches that tell whether a recipe works, and what an epoch would take."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from spikevit.training.backend import pl
from spikevit.training.module import Classifier


class Stopwatch(pl.Callback):
    """Seconds of each batch of training and of validation, with the wait for its images."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[float] = []
        self.last = time.monotonic()

    def _lap(self, laps: list[float] | None = None) -> None:
        now = time.monotonic()
        if laps is not None:
            laps.append(now - self.last)
        self.last = now

    def on_train_epoch_start(self, *_: Any) -> None:
        """Starts."""
        self._lap()

    def on_train_batch_end(self, *_: Any) -> None:
        """A batch of training."""
        self._lap(self.train)

    def on_validation_epoch_start(self, *_: Any) -> None:
        """What lies between the two is no batch."""
        self._lap()

    def on_validation_batch_end(self, *_: Any) -> None:
        """A batch of validation."""
        self._lap(self.val)


def tried(trainer: Any, module: Classifier) -> dict[str, Any]:
    """Trains and validates on the first trainer.fast_dev_run batches. Writes nothing.

    Returns:
        batches: how many. loss, val_loss, val_accuracy: of these. epoch_seconds: what an epoch would take, by the
        batches behind the first one, which is slow, where there are any; seconds: all epochs of the recipe. memory:
        the most bytes that were held, of the GPU where it ran on one; None where it is not known.
    """
    [watch] = [callback for callback in trainer.callbacks if isinstance(callback, Stopwatch)]
    try:
        trainer.fit(module)
    except SystemExit:  # Lightning's end of a run that was interrupted
        raise KeyboardInterrupt from None
    counts = len(module._train_batches()), len(module.val_batches)
    epoch = sum(many * _mean(laps) for many, laps in zip(counts, (watch.train, watch.val), strict=True))
    return {
        "batches": len(watch.train),
        "loss": float(trainer.callback_metrics["loss_epoch"]),
        **{name: module.validated[name] for name in ("val_loss", "val_accuracy")},
        "epoch_seconds": epoch,
        "seconds": epoch * module.recipe.schedule.epochs,
        "memory": _memory(trainer.strategy.root_device),
    }


def _mean(laps: list[float]) -> float:
    laps = laps[1:] or laps
    return sum(laps) / len(laps)


def _memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return None
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
