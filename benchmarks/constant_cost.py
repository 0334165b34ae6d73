"""What a training step of Ge²mS-T costs: for every T, and beside direct training (STBP) and ReLU.

    python benchmarks/constant_cost.py     # minutes; writes docs/images/constant-cost.svg

ge2mst_tiny, 32×32, batch 32. The same network each time: with staircases (T = 1 … 64), with LIF neurons and a time axis
(STBP, T = 1 … 8), with ReLU. All run in turn in one process (A B C … A B C …) on one thread. Times are of the CPU; the
fastest is given, and the ratio round by round to the staircases of T = 4. A second run of those, as if it were another,
shows what noise is. Operators are counted below Python, in forward and backward; "kept" are the tensors that autograd
saves, each storage once, parameters left out; the peak is the largest resident size of a process that runs one side
alone, over what it held before the first step (with glibc told to give back what is freed).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import spikevit
from spikevit.neurons import ExpG, Staircase

BATCH = 32
STEPS, DIRECT = (1, 2, 4, 8, 16, 64), (1, 2, 4, 8)
BASE = "expg 4"
SIDES = [f"expg {T}" for T in STEPS] + ["expg 4 again", "numba 4", "relu 1"] + [f"lif {T}" for T in DIRECT]
TARGET = Path(__file__).parents[1] / "docs" / "images" / "constant-cost.svg"


class ReLU(nn.Module):
    def forward(self, x, stream=None):
        return torch.relu(x)


def task(side: str) -> tuple[nn.Module, Callable[[], None]]:
    """A model, and a function that does one training step of it."""
    kind, steps = side.split()[:2]
    torch.manual_seed(0)
    options = {"neuron": {"kind": "lif"}} if kind == "lif" else {}
    model = spikevit.create_model("ge2mst_tiny", time_steps=int(steps), **options).train()
    for name, m in list(model.named_modules()):
        if isinstance(m, Staircase):
            if kind == "relu":
                model.set_submodule(name, ReLU())
            elif kind == "numba":
                m.backend = "numba"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return model, step


class Operators(TorchDispatchMode):
    """How many operators ran."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def counted(side: str) -> dict[str, float]:
    """Operators and GFLOPs of a step, MiB kept for backward."""
    model, step = task(side)
    step()
    with Operators() as operators:
        step()
    kept = {}
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # and so no address is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), FlopCounterMode(display=False) as flops:
        step()
    return {
        "operators": operators.calls,
        "gflops": flops.get_total_flops() / 1e9,
        "kept": sum(storage.nbytes() for storage in kept.values()) / 2**20,
    }


def resident(what: str) -> int:
    """KiB of this process: VmRSS is now, VmHWM the most so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))


def memory(side: str) -> float:
    """MiB that two steps took at most, over what the process held before."""
    _, step = task(side)
    if "numba" in side:  # whose compiler takes memory of its own
        Staircase(ExpG(4), backend="numba")(torch.ones(1, requires_grad=True)).backward()
    held = resident("VmRSS")
    step(), step()
    return (resident("VmHWM") - held) / 1024


def child(side: str) -> float:
    command = [sys.executable, __file__, "--memory", side]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.splitlines()[-1]
    )


def seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def label(side: str) -> str:
    kind, steps, *again = side.split()
    names = {"expg": "staircases", "numba": "staircases, numba", "relu": "ReLU", "lif": "LIF, STBP"}
    return f"{names[kind]}{', again' if again else ''} | {'–' if kind == 'relu' else steps}"


def spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} … {high:.2f})"


def table(rows: dict[str, dict[str, float]], ratios: dict[str, list[float]]) -> None:
    print("| neurons | T | operators | GFLOPs | kept for backward, MiB | peak, MiB | step, ms | ratio (quartiles) |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for side, r in rows.items():
        print(f"| {label(side)} | {r['operators']} | {r['gflops']:.3f} | {r['kept']:.1f} ", end="")
        print(f"| {r['peak']:.0f} | {r['ms']:.0f} | {spread(ratios[side])} |")


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Time and memory of a step over T."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained", facecolor="white")
    FigureCanvasSVG(figure)
    styles = {
        "lif": ("direct training (LIF, STBP)", "#d1495b", "s"),
        "expg": ("Ge²mS-T (staircases)", "#2a5caa", "o"),
    }
    for axis, (what, title) in zip(
        figure.subplots(1, 2), {"ms": "training step, ms", "kept": "kept for backward, MiB"}.items(), strict=True
    ):
        for kind, (name, colour, marker) in styles.items():
            points = [
                (int(s.split()[1]), r[what]) for s, r in rows.items() if s.split()[0] == kind and "again" not in s
            ]
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name, linewidth=2, markersize=6)
        axis.axhline(rows["relu 1"][what], color="#555555", linestyle="--", linewidth=1.3, label="ReLU", zorder=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(STEPS, STEPS)
        axis.set_xlabel("time steps T")
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_ylim(0)
        axis.grid(axis="y", color="#dddddd", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, loc="center right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory:
        print(json.dumps(memory(args.memory)))
        return

    rows = {side: counted(side) | {"peak": child(side)} for side in SIDES}
    steps = {side: task(side)[1] for side in SIDES}
    for step in steps.values():
        step()
    rounds = [{side: seconds(step) for side, step in steps.items()} for _ in range(args.repeats)]
    for side in SIDES:
        rows[side]["ms"] = min(r[side] for r in rounds) * 1e3
    ratios = {side: [r[side] / r[BASE] for r in rounds] for side in SIDES}

    print(f"{datetime.date.today()}, {platform.machine()}, one thread, batch {BATCH},", end=" ")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, spikevit {spikevit.__version__};", end=" ")
    print(f"{args.repeats} rounds\n")
    table(rows, ratios)
    print()
    for side, name in ((BASE, "fused"), ("numba 4", "numba")):
        against = [r[side] / r["relu 1"] for r in rounds]
        print(f"Staircases ({name}) / ReLU: {spread(against)}")
    for T in DIRECT:
        times = [r[f"lif {T}"] / r[f"expg {T}"] for r in rounds]
        kept, peak = (rows[f"lif {T}"][what] / rows[f"expg {T}"][what] for what in ("kept", "peak"))
        print(f"STBP / staircases, T = {T}: time {spread(times)}, kept {kept:.2f}, peak {peak:.2f}")
    draw(rows, TARGET)


if __name__ == "__main__":
    main()
