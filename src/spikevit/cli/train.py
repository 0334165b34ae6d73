"""spikevit train: a run from a recipe, or the rest of one that was interrupted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spikevit.cli import threads

EXAMPLE = """examples:
  spikevit train digits
  spikevit train digits optimizer.lr=0.002 schedule.epochs=60 --out runs/longer
  spikevit train my_recipe.yaml trainer.devices=2
  spikevit train --resume runs/longer"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe and changes to it, or a run to go on with."""
    parser.add_argument("recipe", nargs="?", help="a recipe's name or YAML file")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument("--out", help="directory of the run (default: runs/RECIPE-N)")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this directory")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html at the end")


def run(args: argparse.Namespace) -> int:
    """Trains, tests, writes the report, and says where everything is."""
    import torch

    from spikevit.cli.report import attempt
    from spikevit.report.terminal import console
    from spikevit.training.recipe import load_recipe, shipped_recipes
    from spikevit.training.run import train

    if args.resume:
        if args.recipe or args.out:
            raise ValueError("--resume goes on as the run's own recipe says: without another recipe, changes or --out")
        directory, recipe = args.resume, None
    elif not args.recipe:
        raise ValueError(f"which recipe? shipped: {', '.join(shipped_recipes())}; or a YAML file, or --resume RUN")
    else:
        recipe = load_recipe(args.recipe, args.changes)
        directory = args.out or free_directory(args.recipe)
    torch.get_num_threads()  # it has read the environment now
    threads.release()
    if threads.chosen and threads.chosen.fewer and not args.quiet:
        console(stderr=True).print(f"Threads: {threads.chosen}", soft_wrap=True)
    results = train(directory, recipe, progress=not args.quiet)
    if results:
        show(results, directory)
        if not args.no_report:
            attempt(directory)
    return 0


def free_directory(recipe: str) -> str:
    """runs/RECIPE-1, or the next number that is free."""
    from itertools import count

    name = Path(recipe).stem
    return next(str(path) for i in count(1) if not (path := Path("runs") / f"{name}-{i}").exists())


def show(results: dict[str, Any], directory: str) -> None:
    """The accuracy and the commands to try next."""
    from spikevit.report.terminal import console

    out = console()
    model = f"{directory}/{results['checkpoint']['file']}"
    final = results["checkpoint"]["file"] != "best.safetensors"
    files = {model: "the model"}
    if final:
        files |= {model: "the model to run", f"{directory}/best.safetensors": "the model as it was trained"}
    files[f"{directory}/metrics.csv"] = "every epoch"
    width = max(map(len, files))
    out.print()
    out.print(f"{results['accuracy']:.2%}", style="bold", end="")
    out.print(
        f" of {results['total']} {results['split']} images right "
        f"(best epoch {results['best_epoch']}, {results['parameters']:,} parameters, {results['seconds']:.0f} s)"
    )
    if results["split"] == "val":
        out.print(
            "There are no test images: best epoch, threshold and this accuracy come from the same validation images."
        )
    if final or results["work_unit"] != "time steps":
        out.print(f"{results['work']:.2f} {results['work_unit']}, mean over images")
    for path, about in files.items():
        out.print(f"  {path:{width}}   {about}", soft_wrap=True)
    out.print(f"try: spikevit eval {model}", soft_wrap=True)
