"""What counting costs: `spikevit.count` beside a plain forward, Spikformer 4-384 (T = 4, 32×32, batch 64).

    python benchmarks/counting_cost.py

Both sides run in turn in one process (A B A B …) on the same images; the ratio is taken pair by pair. Weights are
fresh, batch norm is set by the images, so that all neurons fire. Memory is the largest resident size of a process that
runs one side alone, over what it held before.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time

import torch

import spikevit
from spikevit.profiling.calibrate import calibrate

SIDES = ("forward", "count")


def task(side: str, batch: int):
    """A function that runs one batch."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 32, 32)
    model = calibrate(spikevit.create_model("spikformer_4_384"), images[:16])

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def count() -> None:
        spikevit.count(model, images)

    return forward if side == "forward" else count


def seconds(step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def resident(what: str) -> int:
    """KiB of this process: VmRSS is now, VmHWM the most so far (getrusage's would include the parent's)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))


def memory(side: str, batch: int) -> float:
    """MiB that two batches took at most, over what the process held before. A batch of one comes first: warm-up."""
    task(side, 1)()
    step = task(side, batch)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # VmHWM starts again from here
    held = resident("VmRSS")
    step(), step()
    return (resident("VmHWM") - held) / 1024


def child(side: str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory", side, "--batch", str(args.batch), "--threads", str(args.threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(json.dumps(memory(args.memory, args.batch)))
        return

    steps = {side: task(side, args.batch) for side in SIDES}
    for step in steps.values():
        step()
    pairs = [{side: seconds(step) for side, step in steps.items()} for _ in range(args.repeats)]
    ratios = [pair["count"] / pair["forward"] for pair in pairs]
    peak = {side: child(side, args) for side in SIDES}
    times = {side: statistics.median(pair[side] for pair in pairs) for side in SIDES}

    print(f"{datetime.date.today()}, {platform.machine()}, {args.threads} thread(s), batch {args.batch},", end=" ")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, spikevit {spikevit.__version__};", end=" ")
    print(f"medians of {args.repeats}\n")
    print("| | forward | count | ratio count/forward (min … max) |\n|---|---:|---:|---|")
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
    print(f"| time, s | {times['forward']:.2f} | {times['count']:.2f} | {spread} |")
    print(f"| peak MiB | {peak['forward']:.0f} | {peak['count']:.0f} | {peak['count'] / peak['forward']:.2f} |")


if __name__ == "__main__":
    main()
