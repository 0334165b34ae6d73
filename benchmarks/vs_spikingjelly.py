"""Spikformer 4-384 (T = 4, 32×32, batch 8) beside SpikingJelly's: time of inference and training step, peak memory.

    pip install --no-deps spikingjelly==2.0.0     # without torchvision and torchaudio, which it can do without here
    pip install loguru h5py requests scipy tqdm
    python benchmarks/vs_spikingjelly.py

Both sides run in turn in one process (A B A B …), on the same images, weights fresh; the ratio is taken pair by
pair. Memory is the largest resident size of a process that runs one side alone, over what it held before the first
step. SpikingJelly's model pools before its neurons, ours behind them as the original does: its neurons have less to do.
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
import torch.nn.functional as F

BATCH, THREADS = 8, 2


def ours():
    from spikevit import create_model

    model = create_model("spikformer_4_384", num_classes=10)
    return model, model


def theirs():
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.model.spikformer import spikformer_cifar10

    model = spikformer_cifar10(num_classes=10)

    def run(images):
        functional.reset_net(model)
        return model(images).mean(0)

    return model, run


SIDES = {"ours": ours, "theirs": theirs}


def task(side: str, kind: str):
    """A function that does one inference or one training step."""
    torch.manual_seed(0)
    model, run = SIDES[side]()
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10
    if kind == "inference":
        model.eval()

        def step():
            with torch.no_grad():
                run(images)

        return step

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(run(images), labels).backward()
        optimizer.step()

    return step


def seconds(step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def memory(side: str, kind: str) -> float:
    """MiB that three steps took at most, over what the process held before."""
    step = task(side, kind)
    held = resident("VmRSS")
    for _ in range(3):
        step()
    return (resident("VmHWM") - held) / 1024


def resident(what: str) -> int:
    """KiB of this process: VmRSS is now, VmHWM the most so far (getrusage's would include the parent's)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))


def child(side: str, kind: str) -> float:
    command = [sys.executable, __file__, "--memory", side, kind]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    if args.memory:
        print(json.dumps(memory(*args.memory)))
        return

    import spikevit

    print(f"{datetime.date.today()}, {platform.machine()}, {THREADS} threads, Python {platform.python_version()},")
    print(
        f"torch {torch.__version__}, spikevit {spikevit.__version__}, spikingjelly 2.0.0; medians of {args.repeats}\n"
    )
    print("| | ours | theirs | ratio theirs/ours (min … max) |\n|---|---|---|---|")
    for kind in ("inference", "training"):
        steps = {side: task(side, kind) for side in SIDES}
        for step in steps.values():
            step(), step()
        pairs = [{side: seconds(step) for side, step in steps.items()} for _ in range(args.repeats)]
        ratios = [pair["theirs"] / pair["ours"] for pair in pairs]
        times = {side: statistics.median(pair[side] for pair in pairs) * 1e3 for side in SIDES}
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
        print(f"| {kind}, ms | {times['ours']:.0f} | {times['theirs']:.0f} | {spread} |")
    for kind in ("inference", "training"):
        peak = {side: child(side, kind) for side in SIDES}
        ratio = peak["theirs"] / peak["ours"]
        print(f"| {kind}, peak MiB | {peak['ours']:.0f} | {peak['theirs']:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
