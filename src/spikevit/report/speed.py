"""How fast a model runs here: the time of a batch, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from spikevit.models import SpikingModel
from spikevit.models.running import evaluating

BATCHES = (1, 64)
SECONDS, RUNS = 0.4, 15  # of one batch size, at most; one run in any case
MOST = 1.0  # seconds that a batch may take


@dataclass(frozen=True)
class Speed:
    """Median time of a batch of `batch` images, over `runs` runs after one that is not counted."""

    batch: int
    seconds: float
    runs: int

    @property
    def images_per_second(self) -> float:
        """Of this batch size."""
        return self.batch / self.seconds


@torch.no_grad()
def speeds(model: SpikingModel, images: Tensor, slow: float = 0.0) -> list[Speed]:
    """One image at a time, and 64, or fewer where 64 would take more than `MOST` seconds.

    Args:
        images: as the model takes them, repeated where they are too few.
        slow: seconds that one image takes, at most.
    """
    found: list[Speed] = []
    with evaluating(model):
        for batch in BATCHES:
            while batch > 1 and batch * slow > MOST:
                batch //= 2
            if batch in [speed.batch for speed in found]:
                continue
            x = images[torch.arange(batch, device=images.device) % len(images)]
            times = [_seconds(model, x)]  # the first is slower: memory is asked for, kernels are compiled
            while len(times) < 2 or (len(times) <= RUNS and sum(times) < SECONDS):
                times.append(_seconds(model, x))
            found.append(Speed(batch, median(times[1:]), len(times) - 1))
    return found


def _seconds(model: SpikingModel, x: Tensor) -> float:
    _wait(x)
    started = time.perf_counter()
    model.run(x)
    _wait(x)
    return time.perf_counter() - started


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def machine(device: torch.device) -> str:
    """Where that was: the GPU, or the CPU and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu() -> str:
    """What the processor calls itself, or its architecture."""
    import platform

    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return next(filter(None, [*names[:1], platform.processor(), platform.machine()]), "an unknown processor")
