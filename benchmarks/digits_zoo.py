"""Every family's tiny model on scikit-learn's digits with one recipe: accuracy of the last epoch, time, firing rates.

    python benchmarks/digits_zoo.py            # about half an hour on two cores; can be interrupted and goes on

Each run is `spikevit train digits model.name=… trainer.seed=…` on one thread, two of them side by side, in
runs/digits_zoo. Prints the table of docs/explanation/zoo.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from spikevit import firing_rates, list_models, load_model
from spikevit.data import load_data, normalise
from spikevit.training.evaluate import evaluate

RUNS = Path("runs/digits_zoo")


def train(model: str, seed: int) -> None:
    directory = RUNS / f"{model}-{seed}"
    if (directory / "results.json").exists():
        return
    command = [sys.executable, "-m", "spikevit.cli.main", "train", "--quiet"]
    fresh = ["digits", f"model.name={model}", f"trainer.seed={seed}", "--out", str(directory)]
    command += ["--resume", str(directory)] if (directory / "recipe.yaml").exists() else fresh
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    print(f"{directory}: {json.loads((directory / 'results.json').read_text())['accuracy']:.2%}", file=sys.stderr)


def row(model: str, seeds: range) -> str:
    data = load_data("digits")
    x = normalise(data.split("test").images, data.info)
    accuracy, rates, seconds = [], [], []
    for seed in seeds:
        directory = RUNS / f"{model}-{seed}"
        network = load_model(directory / "last.safetensors")  # the last epoch: nothing is chosen
        accuracy.append(100 * evaluate(network, data.split("test"), data.info).accuracy)
        fired = firing_rates(network, [x])
        rates.append(sum(fired.values()) / len(fired))
        with open(directory / "metrics.csv") as file:
            seconds.append(sum(float(line["seconds"]) for line in csv.DictReader(file)))
    cells = (
        model,
        f"{sum(p.numel() for p in network.parameters()):,}",
        f"{statistics.mean(accuracy):.2f} ± {statistics.stdev(accuracy):.2f}",
        ", ".join(f"{a:.2f}" for a in accuracy),
        f"{statistics.mean(seconds):.0f}",
        f"{100 * statistics.mean(rates):.1f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side-by-side", type=int, default=2)
    args = parser.parse_args()
    models, seeds = list_models("*_tiny"), range(args.seeds)
    with ThreadPoolExecutor(args.side_by_side) as pool:
        list(pool.map(lambda job: train(*job), [(model, seed) for seed in seeds for model in reversed(models)]))
    print(f"{datetime.date.today()}, {platform.machine()}, one thread a run, torch {torch.__version__}\n")
    print("| model | parameters | test accuracy, % (mean ± std) | each seed | training, s | firing rate, % |")
    print("|---|---|---|---|---|---|")
    for model in models:
        print(row(model, seeds), flush=True)


if __name__ == "__main__":
    main()
