"""Certificates of trained networks on CIFAR-10's test images, in exact and in float mode.

    python benchmarks/ge2mst_exact.py --checkpoint float/best.safetensors exact/best.safetensors --root cifar10

1,000 images take minutes on 16 cores; `--images 32` shows that it works. The checkpoints come from:

    spikevit train ge2mst_cifar10 data.root=cifar10 --out float
    spikevit train ge2mst_cifar10 data.root=cifar10 model.start=float/best.safetensors model.config.grid_bits=8 \\
        optimizer.lr=0.0002 schedule.epochs=6 schedule.warmup_epochs=1 --out exact
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time

import torch

import spikevit
from spikevit.checkpoint import read_about
from spikevit.conversion.certificate import Certificate
from spikevit.data import normalise
from spikevit.data.batches import collate
from spikevit.training.run import load_data_of


def test_images(path: str, args: argparse.Namespace) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Batches of the first images, and their labels."""
    data = load_data_of(read_about(path), root=args.root)
    dataset = data.split("test")
    batches, labels = [], []
    for start in range(0, min(args.images, len(dataset)), args.batch_size):
        stop = min(start + args.batch_size, args.images, len(dataset))
        images, truth = collate(dataset.__getitems__(range(start, stop)))
        batches.append(normalise(images, data.info).to(args.device))
        labels.append(truth)
    return batches, torch.cat(labels)


@torch.no_grad()
def right(model, batches: list[torch.Tensor], labels: torch.Tensor) -> int:
    return int((torch.cat([model(batch).argmax(-1).cpu() for batch in batches]) == labels).sum())


def row(path: str, args: argparse.Namespace) -> tuple[str, Certificate]:
    start = time.monotonic()
    batches, labels = test_images(path, args)
    model = spikevit.load_model(path).to(args.device)
    spiking, c = spikevit.convert(model, batches)
    before = right(model, batches, labels)
    after = before if c.agreement == 1 else right(spiking, batches, labels)
    compared = sum(layer.compared for layer in c.layers)
    largest = max(layer.largest for layer in c.layers)
    fewest = min(c.layers, key=lambda layer: layer.distinct)
    levels = fewest.code[1] * (2 ** fewest.code[0] - 1)
    cells = (
        "exact" if c.exact else "float",
        f"{before / len(labels):.2%}".replace("%", " %"),
        f"{after / len(labels):.2%}".replace("%", " %"),
        f"{c.differing:,} of {compared:,}",
        largest,
        f"{fewest.distinct} of {levels + 1}",
        f"{c.logits:.3g}",
        f"{c.agreement:.2%}".replace("%", " %"),
        f"{time.monotonic() - start:.0f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |", c


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", nargs="+", required=True, help="ge2mst models, trained on CIFAR-10")
    parser.add_argument("--root", help="folder of CIFAR-10, where it is not that of training")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    rows = [row(path, args) for path in args.checkpoint]

    print(f"{datetime.date.today()}, {platform.machine()}, {args.device}, {os.cpu_count()} cores,", end=" ")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, spikevit {spikevit.__version__};", end=" ")
    print(f"{rows[0][1].images} images, {len(rows[0][1].layers)} layers of neurons\n")
    print("| mode | accuracy, staircases | as spikes | codes that differ | by at most | fewest codes in use ", end="")
    print("| logits differ by | same class | s |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for line, _ in rows:
        print(line)


if __name__ == "__main__":
    main()
