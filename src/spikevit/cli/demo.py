"""spikevit demo: from nothing to a trained spiking transformer, what it sees, and what it costs."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "example:\n  spikevit demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and how long."""
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the recipe `digits`")
    parser.add_argument("--out", help="directory of the run (default: runs/demo-N)")


def run(args: argparse.Namespace) -> int:
    """Trains on digits, then shows accuracy, firing rates, energy and a picture."""
    import torch
    from rich.console import Console

    from spikevit.cli.train import free_directory
    from spikevit.data import normalise
    from spikevit.models.checkpoint import load_model, read_about
    from spikevit.profiling.observe import firing_rates
    from spikevit.profiling.profile import profile
    from spikevit.report.picture import draw
    from spikevit.report.terminal import summary
    from spikevit.training.recipe import load_recipe
    from spikevit.training.run import load_data_of, train

    console = Console(highlight=False)
    recipe = load_recipe("digits", args.changes)
    directory = Path(args.out or free_directory("demo"))
    console.print(
        f"Training {recipe.model.name} on {recipe.data.name}, {recipe.schedule.epochs} epochs, in {directory}\n"
    )
    results = train(directory, recipe)

    model = load_model(directory / "best.safetensors")
    data = load_data_of(read_about(directory / "best.safetensors"))
    images, labels = data.split("test").__getitems__(range(results["total"]))  # type: ignore[attr-defined]
    x = normalise(images, data.info).to(model.dtype)
    rates = firing_rates(model, [x])
    console.print(summary(results, model, rates, profile(model, x.split(36))))
    with torch.no_grad():
        predictions = model(x).argmax(-1)
    picture = draw(directory / "picture.png", model, x, images, labels, predictions, data.info.classes)
    console.print(f"\nPicture: {picture}\nTry next:", soft_wrap=True)
    for command in (
        f"spikevit eval {directory}/best.safetensors",
        f"spikevit profile {directory}/best.safetensors",
        f"spikevit check {directory}/best.safetensors",
        "spikevit train digits model.name=qkformer_tiny",
        "spikevit train digits model.time_steps=1",
        "spikevit models",
    ):
        console.print(f"  {_bin()}{command}", soft_wrap=True)
    return 0


def _bin() -> str:
    """How this command was called, so that the next ones work too: ".venv/bin/" under make."""
    import sys

    program = Path(sys.argv[0]).absolute()
    inside = program.name == "spikevit" and program.is_relative_to(Path.cwd())
    return f"{program.parent.relative_to(Path.cwd())}/" if inside else ""
