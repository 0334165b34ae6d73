"""Skipped work is real: time of adaptive models beside that of the fixed-T model, and what each of them executes.

    python benchmarks/skipped_work.py

Spikformer 4-384, T = 4, batch 8, float32, batch norm folded on both sides; the two sides run in turn in one process.
Masks of time steps are set by hand, and so are the tokens that halt; accuracy is no matter here. Then what the fronts
of halting cost where no token halts, Spikformer tiny on 64 digits, fresh weights. Prints two tables of
docs/explanation/adaptive.md.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from contextlib import ExitStack

import torch

from spikevit import count, create_model
from spikevit.adaptive import add_halting, allocate_time_steps
from spikevit.adaptive.halting import FRONTS
from spikevit.data import load_data, normalise
from spikevit.layers.fold import fold_batch_norm
from spikevit.neurons import Neuron, Steady, dense
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.conventions import exact

PREFIXES = ((4, 2, 1, 1), (4, 2, 2, 1, 1, 2), (3, 1), (2,))
FAR = 100.0  # in units of a spike: such a token halts, or never does


def ratio(ours, theirs, repeats: int) -> tuple[float, float, float]:
    """Median of ours ÷ theirs, pair by pair, and the milliseconds of both."""

    def clock(f) -> float:
        start = time.perf_counter()
        f()
        return (time.perf_counter() - start) * 1e3

    ours(), theirs()
    pairs = [(clock(ours), clock(theirs)) for _ in range(repeats)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return statistics.median(x / y for x, y in pairs), a, b


def halve(model, tokens: int) -> ExitStack:
    """Lets every second token halt in the first cell, and the others never, through the channel that decides."""

    def decide(block, _args, out) -> None:
        stream = out.rest if isinstance(out, Steady) else out
        stream[..., 0] = -FAR
        if out.shape[1] == tokens and block is model.blocks[0]:
            stream[:, ::2, :, 0] = FAR

    stack = ExitStack()
    for block in model.blocks:
        stack.callback(block.register_forward_hook(decide).remove)
    return stack


def row(name: str, work: float, times: tuple[float, float, float]) -> None:
    print(
        f"| {name} | {work:.2f} | {times[0]:.2f} | {times[0] / work:.2f} | {times[1]:.0f} | {times[2]:.0f} |",
        flush=True,
    )


@torch.no_grad()
def fronts() -> None:
    """Energy of each front without halting; and as if linear maps saw the sum X̄ + s at every step."""
    data = load_data("digits")
    images = normalise(data.train.images[:64], data.info)
    model = create_model(
        "spikformer_tiny", in_channels=1, image_size=data.info.image_size, neuron={"decay_input": False}
    )
    calibrate(model, images)
    fixed = exact(count(model, images)).mj
    print("\n| Spikformer tiny, digits, T = 4 | µJ | ÷ fixed T | X̄ multiplied at every step, ÷ fixed T |")
    print(f"|---|---|---|---|\n| fixed T | {fixed * 1e3:.2f} | 1.00 | |")
    for front in FRONTS:
        halting = add_halting(model, front=front, beta=1e4)
        once = exact(count(halting, images)).mj
        with ExitStack() as stack:
            for block in halting.blocks:
                stack.callback(block.register_forward_pre_hook(lambda _, args: (dense(args[0]), *args[1:])).remove)
            every = exact(count(halting, images)).mj
        print(f'| `"{front}"` | {once * 1e3:.2f} | {once / fixed:.2f} | {every / fixed:.2f} |')


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    model = fold_batch_norm(calibrate(create_model("spikformer_4_384"), images))
    full = count(model, images).macs
    print(f"{datetime.date.today()}, {platform.machine()}, {args.threads} threads, torch {torch.__version__}\n")
    print("| Spikformer 4-384, T = 4, batch 8 | work ÷ full | time ÷ full | time ÷ work | ms | full, ms |")
    print("|---|---|---|---|---|---|")

    names = [name for name, m in model.named_modules() if isinstance(m, Neuron)]
    for pattern in PREFIXES:
        steps = {name: pattern[i % len(pattern)] for i, name in enumerate(names)}
        frozen = allocate_time_steps(model, steps=steps).eval().freeze()
        work = count(frozen, images).macs / full
        cells = ", ".join(map(str, pattern))
        name = f"time steps {cells} in turn, mean {frozen.mean_steps:.2f}"
        row(name, work, ratio(lambda f=frozen: f(images), lambda: model(images), args.repeats))

    halting = add_halting(model)
    tokens = halting.front(images)
    maps = model.front(model.maps(images))

    def fixed():
        x = maps
        for block in model.blocks:
            x = block(x)

    def halted():
        with halve(model, 8 * model.tokens):
            for _ in halting.visit(tokens):
                pass

    def whole():
        with halve(model, 8 * model.tokens):
            halting(images)

    with halve(model, 8 * model.tokens):
        counts = count(halting, images)
    inside = [c.macs for c in counts.operators if ".blocks." in c.module]
    blocks = sum(c.macs for c in count(model, images).operators if c.module.startswith("blocks."))
    row("half the tokens halted: encoder", sum(inside) / blocks, ratio(halted, fixed, args.repeats))
    row(
        "half the tokens halted: whole model, integrating front",
        counts.macs / full,
        ratio(whole, lambda: model(images), args.repeats),
    )
    fronts()


if __name__ == "__main__":
    main()
