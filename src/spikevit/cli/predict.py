"""spikevit predict: what a checkpoint sees in images."""

from __future__ import annotations

import argparse

EXAMPLE = "example:\n  spikevit predict runs/digits-1/best.safetensors seven.png three.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint and images."""
    parser.add_argument("checkpoint", help="a .safetensors file of spikevit")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--top", type=int, default=5, help="how many classes to show (default: 5)")


def run(args: argparse.Namespace) -> int:
    """Prints the most probable classes of every image."""
    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from spikevit.checkpoint import load_model, read_about
    from spikevit.data import DataInfo, normalise
    from spikevit.data.images import read_image

    if args.top < 1:
        raise ValueError(f"--top {args.top} must be at least 1")
    about = read_about(args.checkpoint)
    if "data" not in about:
        raise ValueError(f"{args.checkpoint} does not say what data it was trained on, so its classes have no names")
    info = DataInfo.of_checkpoint(about["data"])
    how = info.image_size, info.channels, info.crop_pct, info.interpolation
    images = torch.stack([read_image(path, *how) for path in args.images])
    model = load_model(args.checkpoint)
    with torch.no_grad():
        probabilities = model(normalise(images, info).to(model.dtype)).softmax(-1)
    table = Table("image", *(f"{i + 1}." for i in range(min(args.top, info.num_classes))))
    for path, p in zip(args.images, probabilities, strict=True):
        best = p.topk(min(args.top, info.num_classes))
        cells = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        table.add_row(escape(path), *(f"{info.classes[i]} {share:.1%}" for share, i in cells))
    Console().print(table)
    return 0
