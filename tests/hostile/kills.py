"""Trainings killed with kill -9, at random moments and around every call that makes or renames a file; stopped by
SIGTERM or SIGINT, and met by a full disk, at such calls.

    python -m tests.hostile.kills --kills 200 --points 75 --stops 40 --full 76

Whatever that leaves must go on to the same losses and weights, bit for bit, as a run that nobody stopped, or be free
to start again where no epoch had ended; and in the end no temporary file is left, neither in the run's directory nor in
the system's own.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from spikevit.data import Data, load_data  # noqa: E402
from spikevit.training import run  # noqa: E402
from spikevit.training.recipe import load_recipe  # noqa: E402
from spikevit.training.rows import read_rows  # noqa: E402

TINY = [
    *("model.config.embed_dim=32", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=2"),
    *("data.batch_size=32", "schedule.epochs=3", "schedule.warmup_epochs=0", "augmentation.crop_padding=0"),
    *("regularisation.ema_decay=0.9", "early_exit.tolerance=0.1"),
]
CALLS = {os: ("mkdir", "replace", "rename", "link", "unlink", "fsync", "open"), io: ("open",), builtins: ("open",)}


def some_digits() -> Data:
    """The first images of each part of digits: 96, 32, 32."""
    data: Any = load_data("digits", image_size=16)
    parts = {name: data.split(name).part(np.arange(n)) for name, n in (("train", 96), ("val", 32), ("test", 32))}
    return Data(data.info, **parts)


class Killer:
    """Counts the calls of CALLS that concern a folder; before or behind the n-th of them it kills the process, sends it
    another signal, or (way=None) lets the call find a full disk.
    """

    def __init__(self, folder: Path, at: int | None, way: int | None = signal.SIGKILL):
        self.folder, self.at, self.way, self.seen, self.inside = str(folder), at, way, 0, False

    def patch(self) -> None:
        """From now on."""
        for place, names in CALLS.items():
            for name in names:
                setattr(place, name, self._wrapped(getattr(place, name), name))

    def _wrapped(self, call: Callable, name: str) -> Callable:
        def counted(*args, **more):
            concerned = name == "fsync" or any(self.folder in str(arg) for arg in args[:2])
            if self.inside or not concerned:  # io.open calls os.open
                return call(*args, **more)
            self._point()
            self.inside = True
            try:
                result = call(*args, **more)
            finally:
                self.inside = False
            self._point()
            return result

        return counted

    def _point(self) -> None:
        self.seen += 1
        if self.seen == self.at and self.way is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.seen == self.at:
            os.kill(os.getpid(), self.way)


class Campaign:
    """Runs in children of this process, which has loaded everything and trains nothing itself."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.random, self.found = folder, random.Random(seed), Counter()
        self.data, self.recipe = some_digits(), load_recipe("digits", TINY)
        self.failures: list[str] = []
        started = time.monotonic()
        self.whole = self.folder / "whole"
        assert self.child(self.whole, new=True) == 0, "the run that nobody kills failed"
        self.seconds = time.monotonic() - started
        points = self.folder / "counted"
        assert self.child(points, new=True, count=True) == 0
        self.points = int((self.folder / "points").read_text())
        print(f"a run takes {self.seconds:.1f} s and passes {self.points} points", flush=True)

    def child(
        self,
        directory: Path,
        *,
        new: bool,
        after: float | None = None,
        at: int | None = None,
        way: int | None = signal.SIGKILL,
        count: bool = False,
    ) -> int:
        """Trains in another process, which is killed `after` seconds or `at` a point; its exit status, −9 of a kill."""
        pid = os.fork()
        if pid == 0:
            self._train(directory, new, at, way, count)
        deadline = time.monotonic() + (120 if after is None else after)
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                break
            time.sleep(0.002)
        return os.waitstatus_to_exitcode(done[1])

    def _train(self, directory: Path, new: bool, at: int | None, way: int | None, count: bool) -> None:
        """In the child: trains and ends the process."""
        status = 1
        try:
            temporary = self.folder / f"{directory.name}.temporary"
            temporary.mkdir(exist_ok=True)
            tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
            log = open(self.folder / f"{directory.name}.log", "a", encoding="utf-8")  # noqa: SIM115
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            killer = Killer(directory, at, way)
            if at is not None or count:
                killer.patch()
            run.train(directory, self.recipe if new else None, data=self.data, progress=False)
            if count:
                (self.folder / "points").write_text(str(killer.seen))
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def kill(self, number: int, at: int | None = None, way: int | None = signal.SIGKILL) -> None:
        """One run, stopped at a point or a random moment, half of them killed while they go on; then judged."""
        directory = self.folder / f"run{number}"
        moment = None if at is not None else self.random.uniform(0, self.seconds)
        status = self.child(directory, new=True, after=moment, at=at, way=way)
        how = {signal.SIGKILL: "killed", None: "met a full disk"}.get(way, "stopped by a signal")
        self.found[how if status else "ended before" if way == signal.SIGKILL else f"{how}, and ended well"] += 1
        for _ in range(self.random.choice((0, 0, 1, 2))):
            status = self.child(directory, new=self.is_free(directory), after=self.random.uniform(0, self.seconds))
            self.found["killed again while it went on"] += status == -9
        self.found["temporary files left by kills"] += len(temporaries(directory))
        new = self.is_free(directory)
        self.found["free to start again" if new else "to go on"] += 1
        status = self.child(directory, new=new)
        wrong = [f"exit status {status}"] if status else differences(directory, self.whole)
        wrong += [f"{path} is left" for path in temporaries(directory)]
        wrong += [f"{path} is left" for path in (self.folder / f"{directory.name}.temporary").iterdir()]
        if wrong:
            self.failures.append(f"{directory} (moment {moment}, point {at}): {'; '.join(wrong)}")
        else:
            shutil.rmtree(directory)

    def is_free(self, directory: Path) -> bool:
        """Whether a new run starts there: it must where there is no recipe.yaml, and may where no epoch has ended."""
        if not (directory / "recipe.yaml").exists():
            return True
        ended = [*directory.glob("*.safetensors"), *directory.glob("resume.ckpt"), *directory.glob("results.json")]
        return not ended and self.random.random() < 0.5


def temporaries(directory: Path) -> list[Path]:
    """Of any name."""
    return [path for path in directory.rglob("*") if path.name.endswith(".tmp")]


def differences(ours: Path, whole: Path) -> list[str]:
    """What is not the same in two runs."""
    found = []
    for name in ("metrics.csv", "spikes.csv"):
        a, b = (
            [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in read_rows(d / name)]
            for d in (ours, whole)
        )
        found += [f"{name} differs"] * (a != b)
    for name in ("last", "best", "final"):
        a, b = (load_file(d / f"{name}.safetensors") for d in (ours, whole))
        found += [f"{name} differs"] * (a.keys() != b.keys() or not all(torch.equal(a[n], b[n]) for n in b))
    a, b = (json.loads((d / "results.json").read_text(encoding="utf-8")) for d in (ours, whole))
    return found + [
        f"{name} differs in results.json" for name in ("right", "total", "work", "best_epoch") if a[name] != b[name]
    ]


def main(kills: int, points: int, stops: int = 0, full: int = 0, seed: int = 0) -> int:
    """Runs the campaign; the number of failures."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="kills"))
    campaign, started = Campaign(folder, seed), time.monotonic()
    for number in range(kills):
        campaign.kill(number)
    number = kills
    for group in ([signal.SIGKILL] * points, [signal.SIGTERM, signal.SIGINT] * (stops // 2), [None] * full):
        for i, way in enumerate(group):
            campaign.kill(number, 1 + i * campaign.points // len(group), way)
            number += 1
    for name, count in sorted(campaign.found.items()):
        print(f"{count:5} {name}")
    print(f"{len(campaign.failures):5} failures in {time.monotonic() - started:.0f} s")
    for failure in campaign.failures:
        print(failure)
    if not campaign.failures:
        shutil.rmtree(folder)
    return len(campaign.failures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="at random moments")
    parser.add_argument("--points", type=int, default=75, help="before and behind calls that make or rename files")
    parser.add_argument("--stops", type=int, default=40, help="by SIGTERM and SIGINT, at such calls")
    parser.add_argument("--full", type=int, default=76, help="such calls that find a full disk")
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(main(**vars(parser.parse_args())) > 0)
