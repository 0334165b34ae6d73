"""How fast a run goes, and how long it takes: measured from its second step on, and said."""

from __future__ import annotations

import time
import warnings
from typing import Any

from spikevit.training.backend import pl

LONG = 6 * 3600  # seconds of a run on a CPU that are said as a warning
SETTLED = 2.0  # seconds of steps after the first, which compiles and reads ahead, before an estimate is said
FORWARD = 1 / 3  # of a step's time that a batch takes in validation, until an epoch has shown it


class Pace(pl.Callback):
    """Seconds a step and an epoch. A step is a batch of training of all processes.

    The time of a step is the mean over this epoch's steps without the first, the time of an epoch that of the last one,
    with its validation.
    """

    def __init__(self) -> None:
        self.step_seconds: float | None = None
        self.epoch_seconds: float | None = None
        self.rate = 0.0  # images a second of the last epoch's steps
        self.started = self.first = self.measured = 0.0
        self.done = self.steps = self.epochs = self.images = self.validated = 0
        self.settled = False
        self._cpu = False

    # --- what Lightning calls ---------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock of an epoch."""
        self._cpu = trainer.strategy.root_device.type == "cpu"
        self.steps, self.validated = int(trainer.num_training_batches), int(sum(trainer.num_val_batches))
        self.images = pl_module.recipe.data.batch_size * trainer.world_size
        self.epochs = trainer.max_epochs - trainer.current_epoch
        self.begin(time.monotonic())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Counts a step."""
        self.step(time.monotonic())
        if self.settled and trainer.is_global_zero:
            self.warn()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """The steps of the epoch are done."""
        self.trained(time.monotonic())

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The epoch is done, its validation too."""
        self.end(time.monotonic())

    # --- what they do -----------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """An epoch begins."""
        self.started, self.done = now, 0

    def step(self, now: float) -> None:
        """A step has ended."""
        self.done += 1
        if self.done == 1:
            self.first = now
            self.step_seconds = self.step_seconds or now - self.started
        else:
            self.step_seconds = (now - self.first) / (self.done - 1)
        self.measured = now
        self.settled = self.settled or (self.done > 1 and now - self.first >= SETTLED)

    def trained(self, now: float) -> None:
        """The last step of an epoch has ended."""
        self.rate = self.done * self.images / max(now - self.started, 1e-9)

    def end(self, now: float) -> None:
        """An epoch has ended."""
        self.epoch_seconds, self.settled = now - self.started, True
        self.epochs, self.done = self.epochs - 1, 0

    @property
    def images_per_second(self) -> float:
        """Of training, by the steps that were measured last."""
        return self.images / self.step_seconds if self.step_seconds else 0.0

    @property
    def an_epoch(self) -> float:
        """Seconds of an epoch: of the last one, or as the steps so far have it."""
        if self.epoch_seconds is not None:
            return self.epoch_seconds
        return (self.steps + self.validated * FORWARD) * (self.step_seconds or 0.0)

    @property
    def left(self) -> float:
        """Seconds until the last epoch ends, the test not counted."""
        return max(0.0, self.epochs * self.an_epoch - self.done * (self.step_seconds or 0.0))

    def __str__(self) -> str:
        """In words: "4.2 s an epoch, 320 images/s, about 2 min left"."""
        return f"{duration(self.an_epoch)} an epoch, {number(self.images_per_second)} images/s, {self.remaining}"

    @property
    def remaining(self) -> str:
        """In words: "about 2 min left"."""
        return f"about {duration(self.left)} left"

    def warn(self) -> None:
        """Says once that a run takes very long on a CPU."""
        if self._cpu and self.left > LONG:
            self._cpu = False
            warnings.warn(
                f"about {duration(self.left)} on this CPU: {self.epochs} epochs of {duration(self.an_epoch)} at "
                f"{number(self.images_per_second)} images a second. Such a run is for a GPU, and none is used here: "
                "fewer schedule.epochs, fewer or smaller images (data.image_size), or a smaller model.name "
                "take less time"
            )


def number(value: float) -> str:
    """With two digits at least: "0.4", "32", "1,050"."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """A length of time in words, with two digits: "0.35 s", "12 min", "3.5 h", "13 days"."""
    units = ((99.5, 1, "s"), (99.5 * 60, 60, "min"), (48 * 3600, 3600, "h"), (float("inf"), 86400, "days"))
    unit, word = next((unit, word) for most, unit, word in units if seconds < most)
    value = seconds / unit
    return f"{number(value)} {word}"


__all__ = ["Pace", "duration", "number"]
