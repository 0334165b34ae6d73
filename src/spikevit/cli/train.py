"""spikevit train: a run from a recipe, one for each of several values, or the rest of one that was interrupted."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import fill
from typing import Any

from spikevit.cli import threads
from spikevit.errors import inside
from spikevit.recipes import shipped_recipes

EXAMPLE = f"""recipes (more of them: spikevit recipes):
{fill(", ".join(shipped_recipes()), 78, initial_indent="  ", subsequent_indent="  ")}

examples:
  spikevit train digits
  spikevit train digits optimizer.lr=0.002 schedule.epochs=60 --out runs/longer
  spikevit train digits trainer.fast_dev_run=true                 does it work, and how long will it take
  spikevit train digits optimizer.lr=1e-3,5e-3 trainer.seed=0,1   a run for each, and a comparison
  spikevit train my_recipe.yaml trainer.devices=2
  spikevit train --resume runs/longer
  spikevit train --resume runs/longer schedule.epochs=90          goes on, longer than it was to"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe and changes to it, or a run to go on with."""
    parser.add_argument("recipe", nargs="?", help="a recipe's name or YAML file")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the recipe; a,b for several runs")
    parser.add_argument("--out", help="directory of the run (default: runs/RECIPE-N)")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run, or the sweep, in this directory")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html at the end")


def run(args: argparse.Namespace) -> int:
    """Trains, tests, writes the report, and says where everything is."""
    import torch

    from spikevit.cli.report import attempt
    from spikevit.report.terminal import console
    from spikevit.training.recipe import load_recipe
    from spikevit.training.run import refuse_no_run, train
    from spikevit.training.sweep import combinations, is_sweep, new_sweep

    torch.get_num_threads()  # it has read the environment now
    threads.release()
    if threads.chosen and threads.chosen.fewer and not args.quiet:
        console(stderr=True).print(f"Threads: {threads.chosen}", soft_wrap=True)
    directory, recipe, epochs = args.resume, None, None
    if args.resume:
        epochs = epochs_of(args)
        if is_sweep(args.resume):
            return sweep(args)
        with inside("--resume"):
            refuse_no_run(Path(args.resume))
    elif not args.recipe:
        raise ValueError(f"which recipe? shipped: {', '.join(shipped_recipes())}; or a YAML file, or --resume RUN")
    else:
        directory = args.out or free_directory(args.recipe)
        if len(runs := combinations(args.changes)) > 1:
            new_sweep(args.recipe, runs, directory)
            args.resume = directory
            return sweep(args)
        recipe = load_recipe(args.recipe, args.changes)
    results = train(directory, recipe, progress=not args.quiet, epochs=epochs)
    if recipe and recipe.trainer.fast_dev_run:
        show_tried(results, recipe.schedule.epochs)
    elif results:
        show(results, directory)
        if not args.no_report:
            attempt(directory)
    return 0


def epochs_of(args: argparse.Namespace) -> int | None:
    """The epochs that a run goes on to, of `--resume RUN schedule.epochs=N`: all that may change with --resume."""
    from spikevit.files import parse_yaml
    from spikevit.schema import Count, fit
    from spikevit.training.sweep import is_sweep

    words = [*([args.recipe] if args.recipe else []), *args.changes]
    for word in words:
        key, _, value = word.partition("=")
        if key != "schedule.epochs" or is_sweep(args.resume):
            raise ValueError(
                f"--resume goes on as the run's own recipe says, without another recipe or changes: {word}. Only a "
                "single run may go on longer, with schedule.epochs=N. With another recipe it is another run, which "
                f"starts from the weights of this one with model.start={args.resume}/last.safetensors"
            )
        epochs = fit(parse_yaml(value, f"{word!r}: the value is not valid YAML"), Count, key)
    if args.out:
        raise ValueError(f"--resume goes on in the directory of the run: without --out {args.out}")
    return epochs if words else None


def sweep(args: argparse.Namespace) -> int:
    """Trains the runs of a sweep and compares them; status 1 where one failed."""
    from spikevit.cli.report import attempt
    from spikevit.report.terminal import Table, console
    from spikevit.training.sweep import train_all

    directory, out = Path(args.resume), console()
    found = train_all(directory, progress=not args.quiet, say=lambda line: out.print(line, soft_wrap=True))
    good = {name: results for name, results in found.items() if isinstance(results, dict)}
    table = Table()
    for column in ("run", "accuracy", "images", "best epoch", "seconds"):
        table.add_column(column, justify="left" if column == "run" else "right", overflow="fold")
    for name in found:
        if r := good.get(name):
            table.add_row(name, f"{r['accuracy']:.2%}", f"{r['total']}", f"{r['best_epoch']}", f"{r['seconds']:.0f}")
        else:
            table.add_row(name, "failed", "", "", "")
    out.print("", table)
    if good and not args.no_report:
        attempt([directory / name for name in good], out=directory / "report.html")
    failed = {name: error for name, error in found.items() if isinstance(error, Exception)}
    for name, error in failed.items():
        out.print(f"failed: {name}: {error}", soft_wrap=True)
    if failed:
        out.print(f"What is wrong with them set right, `spikevit train --resume {directory}` tries these again.")
    return 1 if failed else 0


def show_tried(results: dict[str, Any], epochs: int) -> None:
    """That a recipe works, and what it would take."""
    from spikevit.report.terminal import console

    out = console()
    memory = "" if results["memory"] is None else f", {results['memory'] / 2**30:.1f} GiB of memory"
    batches = f"{results['batches']} batch{'es' if results['batches'] > 1 else ''}"
    out.print(
        f"The recipe works: {batches} trained (loss {results['loss']:.3f}) and validated "
        f"(loss {results['val_loss']:.3f}){memory}."
    )
    out.print(
        f"An epoch would take about {duration(results['epoch_seconds'])}, all {epochs} about "
        f"{duration(results['seconds'])}. Nothing was written."
    )


def duration(seconds: float) -> str:
    """Seconds in words of their size: "12 s", "8 min", "5.2 h", "3.1 days"."""
    for size, name in ((86_400, "days"), (3_600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.3g} s"


def free_directory(recipe: str) -> str:
    """runs/RECIPE-1, or the next number that is free."""
    from itertools import count

    name = Path(recipe).stem
    return next(str(path) for i in count(1) if not (path := Path("runs") / f"{name}-{i}").exists())


def show(results: dict[str, Any], directory: str) -> None:
    """The accuracy and the commands to try next."""
    from spikevit.profiling.health import at_chance
    from spikevit.report.terminal import alarms, console

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
    if results.get("limited"):
        out.print(f"data.limit={results['limited']}: `spikevit eval` tests on all images.")
    out.print(alarms(at_chance(results["right"], results["total"], results["chance"]), results["silence"]), end="")
    if results["split"] == "val":
        out.print(
            "There are no test images: best epoch, threshold and this accuracy come from the same validation images."
        )
    if final or results["work_unit"] != "time steps":
        out.print(f"{results['work']:.2f} {results['work_unit']}, mean over images")
    for path, about in files.items():
        out.print(f"  {path:{width}}   {about}", soft_wrap=True)
    out.print(f"try: spikevit eval {model}", soft_wrap=True)
