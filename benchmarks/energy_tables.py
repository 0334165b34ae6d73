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
    def row(name: str, cells) -> None:
        print(f"| {name} | {' | '.join(cells)} |")

    row("", NAMES)
    print(f"|---|{'---:|' * len(reports)}")
    for name in reports[0].costs:
        row(name, (f"{r.costs[name].energy.mj * 1e3:.3g}" for r in reports))
    print()
    row("", NAMES)
    print(f"|---|{'---:|' * len(reports)}")
    row("neurons fire, % of steps", (f"{100 * r.counts.firing_rate:.1f}" for r in reports))
    row("products without a zero factor, %", (f"{100 * r.counts.activity:.1f}" for r in reports))
    opponents = [r.opponents() for r in reports]
    for i, kind in enumerate(("ANN", "ANN, zeros skipped", "n-bit ANN", "n-bit ANN, zeros skipped")):
        row(f"spikes ÷ {kind}", (f"{rows[i]['ratio']:.2f}" for rows in opponents))
    for i, kind in enumerate(("ANN", "ANN, zeros skipped", "n-bit ANN", "n-bit ANN, zeros skipped")):
        row(f"with memory: spikes ÷ {kind}", (f"{rows[i]['memory_ratio']:.2f}" for rows in opponents))
    for i, kind in ((0, "ANN"), (2, "n-bit ANN")):
        row(f"as much as the {kind} at × the activity", (f"{rows[i]['activity']:.2f}" for rows in opponents))
        rates = (rows[i]["firing_rate"] for rows in opponents)
        row("that is, neurons fire at, %", ("–" if rate is None else f"{100 * rate:.1f}" for rate in rates))


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
