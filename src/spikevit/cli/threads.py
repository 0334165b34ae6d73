"""How many threads the command takes on a machine that others use too: as many as cores are free.

Threads of OpenMP that wait for each other spin. Where another process wants the core, a thread that spins takes the
place of one that works, and training takes ten times as long. So threads soon sleep while they wait, and there are no
more than free cores. The numbers are in the environment before torch and numba read it; what is there already stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

NUMBER = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")  # MKL and OpenBLAS go by OMP_NUM_THREADS
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}  # GNU's spin for microseconds, others sleep at once
SET_TO_WAIT = (*WAITING, "KMP_BLOCKTIME")  # by the user
WINDOW = 0.15  # seconds over which is looked who works
SET_BY = "OMP_NUM_THREADS", "MKL_NUM_THREADS"


@dataclass(frozen=True)
class Choice:
    """cores: that this process may use; busy: how many others keep busy; threads: taken; given: by the user."""

    cores: float = 0
    busy: float = 0
    threads: int = 0
    given: str = ""

    def __str__(self) -> str:
        """In words: "2 cores, 1 of them busy: 1 thread; set OMP_NUM_THREADS to choose"."""
        if self.given:
            return self.given
        cores = f"{self.cores:.2g} core{'' if self.cores == 1 else 's'}"
        busy = round(self.busy)
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{cores}, {busy or 'none'} of them busy: {threads}; set OMP_NUM_THREADS to choose"

    @property
    def fewer(self) -> bool:
        """Whether there are fewer threads than cores, because others work."""
        return not self.given and self.threads < int(self.cores)


chosen: Choice | None = None  # by this process
_ours: list[str] = []  # variables that this process has set


def choose(environment: MutableMapping[str, str] = os.environ) -> Choice:
    """Sets the environment of torch and numba, once, before either is imported."""
    global chosen
    if not any(name in environment for name in SET_TO_WAIT):
        environment.update(WAITING)
    if given := [f"{name}={environment[name]}" for name in SET_BY if name in environment]:
        chosen = Choice(given=f"{' '.join(given)} in the environment")
        return chosen
    cores, busy = cores_here()
    chosen = Choice(cores, busy, threads_of(cores, busy))
    for name in NUMBER:
        if name not in environment:
            environment[name] = str(chosen.threads)
            _ours.append(name)
    return chosen


def release(environment: MutableMapping[str, str] = os.environ) -> None:
    """Takes the numbers out of the environment once torch has read them: several processes of a run share the cores,
    which Lightning divides among them where the environment says nothing.
    """
    while _ours:
        environment.pop(_ours.pop(), None)


def threads_of(cores: float, busy: float) -> int:
    """Free cores, rounded, and at least one; of part of a core there is no thread."""
    return max(1, min(int(cores), int(cores - busy + 0.5)))


def cores_here() -> tuple[float, float]:
    """Cores that this process may use, and how many of them others keep busy.

    Two processors may be one core, and a quota of time (containers) may be less than all: busy is then what free
    processors lack to as many cores.
    """
    numbers = allowed()
    free = len(numbers) - busy_among(numbers)
    cores = min(quota_of_groups(), len(siblings(numbers)))
    return cores, max(0.0, cores - free)


def allowed() -> list[int]:
    """Numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def siblings(numbers: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> set[str]:
    """The cores of these processors, two of which may be one core."""
    return {_text(root / f"cpu{i}/topology/thread_siblings_list") or str(i) for i in numbers}


def quota_of_groups(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that control groups allow, the least of all above this process; infinite without a quota."""
    least = inf
    for line in _text(groups).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        base = root / controllers if controllers else root
        folder = base / path.strip("/")
        for above in (folder, *folder.parents):
            if above.is_relative_to(base):
                whole = _text(above / "cpu.max").split()
                parts = whole or [_text(above / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
                least = min(least, _share(parts))
    return least


def _share(parts: list[str]) -> float:
    """quota / period; infinite where there is none."""
    try:
        quota, period = map(int, parts)
    except ValueError:  # "max", or no such files
        return inf
    return quota / period if quota > 0 and period > 0 else inf


def busy_among(numbers: Iterable[int], stat: Path = Path("/proc/stat"), window: float = WINDOW) -> float:
    """How many of these processors are kept busy while this process sleeps; without /proc/stat, the load."""
    before = times(_text(stat))
    if not before:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    time.sleep(window)
    return share(before, times(_text(stat)), numbers)


def share(before: dict[int, list[int]], after: dict[int, list[int]], numbers: Iterable[int]) -> float:
    """Processors' worth of time that was not idle between two looks."""
    busy = 0.0
    for i in numbers:
        if i in before and i in after:
            spent = [b - a for a, b in zip(before[i], after[i], strict=True)]
            busy += 1 - (spent[3] + spent[4]) / sum(spent) if sum(spent) > 0 else 0.0
    return busy


def times(stat: str) -> dict[int, list[int]]:
    """Time of each processor: user, nice, system, idle, waiting for disks, interrupts (2), taken by other machines."""
    lines = (line.split() for line in stat.splitlines())
    found = {}
    for name, *values in (line for line in lines if line):
        if name.startswith("cpu") and name[3:].isdigit() and len(values) >= 8:
            found[int(name[3:])] = [int(value) for value in values[:8]]
    return found


def _text(path: Path) -> str:
    """What is in a file of the system's, "" where it is not there."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
