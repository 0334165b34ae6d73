"""What a run leaves behind and what it shows: checkpoints and metrics in its directory, progress in the terminal."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from spikevit import errors
from spikevit.checkpoint import save_model
from spikevit.profiling.observe import StepRates
from spikevit.training.backend import pl
from spikevit.training.loggers import log
from spikevit.training.module import NonFiniteLoss
from spikevit.training.pace import Pace
from spikevit.training.resume import tensors_of
from spikevit.training.rows import append_rows

SCALE = 2.0**-24  # of a loss in float16: it starts at 2^16 and is halved where gradients overflow


class RunFiles(pl.Callback):
    """At the end of every epoch: a row of metrics.csv, last.safetensors, best.safetensors, and resume.ckpt.

    best is by validation accuracy, and by validation loss among equals; with a target besides accuracy, among the
    epochs that met it. resume.ckpt holds what exact continuation needs besides: optimiser, schedule, raw and averaged
    weights, loops.
    """

    def __init__(self, directory: Path, about: dict[str, Any], pace: Pace):
        self.directory = directory
        self.about = about
        self.pace = pace
        self.best = (False, -1.0, 0.0)  # target met, accuracy, minus loss
        self.started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The best epoch's figures so far, so that a resumed run keeps its best checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Back to the best so far."""
        self.best = state_dict["best"]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Writes everything, if all of it is finite; each file whole or not at all."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()} | pl_module.validated
        row = epoch_row(trainer, metrics, time.monotonic() - self.started)
        row["images_per_second"] = round(self.pace.rate, 1)  # of training, validation not counted
        refuse_non_finite(trainer, pl_module, row)
        figures = (pl_module.trained.meets_target, row["val_accuracy"], -row["val_loss"])
        improved, self.best = figures > self.best, max(figures, self.best)
        if trainer.is_global_zero:
            append_rows(self.directory / "metrics.csv", [row])
            log(trainer, {name: v for name, v in row.items() if name not in {"epoch", "step", "loss", *metrics}})
            about = self.about | {"epoch": row["epoch"], "val_accuracy": row["val_accuracy"]}
            save_model(pl_module.trained, self.directory / "last.safetensors", **about)
            if improved:
                save_model(pl_module.trained, self.directory / "best.safetensors", **about)
        trainer.save_checkpoint(self.directory / "resume.ckpt")


def refuse_non_finite(trainer: Any, module: Any, row: dict[str, Any]) -> None:
    """Refuses an epoch that left NaN or infinity: in its figures, weights, statistics, or the optimiser's averages."""
    epoch = f"after epoch {row['epoch']}"
    if bad := [f"{name} is {value}" for name, value in row.items() if not math.isfinite(value)]:
        raise NonFiniteLoss(f"{epoch} {' and '.join(bad)}")
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and scaler.get_scale() < SCALE:
        raise NonFiniteLoss(f"{epoch} the scale of the loss is {scaler.get_scale()}: gradients overflow at every step")
    optimizers = {f"optimizer {i}": optimizer.state_dict() for i, optimizer in enumerate(trainer.optimizers)}
    try:
        errors.refuse_non_finite(tensors_of(module.state_dict() | optimizers), epoch)
    except ValueError as error:
        raise NonFiniteLoss(str(error)) from None


def epoch_row(trainer: Any, metrics: dict[str, float], seconds: float) -> dict[str, Any]:
    """The epoch that ended, as a row of metrics.csv; epochs count from 1."""
    return {
        "epoch": trainer.current_epoch + 1,
        "step": trainer.global_step,
        "lr": trainer.optimizers[0].param_groups[0]["lr"],
        "loss": metrics["loss_epoch"],
        "val_loss": metrics["val_loss"],
        "val_work": metrics["val_work"],
        "val_accuracy": metrics["val_accuracy"],
        "seconds": round(seconds, 3),
    }


class SpikeRates(pl.Callback):
    """spikes.csv: the firing rate of each layer, group and step on the validation images of every epoch (a process's
    share of them). Of staircases, which have no spikes yet, the rates that their spikes will have: see `StepRates`.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.counted: StepRates | None = None

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts to count."""
        self.counted = StepRates(pl_module.trained).__enter__()

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        """From the first step."""
        assert self.counted is not None
        self.counted.new_batch()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Writes the epoch's rates."""
        assert self.counted is not None
        self.counted.__exit__()
        pl_module.silent = self.counted.alive.silent
        rows, means = [], {}
        for name, rates in self.counted.rates().items():
            means[f"firing_rate/{name}"] = float(rates.mean())
            for group, of_group in enumerate(rates.tolist(), 1):
                for step, rate in enumerate(of_group, 1):
                    where = {"layer": name, "group": group, "step": step}
                    rows.append({"epoch": trainer.current_epoch + 1, **where, "rate": float(f"{rate:.6g}")})
        if rows and trainer.is_global_zero:
            append_rows(self.directory / "spikes.csv", rows)
            log(trainer, means)


class Progress(pl.Callback):
    """A live bar over the whole run with loss, validation accuracy, pace and the time that is left, and a line for
    every few epochs behind it. Where there is no terminal, a line with an estimate after the first steps, and one for
    every epoch, each written at once.
    """

    def __init__(self, pace: Pace, console: Any = None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.pace = pace
        self.console = console or Console()
        columns = [BarColumn(bar_width=20), TextColumn("{task.fields[status]}"), TimeElapsedColumn()]
        live = self.console.is_terminal
        self.bar = Progress(*columns, console=self.console, refresh_per_second=4, disable=not live)
        self.task: Any = None
        self.status = ""
        self.estimated = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The bar spans all steps, those of the run before it was resumed included."""
        if trainer.is_global_zero:
            self.bar.start()
            total = trainer.estimated_stepping_batches
            self.task = self.bar.add_task("training", total=total, completed=trainer.global_step, status="")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """One step further."""
        if self.task is None:
            return
        if self.console.is_terminal:
            status = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}{self.status}  {self.pace}"
            self.bar.update(self.task, completed=trainer.global_step, status=status)
        elif self.pace.settled and not self.estimated:
            self.estimated = True
            self.console.print(str(self.pace), highlight=False, soft_wrap=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The newest figures; on a terminal about ten lines in all stay."""
        m = trainer.callback_metrics
        self.status = f"  loss {m['loss_epoch']:.3f}  validation {m['val_accuracy']:.2%}"
        self.status += f"  [bold red]{pl_module.silent}[/]" if pl_module.silent else ""
        epoch = trainer.current_epoch + 1
        if self.task is None:
            return
        live, last = self.console.is_terminal, epoch == trainer.max_epochs
        self.bar.update(self.task, status=f"epoch {epoch}/{trainer.max_epochs}{self.status}")
        if not live or epoch % max(1, trainer.max_epochs // 10) == 0 or last:
            pace = "" if live or last else f"  {self.pace}"
            self.estimated = True
            self.console.print(f"epoch {epoch:>3}{self.status}{pace}", highlight=False, soft_wrap=True)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leaves the terminal as it was, however the run ended."""
        self.bar.stop()
