"""spikevit eval: how often a checkpoint is right."""

from __future__ import annotations

import argparse

EXAMPLE = """examples:
  spikevit eval runs/digits-1/best.safetensors
  spikevit eval best.safetensors --split val --root /data/cifar10 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint and where its data is."""
    parser.add_argument("checkpoint", help="a .safetensors file of spikevit")
    parser.add_argument("--split", default="test", help="test, val or train (default: test)")
    parser.add_argument("--root", help="folder of the data set, where it is not that of training")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the accuracy on the data set that the checkpoint was trained on."""
    import json

    from rich.console import Console
    from rich.progress import Progress

    from spikevit.models.checkpoint import load_model, read_about
    from spikevit.training.evaluate import evaluate
    from spikevit.training.run import load_data_of

    about = read_about(args.checkpoint)
    if "data" not in about:
        raise ValueError(f"{args.checkpoint} does not say what data it was trained on; use spikevit.training.evaluate")
    data = load_data_of(about, root=args.root)
    model = load_model(args.checkpoint)
    with Progress(transient=True, console=(console := Console(stderr=True)), disable=not console.is_terminal) as bar:
        task = bar.add_task("testing")
        score = evaluate(
            model,
            data.split(args.split),
            data.info,
            batch_size=args.batch_size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if args.json:
        print(json.dumps({"accuracy": score.accuracy, "right": score.right, "total": score.total, "split": args.split}))
    else:
        print(f"{score.accuracy:.2%}: {score.right} of {score.total} {args.split} images of {data.info.name} right")
    return 0
