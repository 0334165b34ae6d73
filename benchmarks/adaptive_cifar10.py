"""Adaptive computation on CIFAR-10, with a network that two cores train in minutes: one table from one script.

    python benchmarks/adaptive_cifar10.py --root DIR        # can be interrupted and goes on

A small Spikformer, T = 4, is trained at fixed T (recipe cifar10_spikformer, only crop and flip). From its weights go
on, equally long: itself, dynamic time steps, and STAS with each of its fronts. Early exit is the fixed model that went
on. All 50,000 images but a twentieth, on which the threshold of early exit is chosen; last epochs. Prints the table
of docs/explanation/adaptive.md: accuracy on the 10,000 test images, realised work, what was executed on the first of
them (exact convention), beside the fairest ANN (`spikevit.profile`), and the wall time of one thread at batch 64, all
models in turn.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

RUNS = Path("runs/adaptive_cifar10")
SMALL = {
    "model.name": "spikformer_tiny",
    "model.config.embed_dim": 64,
    "model.config.pools": "[0, 1, 2]",
    "model.config.neuron.decay_input": "false",
    "data.val_fraction": 0.05,
    "data.workers": 0,
    "optimizer.lr": 3e-3,
    "schedule.warmup_epochs": 1,
    "schedule.cooldown_epochs": 0,
    "augmentation.crop_padding": 4,
    "augmentation.rand_augment": "null",
    "augmentation.erasing": 0,
    "augmentation.mixup": 0,
    "trainer.precision": "32-true",
}
FIRST, MORE = 8, 3  # epochs
HALTING = {"halting.gamma": 4, "halting.beta": 10, "halting.prior": 0.05, "halting.centre": 0.4}  # as on digits
METHODS = {
    "fixed": {},
    "dynamic steps": {"time_steps.target": 2.4},
    "STAS, integrating front": HALTING | {"halting.front": "integrate"},
    "STAS, averaged front": HALTING | {"halting.front": "average"},
    "STAS, one step in front": HALTING | {"halting.front": "one"},
}


def directory(name: str) -> Path:
    return RUNS / name.replace(" ", "_").replace(",", "")


def train(name: str, root: str, threads: int, **changes: object) -> None:
    where = directory(name)
    if (where / "results.json").exists():
        return
    command = [sys.executable, "-m", "spikevit.cli.main", "train", "--quiet"]
    settings = SMALL | {"data.root": root} | changes
    fresh = ["cifar10_spikformer", *(f"{key}={value}" for key, value in settings.items()), "--out", str(where)]
    command += ["--resume", str(where)] if (where / "recipe.yaml").exists() else fresh
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.DEVNULL)
    print(where, file=sys.stderr, flush=True)


def table(root: str, images: int) -> None:
    from spikevit import load_model
    from spikevit.adaptive import add_early_exit, choose_threshold
    from spikevit.data import load_data, normalise
    from spikevit.profiling.profile import profile
    from spikevit.training.evaluate import evaluate, logits_per_step
    from spikevit.training.recipe import load_recipe
    from spikevit.training.run import finish

    torch.set_num_threads(1)
    data = load_data("cifar10", root=root, val_fraction=SMALL["data.val_fraction"])
    models = {}
    for name in METHODS:
        recipe = load_recipe(directory(name) / "recipe.yaml")
        models[name] = finish(recipe, load_model(directory(name) / "last.safetensors"), data)
    logits, labels = logits_per_step(models["fixed"], data.split("val"), data.info)
    for tolerance in (0.0, 0.01):
        threshold = choose_threshold(logits, labels, tolerance=tolerance)
        models[f"early exit at {threshold:.3f}"] = add_early_exit(models["fixed"], threshold)
    test = data.split("test")
    first = normalise(test.images[:images], data.info)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(3):
        for name, model in models.items():
            start = time.perf_counter()
            with torch.no_grad():
                for batch in first.split(64):
                    model(batch)
            seconds[name].append(time.perf_counter() - start)
    milliseconds = {name: statistics.median(values) / images * 1e3 for name, values in seconds.items()}
    print(
        "| on CIFAR-10 | accuracy, % | work | M MAC | M AC | µJ, exact | ÷ fixed | ÷ fairest ANN | ms | time ÷ fixed |"
    )
    print(f"|{'---|' * 10}")
    energies, fairest = {}, set()
    for name, model in models.items():
        score, report = evaluate(model, test, data.info), profile(model, first.split(64))
        spent, opponent = report.costs["exact"].energy, report.baselines[report.fairest].energy
        energies[name] = spent.mj
        fairest.add(report.fairest)
        cells = (
            name,
            f"{100 * score.accuracy:.2f}",
            f"{score.work:.2f} of {model.most_work} {model.work_unit}",
            f"{spent.macs / 1e6:.2f}",
            f"{spent.acs / 1e6:.2f}",
            f"{spent.mj * 1e3:.2f}",
            f"{spent.mj / energies['fixed']:.2f}",
            f"{spent.mj / opponent.mj:.2f}",
            f"{milliseconds[name]:.2f}",
            f"{milliseconds[name] / milliseconds['fixed']:.2f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nThe fairest ANN, of each row's weights without the method: {', '.join(fairest)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of CIFAR-10")
    parser.add_argument("--side-by-side", type=int, default=2)
    parser.add_argument("--images", type=int, default=1024, help="to count operations and time on")
    args = parser.parse_args()
    root = str(Path(args.root).resolve())
    train("first", root, args.side_by_side, **{"schedule.epochs": FIRST})
    more = {"schedule.epochs": MORE, "optimizer.lr": 1e-3, "model.start": directory("first") / "last.safetensors"}
    with ThreadPoolExecutor(args.side_by_side) as pool:
        list(pool.map(lambda job: train(job[0], root, 1, **(more | job[1])), METHODS.items()))
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}; {FIRST} + {MORE} epochs\n")
    table(root, args.images)


if __name__ == "__main__":
    main()
