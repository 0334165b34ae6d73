"""What looking for NaN costs: `refuse_non_finite` around a forward, and the norm of the gradients in a training step.

    python benchmarks/finite_cost.py [--model spikformer_4_384] [--batch 32] [--device cpu]

Both sides run in turn in one process (A B A B …) on the same images; the ratio is taken pair by pair, printed are its
median and quartiles. Weights are fresh, batch norm is set by the images.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable

import torch

import spikevit
from spikevit.profiling.finite import refuse_non_finite


def pairs(one: Callable[[], None], other: Callable[[], None], repeats: int, cuda: bool) -> list[float]:
    """Time of `one` over that of `other`, pair by pair; the first two pairs warm up."""
    ratios = []
    for _ in range(repeats + 2):
        seconds = []
        for run in (one, other):
            torch.cuda.synchronize() if cuda else None
            started = time.perf_counter()
            run()
            torch.cuda.synchronize() if cuda else None
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    return ratios[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="spikformer_4_384")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = spikevit.create_model(args.model).to(args.device)
    c, cuda = model.config, args.device.startswith("cuda")
    images = torch.randn(args.batch, c.in_channels, *c.image_size, device=args.device)
    labels = torch.randint(c.num_classes, (args.batch,), device=args.device)
    spikevit.calibrate(model, images)

    @torch.no_grad()
    def forward() -> None:
        model(images)

    def watched() -> None:
        with refuse_non_finite(model):
            forward()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step(look: bool) -> None:
        optimizer.zero_grad()
        model.loss(images, labels)[0].backward()
        if look:
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            assert torch.isfinite(norm)
        optimizer.step()

    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{datetime.date.today()}, torch {torch.__version__}, {name}; {args.model}, batch {args.batch}")
    evaluation = pairs(watched, forward, args.repeats, cuda)
    model.train()
    training = pairs(lambda: step(True), lambda: step(False), args.repeats, cuda)
    for what, ratios in (("membrane currents in evaluation", evaluation), ("gradients in training", training)):
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{what}: {middle:.3f} x ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
