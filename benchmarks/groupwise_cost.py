"""Group-wise attention beside attention over the whole grid, in both orders of its products: operations and time.

    python benchmarks/groupwise_cost.py     # a minute

The product alone, of spikes (rate 0.2), without projections and neurons: N tokens, D = 256, 8 heads of width 32, batch
of 4. GW-SSA has two scales, windows of 7 × 7 tokens and the whole grid, or one, 7 × 7 alone. Multiply-accumulates are
counted by torch's FlopCounterMode. All run in turn (A B C … A B C …) on one thread. Times are of the CPU; the fastest
is given, and the ratio round by round to q (kᵀ v) over the grid.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

import spikevit
from spikevit.attention.groupwise import GroupwiseSSA
from spikevit.neurons import ExpG, StaircaseConfig

DIM, HEADS, BATCH = 256, 8, 4
SIDES = (14, 28, 56)
ORDER = {"SSA, (q kᵀ) v": False, "SSA, q (kᵀ v)": True}
BASE = "SSA, q (kᵀ v)"


def whole(parts: torch.Tensor, reassociated: bool) -> torch.Tensor:
    """q kᵀ v over all tokens, from q, k, v on a grid (1, B, H, W, 3·D)."""
    q, k, v = parts.flatten(2, 3).unflatten(-1, (3, HEADS, -1)).transpose(2, 4).unbind(3)
    return q @ (k.mT @ v) if reassociated else (q @ k.mT) @ v


def grouped(windows: tuple[int, ...], grid: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """GW-SSA without its neurons."""
    mixer = GroupwiseSSA(DIM, HEADS, neuron=StaircaseConfig(ExpG(4)), windows=windows, grid=(grid, grid))
    mixer.after = lambda x, stream: x
    return lambda parts: mixer.mix(parts, parts, None)


def seconds(f: Callable[[], object]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{datetime.date.today()}, {platform.machine()}, one thread, batch {BATCH},", end=" ")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, spikevit {spikevit.__version__};", end=" ")
    print(f"{args.repeats} rounds\n")
    print("| tokens N | product | M MAC an image | per token | fastest, ms a batch | ratio (quartiles) |")
    print("|---:|---|---:|---:|---:|---|")
    for grid in SIDES:
        parts = (torch.rand(1, BATCH, grid, grid, 3 * DIM) < 0.2).float()
        runs = {name: partial(whole, parts, reassociated) for name, reassociated in ORDER.items()}
        for name, windows in (("GW-SSA, 7 × 7 and grid", (7, 0)), ("GW-SSA, 7 × 7", (7,))):
            runs[name] = partial(grouped(windows, grid), parts)
        macs = {}
        with torch.no_grad():
            for name, run in runs.items():
                with FlopCounterMode(display=False) as flops:
                    run()
                macs[name] = flops.get_total_flops() / 2 / BATCH
            rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(args.repeats)]
        for name in runs:
            ms = min(r[name] for r in rounds) * 1e3
            ratios = [r[name] / r[BASE] for r in rounds]
            low, middle, high = statistics.quantiles(ratios, n=4)
            spread = f"{middle:.2f} ({low:.2f} … {high:.2f})"
            print(f"| {grid**2} | {name} | {macs[name] / 1e6:.1f} | {macs[name] / grid**2:.0f} | {ms:.1f} | {spread} |")


if __name__ == "__main__":
    main()
