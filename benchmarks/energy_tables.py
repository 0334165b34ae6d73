"""What trained networks cost beside the same networks without spikes: the tables of docs/explanation/energy.md.

    python benchmarks/digits_zoo.py --seeds 1                    # trains six of the families, in runs/digits_zoo
    spikevit demo --out runs/demo                                # and Ge²mS-T, as spikes
    python benchmarks/energy_tables.py

Each network is profiled on the first 100 test images of digits, with fp32 constants.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

import spikevit
from spikevit.data import load_data, normalise
from spikevit.profiling.profile import Report, profile

FAMILIES = ("spikformer", "spikingformer", "sdt", "qkformer", "msvit", "stmixer")
NAMES = ("Spik&shy;former", "Spiking&shy;former", "SDT", "QK&shy;Former", "MSViT", "ST&shy;Mixer", "Ge²mS-T")


def conventions(report: Report) -> None:
    print("| | M MAC | M AC | µJ an image | ± over images |\n|---|---:|---:|---:|---:|")
    for name, cost in report.costs.items():
        e = cost.energy
        print(f"| `{name}` | {e.macs / 1e6:.3f} | {e.acs / 1e6:.3f} | {e.mj * 1e3:.2f} | {cost.spread * 1e3:.2f} |")
    for name, b in report.baselines.items():
        print(f"| the same network: {name} | {b.energy.macs / 1e6:.3f} | {b.energy.acs / 1e6:.3f} |", end="")
        print(f" {b.energy.mj * 1e3:.2f} | |")


def side_by_side(reports: list[Report]) -> None:
    row("", NAMES)
    print(f"|---|{'---:|' * len(reports)}")
    for name in reports[0].costs:
        row(name, (f"{r.costs[name].energy.mj * 1e3:.3g}" for r in reports))
    kinds = ("ANN", "ANN, zeros skipped", "n-bit ANN", "n-bit ANN, zeros skipped")
    print()
    row("spikes ÷", ("neurons fire, %", "products without a zero, %", *kinds))
    print(f"|---|{'---:|' * 6}")
    for name, r in zip(NAMES, reports, strict=True):
        rates = (f"{100 * rate:.1f}" for rate in (r.counts.firing_rate, r.counts.activity))
        row(name.replace("&shy;", ""), (*rates, *(f"{o['ratio']:.2f}" for o in r.opponents())))
    print()
    row("with memory: spikes ÷", (*kinds, "as much as the ANN at, %", "as much as the n-bit ANN at, %"))
    print(f"|---|{'---:|' * 6}")
    for name, r in zip(NAMES, reports, strict=True):
        opponents = r.opponents()
        rates = ("–" if (o := opponents[i]["firing_rate"]) is None else f"{100 * o:.1f}" for i in (0, 2))
        row(name.replace("&shy;", ""), (*(f"{o['memory_ratio']:.2f}" for o in opponents), *rates))


def row(name: str, cells: Iterable[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("runs/digits_zoo"), help="runs of digits_zoo.py")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="directory of the demo's run")
    args = parser.parse_args()
    data = load_data("digits")
    images = normalise(data.split("test").images[:100], data.info)
    files = [args.zoo / f"{family}_tiny-0/best.safetensors" for family in FAMILIES] + [
        args.demo / "spiking.safetensors"
    ]
    reports = [profile(spikevit.load_model(file).eval(), images.split(1)) for file in files]
    print(
        f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, spikevit {spikevit.__version__}\n"
    )
    conventions(reports[0])
    print()
    side_by_side(reports)


if __name__ == "__main__":
    main()
