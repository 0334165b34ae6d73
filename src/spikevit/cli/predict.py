"""spikevit predict: what a checkpoint sees in images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spikevit.cli.source import add_device, data_of, load, require_head

if TYPE_CHECKING:
    from spikevit.data import DataInfo

EXAMPLE = "example:\n  spikevit predict runs/digits-1/best.safetensors seven.png three.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint and images."""
    parser.add_argument("checkpoint", help="a .safetensors file of spikevit")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--top", type=int, default=5, help="how many classes to show (default: 5)")
    parser.add_argument("--data", help="data set that a checkpoint is for which does not say so")
    parser.add_argument("--root", help="folder of that data set")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the most probable classes of every image."""
    import torch
    from rich import box

    from spikevit.checkpoint import read_about
    from spikevit.data import normalise
    from spikevit.data.images import read_image
    from spikevit.errors import inside
    from spikevit.profiling.finite import refuse_non_finite
    from spikevit.report.terminal import Table, console

    if args.top < 1:
        raise ValueError(f"--top {args.top} must be at least 1")
    about = read_about(args.checkpoint)
    require_head(args.checkpoint, about)
    info = _info(args, about)
    how = info.image_size, info.channels, info.crop_pct, info.interpolation
    images = torch.stack([read_image(path, *how) for path in args.images])
    model = load(args, args.checkpoint)
    with torch.no_grad(), inside(args.checkpoint), refuse_non_finite(model) as finite:
        logits = model(normalise(images, info).to(model.device, model.dtype))
        finite.see("logits", logits)
    probabilities = logits.softmax(-1)
    table = Table(box=box.HEAVY_HEAD, pad_edge=True)
    for head in ("image", *(f"{i + 1}." for i in range(min(args.top, info.num_classes)))):
        table.add_column(head)
    for path, p in zip(args.images, probabilities, strict=True):
        best = p.topk(min(args.top, info.num_classes))
        cells = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        table.add_row(path, *(f"{info.classes[i]} {share:.1%}" for share, i in cells))
    console().print(table)
    return 0


def _info(args: argparse.Namespace, about: Mapping[str, Any]) -> DataInfo:
    """What the checkpoint says of its data; else mean and std of --data, whose classes it may have."""
    from dataclasses import replace

    from spikevit.data import DataInfo

    if about.get("data"):
        if args.data:
            raise ValueError(f"--data {args.data}: {args.checkpoint} says itself what data it is for; leave --data out")
        return DataInfo.of_checkpoint(about["data"])
    info, classes = data_of(args, args.checkpoint, about, labels=False).info, about["config"]["num_classes"]
    return info if info.num_classes == classes else replace(info, classes=tuple(map(str, range(classes))))
