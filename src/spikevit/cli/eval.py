"""spikevit eval: how often a checkpoint is right, and what it computes for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikevit.cli.source import add_data, add_device, as_input, check_numbers, chosen_on, data_of, load, progress
from spikevit.errors import inside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spikevit.data import Data

SPLITS = ("test", "val", "train")
MAPS = 18  # images that --maps shows

EXAMPLE = """examples:
  spikevit eval runs/digits-1/best.safetensors
  spikevit eval best.safetensors --split val --root /data/cifar10 --json
  spikevit eval best.safetensors --time-steps 2
  spikevit eval best.safetensors --curve curve.csv --plot curve.svg
  spikevit eval stas/best.safetensors --maps halting.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, where its data is, and where to write the curve."""
    parser.add_argument("checkpoint", help="a .safetensors file of spikevit")
    add_data(parser)
    parser.add_argument(
        "--split", choices=SPLITS, help="test, val or train (default: test; val where there are no test images)"
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--time-steps", type=int, metavar="N", help="run N time steps (default: as trained)")
    parser.add_argument("--curve", metavar="FILE", help="accuracy against computation at every setting, as .csv")
    parser.add_argument("--plot", metavar="FILE", help="a picture of the curve, .svg or .png")
    parser.add_argument("--maps", metavar="FILE", help="how far tokens of the first images went, .svg or .png")
    parser.add_argument(
        "--count-images", type=int, default=64, help="how many to count the curve's operations on (default: 64)"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints accuracy and work on the data set that the checkpoint was trained on; with --curve, at every setting."""
    import json

    from spikevit.adaptive import DynamicTimeSteps, Halting
    from spikevit.checkpoint import read_about
    from spikevit.files import text_writer, write_together
    from spikevit.report.curve import curve
    from spikevit.report.curve_plot import picture
    from spikevit.report.figure import writer
    from spikevit.report.terminal import alarms, console
    from spikevit.training.evaluate import evaluate

    _check(args)
    data = data_of(args, args.checkpoint, read_about(args.checkpoint))
    split = args.split or data.tested
    model = load(args, args.checkpoint)
    trained, model = model.config.time_steps, _at(model, args.time_steps)
    if args.maps and not isinstance(model, Halting):
        raise ValueError(f"--maps {args.maps}: tokens of {model.name} do not halt; it is for models with halting")
    found = None
    with inside(args.checkpoint), progress("testing") as told:
        options: dict[str, Any] = {"batch_size": args.batch_size, "progress": told}
        if args.curve or args.plot:
            found = curve(model, data.split(split), data.info, count_images=args.count_images, **options)
            score = found.chosen.score
        else:
            score = evaluate(model, data.split(split), data.info, **options)
    files: dict[str, Any] = {}
    if found and args.curve:
        files[args.curve] = text_writer(found.to_csv())
    if found and args.plot:
        files[args.plot] = writer(picture(found), Path(args.plot))
    if args.maps:
        files[args.maps] = writer(_maps(model, data, split), Path(args.maps))
    write_together(files)
    note = chosen_on(data, split)
    if args.json:
        answer = {"accuracy": score.accuracy, "right": score.right, "total": score.total, "split": split}
        answer |= {"work": score.work, "work_unit": model.work_unit} | ({"note": note} if note else {})
        if args.time_steps is not None:
            answer |= {"time_steps": args.time_steps, "trained_time_steps": trained}
        answer |= {"chance": score.chance, "at_chance": score.at_chance, "silence": score.silence}
        print(json.dumps(answer | ({"curve": found.to_dict()} if found else {})))
        return 0
    shown = console()
    line = f"{score.accuracy:.2%}: {score.right} of {score.total} {split} images of {data.info.name} right"
    shown.print(line + _work(model, score.work), soft_wrap=True)
    if args.time_steps is not None:
        shown.print(f"Run with {args.time_steps} time steps; it was trained with {trained}.", soft_wrap=True)
    shown.print(alarms(score.at_chance, score.silence), end="")
    if note:
        shown.print(note, soft_wrap=True)
    steps = [m for m in model.modules() if isinstance(m, DynamicTimeSteps)]
    for part in (*steps, *([found] if found else [])):
        shown.print(part)
    for name, path in (("Curve", args.curve), ("Picture", args.plot), ("Halting maps", args.maps)):
        if path:
            shown.print(f"{name}: {path}", soft_wrap=True)
    return 0


def _maps(model: Any, data: Data, split: str) -> Figure:
    """Halting maps of the first images."""
    from spikevit.data.batches import take
    from spikevit.report.visits_plot import picture

    dataset: Any = data.split(split)
    images, labels = take(dataset, range(min(MAPS, len(dataset))))
    titles = [data.info.classes[int(label)] for label in labels]
    return picture(images.float() / 255, model.visits(as_input(images, model, data)), model.cells, titles)


def _at(model: Any, steps: int | None) -> Any:
    """The model at that many of its time steps."""
    if steps is None:
        return model
    if not model.time_axis:
        raise ValueError(f"--time-steps {steps}: {model.name} has no time axis; leave it out")
    if model.knob != "time_steps":
        raise ValueError(
            f"--time-steps {steps}: computation of {model.name} with {' and '.join(name for name, _ in model.methods)} "
            f"is set by its {model.knob}, not by time steps; --curve shows it at every setting"
        )
    with inside("--time-steps"):
        return model.at(steps)


def _work(model: Any, work: float) -> str:
    """What an image took, in words; nothing for models without time steps."""
    if not model.time_axis:
        return ""
    return f", {round(work, 2):g} of {model.most_work} {model.work_unit}"


def _check(args: argparse.Namespace) -> None:
    """Refuses files that cannot be written, before any work is done."""
    from spikevit.files import refuse_existing
    from spikevit.report.figure import check_path

    check_numbers(args, "batch_size", "count_images")
    if args.curve and Path(args.curve).suffix != ".csv":
        raise ValueError(f"--curve {args.curve}: a curve is written as .csv; give it such an ending")
    for option, path in (("--plot", args.plot), ("--maps", args.maps)):
        if path:
            with inside(option):
                check_path(Path(path))
    refuse_existing({"--curve": args.curve, "--plot": args.plot, "--maps": args.maps})
