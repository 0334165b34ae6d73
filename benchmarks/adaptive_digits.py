"""Adaptive computation on scikit-learn's digits: fixed T, dynamic time steps, STAS and early exit, paired by fold.

    python benchmarks/adaptive_digits.py        # 3 seeds × 5 folds; can be interrupted and goes on

Each fold trains spikformer_tiny at T = 4 for 20 epochs (recipe digits). From its weights go on, equally long: itself,
dynamic time steps (digits_dynamic) and STAS (digits_stas) with an integrating and an averaged front; on one thread, two
side by side, in runs/adaptive_digits. Neurons are the same for all. Early exit is the fixed model that went on, with a
threshold chosen on validation images, a tenth of the training images. Last epochs: nothing is chosen on the test fold.
Prints the table of docs/explanation/adaptive.md: accuracy, work and energy, that of the fairest ANN beside it
(`spikevit.profile`), and the 95 % interval (Student's t) of the paired differences.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch

RUNS = Path("runs/adaptive_digits")
RECIPES = {
    "first": ["digits"],
    "fixed": ["digits"],
    "dynamic steps": ["digits_dynamic"],
    "STAS, integrating front": ["digits_stas"],
    "STAS, averaged front": ["digits_stas", "halting.front=average"],
}  # and what is changed in them
METHODS = (*list(RECIPES)[1:], "early exit")
FOLDS = 5
ALIKE = ["model.config.neuron.decay_input=false"]
FIRST = ["schedule.epochs=20", "schedule.warmup_epochs=2"]
MORE = ["schedule.epochs=15", "schedule.warmup_epochs=1"]
RATES = dict.fromkeys(RECIPES, 1e-3) | {"dynamic steps": 2e-3}  # learning rates, looked for on two folds of seed 0


@cache
def fold(seed: int, number: int):
    """Training and validation images of the other folds, and this one as the test images."""
    from sklearn.model_selection import StratifiedKFold

    from spikevit.data import Data, ImageSet, load_data
    from spikevit.data.sets import stratified

    data = load_data("digits", val_fraction=0)
    images = ImageSet(
        torch.cat([data.split(part).images for part in ("train", "test")]),
        torch.cat([data.split(part).labels for part in ("train", "test")]),
    )
    labels = images.labels.numpy()
    rest, test = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels))[number]
    train, val = stratified(labels[rest], 0.1, seed)
    return Data(data.info, images.part(rest[train]), images.part(rest[val]), images.part(test))


def directory(method: str, seed: int, number: int) -> Path:
    return RUNS / f"{method.replace(' ', '_').replace(',', '')}-{seed}-{number}"


def train(method: str, seed: int, number: int, changes: list[str]) -> None:
    """One run, in a process of its own."""
    from spikevit.training.recipe import load_recipe
    from spikevit.training.run import train

    torch.set_num_threads(1)
    where = directory(method, seed, number)
    start = directory("first", seed, number) / "last.safetensors"
    (name, *own), phase = RECIPES[method], FIRST
    if method != "first":
        phase = [*MORE, f"optimizer.lr={RATES[method]}", f"model.start={start.resolve()}"]
    recipe = load_recipe(name, [f"trainer.seed={seed}", *ALIKE, *own, *phase, *changes])
    train(where, None if (where / "recipe.yaml").exists() else recipe, data=fold(seed, number), progress=False)


def measure(seed: int, number: int) -> dict[str, tuple[float, float, float, float]]:
    """Of every method on one fold: accuracy, share of the work, energy of an image in mJ, and ÷ the fairest ANN's."""
    from spikevit import add_early_exit, load_model
    from spikevit.adaptive import choose_threshold
    from spikevit.data import normalise
    from spikevit.profiling.profile import profile
    from spikevit.training.evaluate import evaluate, logits_per_step
    from spikevit.training.recipe import load_recipe
    from spikevit.training.run import finish

    data, models = fold(seed, number), {}
    for method in METHODS[:-1]:
        where = directory(method, seed, number)
        models[method] = finish(load_recipe(where / "recipe.yaml"), load_model(where / "last.safetensors"), data)
    logits, labels = logits_per_step(models["fixed"], data.split("val"), data.info)
    models["early exit"] = add_early_exit(models["fixed"], choose_threshold(logits, labels))
    images, found = normalise(data.split("test").images, data.info), {}
    for name, model in models.items():
        score, report = evaluate(model, data.split("test"), data.info), profile(model, images)
        spent, opponent = report.costs["exact"].energy, report.baselines[report.fairest].energy
        found[name] = score.accuracy, score.work / model.most_work, spent.mj, spent.mj / opponent.mj
    return found


def table(seeds: int) -> None:
    folds = [measure(seed, number) for seed in range(seeds) for number in range(FOLDS)]
    heads = ("on digits", "accuracy, %", "minus fixed, points (95 %)", "work ÷ all, %", "lowest … highest")
    print(f"| {' | '.join((*heads, 'energy ÷ fixed', '÷ fairest ANN'))} |\n|{'---|' * 7}")
    fixed = np.array([found["fixed"] for found in folds])
    for method in METHODS:
        accuracy, work, energy, ratio = np.array([found[method] for found in folds]).T
        difference = 100 * (accuracy - fixed[:, 0])
        half = student(len(folds)) * difference.std(ddof=1) / len(folds) ** 0.5
        cells = (
            method,
            f"{100 * accuracy.mean():.2f} ± {statistics.stdev(100 * accuracy):.2f}",
            "" if method == "fixed" else f"{difference.mean():+.2f} ± {half:.2f}",
            f"{100 * work.mean():.1f}",
            f"{100 * work.min():.0f} … {100 * work.max():.0f}",
            f"{(energy / fixed[:, 2]).mean():.2f}",
            f"{ratio.mean():.2f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def student(n: int) -> float:
    """t of 95 % for a mean of n values."""
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side-by-side", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "SEED", "FOLD"), help="that run alone")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to all recipes")
    args = parser.parse_args()
    if args.one:
        return train(args.one[0], int(args.one[1]), int(args.one[2]), args.changes)

    def run(job: tuple[int, int]) -> None:
        for method in RECIPES:
            if not (directory(method, *job) / "results.json").exists():
                command = [sys.executable, __file__, "--one", method, *map(str, job), *args.changes]
                subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
                print(f"{directory(method, *job)}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(args.side_by_side) as pool:
        list(pool.map(run, [(seed, number) for seed in range(args.seeds) for number in range(FOLDS)]))
    print(f"{datetime.date.today()}, {platform.machine()}, one thread a run, torch {torch.__version__}\n")
    print(f"{args.seeds} seeds × {FOLDS} folds {', '.join([*ALIKE, *MORE, *args.changes])}\n")
    table(args.seeds)


if __name__ == "__main__":
    main()
