"""spikevit plan: levels and codes of every layer of a staircase network, spikes against error."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spikevit.cli.source import check_numbers, other_data

EXAMPLE = """examples:
  spikevit plan runs/ge2mst_digits-1/best.safetensors
  spikevit plan best.safetensors --max-steps 8 --max-shift 4 --max-error 0.1 --out planned.safetensors
  spikevit plan best.safetensors --plot front.svg --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, limits, images, and where to write."""
    parser.add_argument("checkpoint", help="a .safetensors file of spikevit with staircase neurons")
    parser.add_argument("--max-steps", type=int, default=16, help="T = n·G of a layer (default: 16)")
    parser.add_argument("--max-shift", type=int, default=8, help="n of a layer (default: 8)")
    parser.add_argument("--max-error", type=float, help="of the network (default: no more than it has now)")
    parser.add_argument(
        "--objective", default="spikes", help="what to make least: spikes, error or steps (default: spikes)"
    )
    parser.add_argument("--data", help="data set (default: the checkpoint's own)")
    parser.add_argument("--root", help="folder of the data set, where it is not that of training")
    parser.add_argument("--images", type=int, default=256, help="how many training images to plan from (default: 256)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--out", help="the planned model, to evaluate, fine-tune and convert")
    parser.add_argument("--plot", metavar="FILE", help="a picture of the front, .svg or .png")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Plans from training images; prints the plan, and the accuracy before and after on test images."""
    import json

    from rich.console import Console

    from spikevit.checkpoint import load_model, read_about, save_model
    from spikevit.conversion.planner import plan
    from spikevit.report.figure import check_path
    from spikevit.training.evaluate import evaluate

    check_numbers(args)
    if args.out and Path(args.out).exists():
        raise ValueError(f"{args.out} exists already and is not overwritten; name another with --out")
    if args.plot:
        check_path(Path(args.plot))
    about, model = read_about(args.checkpoint), load_model(args.checkpoint)
    data = _data(args, about, model)
    limits: dict[str, Any] = {"max_steps": args.max_steps, "max_shift": args.max_shift, "max_error": args.max_error}
    found = plan(model, _images(args, data, model), **limits, objective=args.objective)
    found = found.check(model, _images(args, data, model))
    planned = found.apply(model)
    split = data.tested
    scores = [evaluate(m, data.split(split), data.info, batch_size=args.batch_size) for m in (model, planned)]
    if args.out:
        save_model(planned, args.out, **{key: about[key] for key in ("data", "recipe") if key in about})
    if args.plot:
        found.plot(args.plot)
    before, after = (score.accuracy for score in scores)
    if args.json:
        accuracy = {"before": before, "after": after, "split": split, "images": scores[0].total}
        print(json.dumps(found.to_dict() | {"accuracy": accuracy}))
        return 0
    console = Console(highlight=False)
    console.print(found)
    console.print(
        f"Accuracy on {scores[0].total} {split} images: {before:.2%} before, {after:.2%} after, without fine-tuning."
    )
    for name, path in (("Planned model", args.out), ("Front", args.plot)):
        if path:
            console.print(f"{name}: {path}", soft_wrap=True)
    return 0


def _data(args: argparse.Namespace, about: dict[str, Any], model: Any) -> Any:
    """The data set of the checkpoint, or that of --data."""
    from spikevit.data.load import load_data_of

    if args.data:
        return other_data(args, model, about)
    if "data" not in about:
        raise ValueError(f"{args.checkpoint} does not say what data it was trained on: name a data set with --data")
    return load_data_of(about, root=args.root)


def _images(args: argparse.Namespace, data: Any, model: Any) -> Iterator[Any]:
    """Training images drawn from all of them, the same at every call, normalised."""
    from spikevit.data import normalise
    from spikevit.data.batches import Batches, take

    dataset, left = data.split("train"), args.images
    for indices in Batches(len(dataset), args.batch_size, seed=0, shuffle=True, drop_last=False):
        images, _ = take(dataset, indices[:left])
        yield normalise(images, data.info).to(model.dtype)
        left -= len(indices)
        if left <= 0:
            return
