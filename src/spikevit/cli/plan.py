"""spikevit plan: levels and codes of every layer of a staircase network, spikes against error."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spikevit.cli.source import add_data, add_device, as_input, check_numbers, chosen_on, data_of, load
from spikevit.errors import inside

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
    add_data(parser)
    parser.add_argument("--images", type=int, default=256, help="how many training images to plan from (default: 256)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--out", help="the planned model, to evaluate, fine-tune and convert")
    parser.add_argument("--plot", metavar="FILE", help="a picture of the front, .svg or .png")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Plans from training images; prints the plan, and the accuracy before and after on test images."""
    import json

    from spikevit.checkpoint import model_writer, read_about
    from spikevit.conversion.planner import plan
    from spikevit.files import refuse_existing, write_together
    from spikevit.report.figure import check_path, writer
    from spikevit.report.plan_plot import picture
    from spikevit.report.terminal import console
    from spikevit.training.evaluate import evaluate

    check_numbers(args)
    if args.plot:
        with inside("--plot"):
            check_path(Path(args.plot))
    refuse_existing({"--out": args.out, "--plot": args.plot})
    about = read_about(args.checkpoint)
    model, data = load(args, args.checkpoint), data_of(args, args.checkpoint, about)
    limits: dict[str, Any] = {"max_steps": args.max_steps, "max_shift": args.max_shift, "max_error": args.max_error}
    with inside(args.checkpoint):
        found = plan(model, _images(args, data, model), **limits, objective=args.objective)
    found = found.check(model, _images(args, data, model))
    planned = found.apply(model)
    split = data.tested
    scores = [evaluate(m, data.split(split), data.info, batch_size=args.batch_size) for m in (model, planned)]
    files: dict[str, Any] = {}
    if args.out:
        files[args.out] = model_writer(planned, **{key: about[key] for key in ("data", "recipe") if key in about})
    if args.plot:
        files[args.plot] = writer(picture(found), Path(args.plot))
    write_together(files)
    before, after = (score.accuracy for score in scores)
    if args.json:
        accuracy = {"before": before, "after": after, "split": split, "images": scores[0].total}
        accuracy |= {"note": note} if (note := chosen_on(data, split)) else {}
        print(json.dumps(found.to_dict() | {"accuracy": accuracy}))
        return 0
    shown = console()
    shown.print(found)
    shown.print(
        f"Accuracy on {scores[0].total} {split} images: {before:.2%} before, {after:.2%} after, without fine-tuning. "
        f"{chosen_on(data, split)}"
    )
    for name, path in (("Planned model", args.out), ("Front", args.plot)):
        if path:
            shown.print(f"{name}: {path}", soft_wrap=True)
    return 0


def _images(args: argparse.Namespace, data: Any, model: Any) -> Iterator[Any]:
    """Training images drawn from all of them, the same at every call, normalised."""
    from spikevit.data.batches import Batches, take

    dataset, left = data.split("train"), args.images
    for indices in Batches(len(dataset), args.batch_size, seed=0, shuffle=True, drop_last=False):
        images, _ = take(dataset, indices[:left])
        yield as_input(images, model, data)
        left -= len(indices)
        if left <= 0:
            return
