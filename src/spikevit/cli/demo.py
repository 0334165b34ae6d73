"""spikevit demo: from nothing to a trained transformer, its spikes, the proof that they are the same, and a report."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "example:\n  spikevit demo"
EXACT = ["model.config.grid_bits=8", "schedule.epochs=3", "schedule.warmup_epochs=0", "optimizer.lr=0.0005"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and how long."""
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the recipe `ge2mst_digits`")
    parser.add_argument("--out", help="directory of the run (default: runs/demo-N)")


def run(args: argparse.Namespace) -> int:
    """Trains on digits, puts the network on exact grids, converts it; shows accuracies, certificate, rates, energy."""
    import torch

    from spikevit.checkpoint import load_model, read_about, save_model
    from spikevit.cli.report import attempt
    from spikevit.cli.train import free_directory
    from spikevit.conversion.certificate import relative, with_files
    from spikevit.conversion.convert import convert
    from spikevit.data import normalise
    from spikevit.data.batches import take
    from spikevit.data.load import load_data_of
    from spikevit.profiling.observe import firing_rates
    from spikevit.profiling.profile import profile
    from spikevit.report.terminal import console, summary
    from spikevit.training.recipe import load_recipe
    from spikevit.training.run import train

    shown = console()
    changes = [*_backend(), *args.changes]
    recipe = load_recipe("ge2mst_digits", changes)
    directory = Path(args.out or free_directory("demo"))
    shown.print(
        f"1. Training {recipe.model.name} on {recipe.data.name}, {recipe.schedule.epochs} epochs, in "
        f"{directory}\n"
        f"   (neurons: {recipe.model.backend or 'fused'}; no time axis: the cost does not depend on T)\n"
    )
    trained = train(directory, recipe)
    best = directory / "best.safetensors"
    shown.print("\n2. Exact mode: 8-bit weights on power-of-two grids, 3 more epochs\n")
    exact = train(directory / "exact", load_recipe("ge2mst_digits", [*changes, f"model.start={best}", *EXACT]))

    best = directory / "exact" / "best.safetensors"
    data = load_data_of(about := read_about(best))
    images, labels = take(data.split("test"), range(exact["total"]))
    reference = load_model(best)
    x = normalise(images, data.info).to(reference.dtype)
    shown.print("\n3. Conversion into spikes, and the proof: every code of every neuron, on all test images\n")
    model, certificate = convert(reference, x)
    spiking = directory / "spiking.safetensors"
    save_model(model, spiking, data=about["data"], recipe=about["recipe"])
    settings = {"data": None, "root": None, "images": None, "batch_size": 64}
    proof = directory / "certificate.json"
    names = {"reference": relative(best, proof), "spiking": relative(spiking, proof)}
    certificate = with_files(certificate, **names, data=settings)
    certificate.save(proof)
    shown.print(certificate)

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
    attempt(directory)
    shown.print("\nTry next:")
    for command in (
        f"spikevit eval {spiking}",
        f"spikevit convert --verify {proof}",
        f"spikevit check {spiking}",
        f"spikevit profile {spiking} --images 20",
        "spikevit train digits",
        f"spikevit report {directory} runs/digits-1",
        "spikevit models",
    ):
        shown.print(f"  {_bin()}{command}", soft_wrap=True)
    return 0 if certificate.lossless else 1


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
