"""spikevit eval: how often a checkpoint is right, and what it computes for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spikevit.cli.source import check_numbers, progress

MAPS = 18  # images that --maps shows

EXAMPLE = """examples:
  spikevit eval runs/digits-1/best.safetensors
  spikevit eval best.safetensors --split val --root /data/cifar10 --json
  spikevit eval best.safetensors --curve curve.csv --plot curve.svg
  spikevit eval stas/best.safetensors --maps halting.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, where its data is, and where to write the curve."""
    parser.add_argument("checkpoint", help="a .safetensors file of spikevit")
    parser.add_argument("--split", default="test", help="test, val or train (default: test)")
    parser.add_argument("--root", help="folder of the data set, where it is not that of training")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--curve", metavar="FILE", help="accuracy against computation at every setting, as .csv")
    parser.add_argument("--plot", metavar="FILE", help="a picture of the curve, .svg or .png")
    parser.add_argument("--maps", metavar="FILE", help="how far tokens of the first images went, .svg or .png")
    parser.add_argument(
        "--count-images", type=int, default=64, help="how many to count the curve's operations on (default: 64)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints accuracy and work on the data set that the checkpoint was trained on; with --curve, at every setting."""
    import json

    from rich.console import Console

    from spikevit.adaptive import DynamicTimeSteps, Halting
    from spikevit.checkpoint import load_model, read_about
    from spikevit.data.load import load_data_of
    from spikevit.files import write_text
    from spikevit.report.curve import curve
    from spikevit.training.evaluate import evaluate

    _check(args)
    about = read_about(args.checkpoint)
    if "data" not in about:
        raise ValueError(f"{args.checkpoint} does not say what data it was trained on; use spikevit.training.evaluate")
    data = load_data_of(about, root=args.root)
    model = load_model(args.checkpoint)
    if args.maps and not isinstance(model, Halting):
        raise ValueError(f"--maps {args.maps}: tokens of {model.name} do not halt; it is for models with halting")
    found = None
    with progress("testing") as told:
        options: dict[str, Any] = {"batch_size": args.batch_size, "progress": told}
        if args.curve or args.plot:
            found = curve(model, data.split(args.split), data.info, count_images=args.count_images, **options)
            score = found.chosen.score
        else:
            score = evaluate(model, data.split(args.split), data.info, **options)
    if found and args.curve:
        write_text(args.curve, found.to_csv())
    if found and args.plot:
        found.plot(args.plot)
    if args.maps:
        _maps(Path(args.maps), model, data, args.split)
    if args.json:
        answer = {"accuracy": score.accuracy, "right": score.right, "total": score.total, "split": args.split}
        answer |= {"work": score.work, "work_unit": model.work_unit}
        print(json.dumps(answer | ({"curve": found.to_dict()} if found else {})))
        return 0
    line = f"{score.accuracy:.2%}: {score.right} of {score.total} {args.split} images of {data.info.name} right"
    print(line + _work(model, score.work))
    steps = [m for m in model.modules() if isinstance(m, DynamicTimeSteps)]
    for shown in (*steps, *([found] if found else [])):
        Console(highlight=False).print(shown)
    for name, path in (("Curve", args.curve), ("Picture", args.plot), ("Halting maps", args.maps)):
        if path:
            print(f"{name}: {path}")
    return 0


def _maps(path: Path, model: Any, data: Any, split: str) -> None:
    """Halting maps of the first images."""
    from spikevit.data import normalise
    from spikevit.data.batches import take
    from spikevit.report.visits_plot import draw

    dataset = data.split(split)
    images, labels = take(dataset, range(min(MAPS, len(dataset))))
    x = normalise(images, data.info).to(model.dtype)
    titles = [data.info.classes[int(label)] for label in labels]
    draw(path, images.float() / 255, model.visits(x), model.cells, titles)


def _work(model: Any, work: float) -> str:
    """What an image took, in words; nothing for models without time steps."""
    if not model.time_axis:
        return ""
    return f", {round(work, 2):g} of {model.most_work} {model.work_unit}"


def _check(args: argparse.Namespace) -> None:
    """Refuses files that cannot be written, before any work is done."""
    from spikevit.report.figure import check_path

    check_numbers(args, "count_images")
    if args.curve and Path(args.curve).suffix != ".csv":
        raise ValueError(f"{args.curve}: a curve is written as .csv; give it such an ending")
    for path in (args.plot, args.maps):
        if path:
            check_path(Path(path))
    for option, path in (("--curve", args.curve), ("--plot", args.plot), ("--maps", args.maps)):
        if path and Path(path).exists():
            raise ValueError(f"{path} exists already and is not overwritten; name another with {option}")
