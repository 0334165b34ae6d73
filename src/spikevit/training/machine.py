"""Whether this machine can run a recipe's trainer: said before data are read, and before anything is written."""

from __future__ import annotations

import os
import warnings

import torch

from spikevit.errors import unknown
from spikevit.schema import wrong
from spikevit.training.backend import pl
from spikevit.training.recipe import TrainerRecipe

PRECISIONS = (
    *("32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true"),
    *("transformer-engine", "transformer-engine-float16", "64", "32", "16", "bf16"),
)
HALF = ("16-mixed", "16")  # float16 with a scale of the loss, which torch has for GPUs alone


def refuse_other_machine(t: TrainerRecipe, *, new: bool = True) -> None:
    """Refuses a trainer that cannot run here.

    new: the run is new. One that goes on, which an earlier version let begin with 16-mixed on a CPU, goes on as it did,
    in bf16-mixed, with a warning.

    Raises:
        ValueError: a name that is none; no such device here, or fewer than `devices`; 16-mixed on a CPU.
    """
    kinds = {name: entry["accelerator"] for name, entry in pl.accelerators.AcceleratorRegistry.items()}
    for field, value, known in (
        ("accelerator", t.accelerator, ("auto", "gpu", *kinds)),
        ("strategy", t.strategy, ("auto", *pl.strategies.StrategyRegistry.available_strategies())),
        ("precision", t.precision, PRECISIONS),
    ):
        if value not in known:
            raise unknown(f"trainer.{field}", value, known)
    here = sorted(name for name, kind in kinds.items() if kind.is_available())
    device = next((name for name in ("tpu", "mps", "cuda") if name in here), "cpu")
    if t.accelerator == "gpu":
        device = next((name for name in ("cuda", "mps") if name in here), "")
    elif t.accelerator != "auto":
        device = t.accelerator if t.accelerator in here else ""
    if not device:
        other = f"there is none here that torch {torch.__version__} can use"
        raise wrong("trainer.accelerator", t.accelerator, f"auto or {' or '.join(here)}: {other}")
    if device == "cpu" and t.strategy.startswith(("fsdp", "deepspeed")):
        raise wrong("trainer.strategy", t.strategy, "auto or ddp on a CPU: it is for GPUs")
    most = max(2, os.cpu_count() or 1) if device == "cpu" else kinds[device].auto_device_count()
    if t.devices > most:
        what = "cores" if device == "cpu" else f"{device} devices"
        raise wrong("trainer.devices", t.devices, f"at most {most}: there are no more {what} here")
    if device == "cpu" and t.precision in HALF:
        if new:
            right = "32-true or bf16-mixed on a CPU, which has no mixed precision with float16"
            raise wrong("trainer.precision", t.precision, right)
        warnings.warn(f"trainer.precision={t.precision!r} is bf16-mixed on a CPU: the run goes on with that")
