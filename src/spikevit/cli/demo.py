"""spikevit demo: from nothing to a trained transformer, its spikes, the proof that they are the same, and a report.

What is in the directory of a demo says how far it came: a demo that was interrupted goes on from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikevit.cli import threads

if TYPE_CHECKING:
    from torch import Tensor

    from spikevit.conversion.certificate import Certificate
    from spikevit.training.recipe import Recipe

EXAMPLE = "example:\n  spikevit demo"
RECIPE = "ge2mst_digits"
EXACT = ["model.config.grid_bits=8", "schedule.epochs=3", "schedule.warmup_epochs=0", "optimizer.lr=0.0005"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and how long."""
    parser.add_argument("changes", nargs="*", metavar="key=value", help=f"changes to the recipe `{RECIPE}`")
    parser.add_argument(
        "--out", help="directory of the run (default: that of the last demo if it did not end, or runs/demo-N)"
    )


def run(args: argparse.Namespace) -> int:
    """Trains on digits, puts the network on exact grids, converts it; shows accuracies, certificate, rates, energy.

    Each step that the directory holds already is not done again.
    """
    from spikevit.cli.train import free_directory
    from spikevit.report.terminal import console
    from spikevit.training.run import Interrupted

    shown = console()
    directory = Path(args.out) if args.out else _unfinished(args.changes)
    recipe = None if directory is None else _recipe_there(directory, args.changes)
    if recipe is not None:
        shown.print(f"Going on with the demo in {directory}; --out DIRECTORY begins another\n", soft_wrap=True)
    directory = directory or Path(free_directory("demo"))
    if threads.chosen and threads.chosen.fewer:
        shown.print(f"Threads: {threads.chosen}\n", soft_wrap=True)
    try:
        return _steps(directory, recipe or _recipe(args.changes))
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(f"stopped; go on with: {_bin()}spikevit demo --out {directory}") from None


def _steps(directory: Path, recipe: Recipe) -> int:
    """All steps, from the first that is not done."""
    import torch

    from spikevit.checkpoint import load_model, read_about
    from spikevit.cli.report import attempt, show
    from spikevit.data import normalise
    from spikevit.data.batches import take
    from spikevit.data.load import load_data_of
    from spikevit.profiling.observe import firing_rates
    from spikevit.profiling.profile import profile
    from spikevit.report.terminal import console, summary
    from spikevit.training.recipe import parse_recipe

    shown = console()
    shown.print(
        f"1. Training {recipe.model.name} on {recipe.data.name}, {recipe.schedule.epochs} epochs, in "
        f"{directory}\n"
        f"   (neurons: {recipe.model.backend or 'fused'}; no time axis: the cost does not depend on T)\n"
    )
    trained = _trained(directory, recipe)
    best = directory / "best.safetensors"
    shown.print("\n2. Exact mode: 8-bit weights on power-of-two grids, 3 more epochs\n")
    exact = _trained(
        directory / "exact", parse_recipe(recipe.to_yaml(), "the demo's recipe", [f"model.start={best}", *EXACT])
    )

    best = directory / "exact" / "best.safetensors"
    data = load_data_of(read_about(best))
    images, labels = take(data.split("test"), range(exact["total"]))
    x = normalise(images, data.info)
    shown.print("\n3. Conversion into spikes, and the proof: every code of every neuron, on all test images\n")
    certificate = _converted(directory, best, x)
    model = load_model(spiking := directory / "spiking.safetensors")
    shown.print(certificate)

    x = x.to(model.dtype)
    with torch.no_grad():
        predictions = torch.cat([model(batch).argmax(-1) for batch in x.split(64)])
    right = int((predictions == labels).sum())
    accuracies = {
        "trained, without spikes": trained["accuracy"],
        "on 8-bit grids": exact["accuracy"],
        "as spikes": right / len(labels),
    }
    shown.print("\n4. What it does and what it costs")
    rates = firing_rates(model, x.split(64))
    shown.print(summary(accuracies, len(labels), model, rates, profile(model, x[:72].split(9))))
    shown.print("\n5. All of it as a page to look at, in any browser\n")
    if (page := directory / "report.html").exists():
        show(page)
    else:
        attempt(directory)
    shown.print("\nTry next:")
    for command in (
        f"spikevit eval {spiking}",
        f"spikevit convert --verify {directory / 'certificate.json'}",
        f"spikevit check {spiking}",
        f"spikevit profile {spiking} --images 20",
        "spikevit train digits",
        f"spikevit report {directory} runs/digits-1",
        "spikevit models",
    ):
        shown.print(f"  {_bin()}{command}", soft_wrap=True)
    return 0 if certificate.lossless else 1


def _trained(directory: Path, recipe: Recipe) -> dict[str, Any]:
    """The results of the run in the directory: as it ended, or once it has been gone on with, or begun."""
    from dataclasses import asdict

    from spikevit.report.run_files import read_results
    from spikevit.report.terminal import console
    from spikevit.training.run import train

    path = directory / "results.json"
    if not path.exists():
        return train(directory, None if (directory / "recipe.yaml").exists() else recipe)
    results = read_results(path)
    console().print(f"Done: {results.accuracy:.2%} of {results.total} {results.split} images right", soft_wrap=True)
    return asdict(results)


def _converted(directory: Path, best: Path, x: Tensor) -> Certificate:
    """The certificate of the spiking network, which are both made where they are not there."""
    from spikevit.checkpoint import load_model, read_about, save_model
    from spikevit.conversion.certificate import load_certificate, relative, with_files
    from spikevit.conversion.convert import convert
    from spikevit.files import text_writer, write_together

    spiking, proof = directory / "spiking.safetensors", directory / "certificate.json"
    if spiking.exists() and proof.exists():
        return load_certificate(proof)
    reference, about = load_model(best), read_about(best)
    model, certificate = convert(reference, x.to(reference.dtype))
    settings = {"data": None, "root": None, "images": None, "batch_size": 64}
    names = {"reference": relative(best, proof), "spiking": relative(spiking, proof)}
    certificate = with_files(certificate, **names, data=settings)
    save_model(model, spiking, data=about["data"], recipe=about["recipe"])
    write_together({proof: text_writer(certificate.to_json())})
    return certificate


# --- which demo -------------------------------------------------------------------------------------------------------


def _recipe(changes: list[str]) -> Recipe:
    """The recipe of a new demo."""
    from spikevit.schema import wrong
    from spikevit.training.recipe import load_recipe

    recipe = load_recipe(RECIPE, [*_backend(), *changes])
    if recipe.trainer.fast_dev_run:
        right = f"left out of a demo, which needs a run: spikevit train {RECIPE} trainer.fast_dev_run=true"
        raise wrong("trainer.fast_dev_run", recipe.trainer.fast_dev_run, right)
    return recipe


def _unfinished(changes: list[str]) -> Path | None:
    """The last of runs/demo-1, runs/demo-2, … if it did not end, nobody works in it, and it is the one that is asked
    for.
    """
    from spikevit.files import locked
    from spikevit.training.recipe import load_recipe

    numbers = [int(n) for path in Path("runs").glob("demo-*") if (n := path.name.removeprefix("demo-")).isdigit()]
    last = Path("runs") / f"demo-{max(numbers, default=0)}"
    if not (last / "recipe.yaml").is_file() or (last / "report.html").exists():
        return None
    try:
        for run in (last, last / "exact"):
            if run.is_dir():
                with locked(run):
                    pass
        differ = changes and load_recipe(last / "recipe.yaml").differences(_recipe(changes))
    except ValueError:
        return None
    return None if differ else last


def _recipe_there(directory: Path, changes: list[str]) -> Recipe | None:
    """The recipe of the demo in the directory, None where there is none yet.

    Raises:
        ValueError: it is of another recipe than the changes make.
    """
    from spikevit.training.recipe import load_recipe

    if not (directory / "recipe.yaml").is_file():
        return None
    there, ours = load_recipe(directory / "recipe.yaml"), _recipe(changes)
    differ = there.differences(ours)
    if not changes:  # those that it was begun with are its own matter
        differ = {name: both for name, both in differ.items() if name in ("model.name", "data.name")}
    if differ:
        was = "; ".join(f"{name} is {theirs!r} there, {mine!r} here" for name, (theirs, mine) in differ.items())
        raise ValueError(f"--out {directory} is a run with another recipe: {was}. Name another directory")
    return there


def _backend() -> list[str]:
    """The compiled staircase where it helps: on a CPU, with numba."""
    from importlib.util import find_spec

    import torch

    return ["model.backend=numba"] if find_spec("numba") and not torch.cuda.is_available() else []


def _bin() -> str:
    """How this command was called, so that the next ones work too: ".venv/bin/" under make."""
    import sys

    program = Path(sys.argv[0]).absolute()
    inside = program.name == "spikevit" and program.is_relative_to(Path.cwd())
    return f"{program.parent.relative_to(Path.cwd())}/" if inside else ""
