"""What the design decisions of docs/explanation/architecture.md are worth: each one with and without, in one run.

    python benchmarks/design.py            # numba is optional, for the row that speaks of it

Two threads, float32, medians; each pair runs in turn. Prints the table that the page quotes.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time

import torch

from spikevit import create_model
from spikevit.layers.projection import LinearBN
from spikevit.neurons import fused_lif, lif, set_backend

THREADS, REPEATS = 2, 15


def pair(with_it, without) -> tuple[float, float, float]:
    """Milliseconds of both, and the median ratio without / with."""

    def clock(step) -> float:
        start = time.perf_counter()
        step()
        return (time.perf_counter() - start) * 1e3

    for step in (with_it, without):
        step(), step()
    times = [(clock(with_it), clock(without)) for _ in range(REPEATS)]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    return a, b, statistics.median(y / x for x, y in times)


def numba_lif(x: torch.Tensor):
    """The forward of `lif` (τ = 2, hard reset) as one compiled loop, for comparison."""
    import numba
    import numpy as np

    numba.set_num_threads(THREADS)

    @numba.njit(parallel=True)
    def run(x, s, block=4096):
        steps, n = x.shape
        for c in numba.prange((n + block - 1) // block):
            lo, hi = c * block, min(n, (c + 1) * block)
            v = np.zeros(block, x.dtype)
            for t in range(steps):
                for i in range(lo, hi):
                    h = np.float32(0.5) * v[i - lo] + np.float32(0.5) * x[t, i]
                    fires = h >= 1
                    s[t, i] = 1 if fires else 0
                    v[i - lo] = 0 if fires else h

    flat = x.flatten(1).numpy()
    return lambda: run(flat, np.empty_like(flat))


@torch.no_grad()
def inference() -> None:
    x = torch.randn(4, 8, 1024, 192)
    row("neurons, forward: fused / plain", *pair(lambda: fused_lif(x), lambda: lif(x)))
    try:
        row("neurons, forward: fused / numba", *pair(lambda: fused_lif(x), numba_lif(x)))
    except ImportError:
        print("| neurons, forward: fused / numba | numba is not installed | | |")

    tokens = torch.randn(4, 8, 64, 384)
    layer = LinearBN(384, 1152).eval()
    row(
        "linear + batch norm, evaluation: folded / apart",
        *pair(lambda: layer(tokens), lambda: layer.bn(layer.linear(tokens).flatten(0, -2)).view(4, 8, 64, 1152)),
    )

    model = create_model("spikformer_4_384").eval()
    images = torch.randn(8, 3, 32, 32)
    frames = images.expand(4, *images.shape).contiguous()
    row("Spikformer 4-384, batch 8: image as a view / as frames", *pair(lambda: model(images), lambda: model(frames)))


def training() -> None:
    images = torch.randn(8, 3, 32, 32)
    fused, plain = (set_backend(create_model("spikformer_4_384"), backend) for backend in ("fused", "plain"))

    def step(model):
        model.zero_grad()
        model(images).sum().backward()

    row(
        "Spikformer 4-384, forward and backward: fused / plain neurons", *pair(lambda: step(fused), lambda: step(plain))
    )


def row(name: str, a: float, b: float, ratio: float) -> None:
    print(f"| {name} | {a:.1f} | {b:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    print(f"{datetime.date.today()}, {platform.machine()}, {THREADS} threads, torch {torch.__version__}\n")
    print("| with / without | with, ms | without, ms | without ÷ with |\n|---|---|---|---|")
    inference()
    training()
