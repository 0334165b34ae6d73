"""spikevit predict: what a checkpoint sees in images and folders of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikevit.cli.source import add_device, check_numbers, data_of, load, progress, require_head

if TYPE_CHECKING:
    from torch import Tensor

    from spikevit.data import DataInfo

EXAMPLE = """examples:
  spikevit predict runs/digits-1/best.safetensors seven.png three.png
  spikevit predict runs/digits-1/best.safetensors photos/ --csv classes.csv --top 1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, images, and where to write."""
    parser.add_argument("checkpoint", help="a .safetensors file of spikevit")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders with images at any depth")
    parser.add_argument("--top", type=int, default=5, help="how many classes to show (default: 5)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--json", metavar="FILE", help="write everything there; - prints it instead of the table")
    parser.add_argument("--csv", metavar="FILE", help="write the table there")
    parser.add_argument("--data", help="data set that a checkpoint is for which does not say so")
    parser.add_argument("--root", help="folder of that data set")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Shows the most probable classes of every image; status 1 where some images could not be read."""
    import json

    from spikevit.checkpoint import read_about
    from spikevit.files import csv_text, refuse_existing, text_writer, write_together

    check_numbers(args, "top", "batch_size")
    to_file = None if args.json == "-" else args.json
    refuse_existing({"--json": to_file, "--csv": args.csv})
    about = read_about(args.checkpoint)
    require_head(args.checkpoint, about)
    info = _info(args, about)
    paths, others = find(args.images)
    found, unread = classify(args, info, paths)
    if not found:
        raise ValueError(f"none of {len(paths):,} images can be read: {next(iter(unread.values()))}")
    answer = {
        "checkpoint": args.checkpoint,
        "images": [{"image": p, "top": [{"class": c, "probability": x} for c, x in top]} for p, top in found.items()],
        "unread": [{"image": p, "error": error} for p, error in unread.items()],
    }
    text = json.dumps(answer, indent=2) + "\n"
    table = ((to_file, text), (args.csv, csv_text(_rows(found))))
    write_together({path: text_writer(content) for path, content in table if path})
    if args.json == "-":
        print(text, end="")
    else:
        _show(found)
    _say(len(paths), unread, others)
    return 1 if unread else 0


def find(given: Sequence[str]) -> tuple[list[str], dict[str, list[Path]]]:
    """The files that are given, and the images in folders that are, sorted by path; what else is there, by kind.

    Raises:
        ValueError: there is no image in a folder.
    """
    from spikevit.data.folder import by_kind, is_litter, named
    from spikevit.data.images import SUFFIXES

    paths: list[str] = []
    others: list[Path] = []
    for word in given:
        if not (root := Path(word)).is_dir():
            paths.append(word)
            continue
        there = [p for p in sorted(root.rglob("*")) if not any(map(is_litter, _below(p, root))) and not p.is_dir()]
        images = [str(path) for path in there if path.suffix.lower() in SUFFIXES]
        left_out = [path for path in there if path.suffix.lower() not in SUFFIXES]
        if not images:
            has = f"; it has {named(by_kind(left_out))}" if left_out else ""
            raise ValueError(f"{word} has no images ({', '.join(SUFFIXES)}){has}")
        paths += images
        others += left_out
    return paths, by_kind(others)


def _below(path: Path, root: Path) -> list[Path]:
    """The path and the folders it is in, as far as root."""
    return [path, *(above for above in path.parents if above != root and above.is_relative_to(root))]


Top = list[tuple[str, float]]  # classes and their probabilities, the most probable first


def classify(args: argparse.Namespace, info: DataInfo, paths: list[str]) -> tuple[dict[str, Top], dict[str, str]]:
    """The most probable classes of each image, batch by batch, and of those in folders that cannot be read the reason.

    Raises:
        ValueError: a file that is given by its name cannot be read.
    """
    import torch

    from spikevit.data import normalise
    from spikevit.errors import inside
    from spikevit.profiling.finite import refuse_non_finite

    model, top = load(args, args.checkpoint), min(args.top, info.num_classes)
    found: dict[str, Top] = {}
    unread: dict[str, str] = {}
    with torch.no_grad(), refuse_non_finite(model) as finite, progress("classifying") as told:
        for names, images in _batches(args, info, paths, unread):
            with inside(args.checkpoint):
                logits = model(normalise(images, info).to(model.device, model.dtype))
                finite.see("logits", logits)
                finite.check()
            best = logits.softmax(-1).topk(top)
            for name, shares, classes in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
                found[name] = [(info.classes[i], share) for i, share in zip(classes, shares, strict=True)]
            told(len(found) + len(unread), len(paths))
    return found, unread


def _batches(
    args: argparse.Namespace, info: DataInfo, paths: list[str], unread: dict[str, str]
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and images (B, C, H, W), uint8; what cannot be read comes into `unread`."""
    import torch

    from spikevit.data.images import read_image

    how = info.image_size, info.channels, info.crop_pct, info.interpolation
    size, given = args.batch_size, set(args.images)
    for start in range(0, len(paths), size):
        read = {}
        for path in dict.fromkeys(paths[start : start + size]):
            try:
                read[path] = read_image(path, *how)
            except ValueError as error:
                if path in given:
                    raise
                unread[path] = str(error)
        if read:
            yield list(read), torch.stack(list(read.values()))


def _rows(found: Mapping[str, Top]) -> list[dict[str, Any]]:
    """A row an image: its path, and class and probability, of the second on with its number."""
    rows = []
    for path, top in found.items():
        row: dict[str, Any] = {"image": path}
        for i, (name, share) in enumerate(top, 1):
            end = f"_{i}" if i > 1 else ""
            row |= {f"class{end}": name, f"probability{end}": round(share, 6)}
        rows.append(row)
    return rows


def _show(found: Mapping[str, Top]) -> None:
    from rich import box

    from spikevit.report.terminal import Table, console

    table = Table(box=box.HEAVY_HEAD, pad_edge=True)
    for head in ("image", *(f"{i + 1}." for i in range(len(next(iter(found.values())))))):
        table.add_column(head, overflow="fold")
    for path, top in found.items():
        table.add_row(path, *(f"{name} {share:.1%}" for name, share in top))
    console().print(table)


def _say(images: int, unread: Mapping[str, str], others: Mapping[str, list[Path]]) -> None:
    """What is not among the classes, and why."""
    from spikevit.data.folder import named
    from spikevit.report.terminal import console

    shown = console(stderr=True)
    if others:
        shown.print(f"Left out, as no images by their names: {named(others)}.", soft_wrap=True)
    if unread:
        shown.print(f"{len(unread):,} of {images:,} images cannot be read and are left out:", soft_wrap=True)
        for error in list(unread.values())[:5]:
            shown.print(f"  {error}", soft_wrap=True)
        if len(unread) > 5:
            shown.print(f"  and {len(unread) - 5:,} more (all with --json)", soft_wrap=True)


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
