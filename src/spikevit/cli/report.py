"""spikevit report: one HTML file that shows what a run did, or several runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spikevit.cli.source import check_numbers, progress

EXAMPLE = """examples:
  spikevit report runs/digits-1
  spikevit report runs/digits-1 runs/digits_stas-1 runs/digits_exit-1 --out comparison.html
  spikevit report runs/cifar-1 --root /data/cifar10 --images 500"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, and where to write."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the directory of a run, or a .safetensors checkpoint")
    parser.add_argument("--out", help="the report (default: report.html in the run, or here for several runs)")
    parser.add_argument("--root", help="folder of the data set, where it is not that of training")
    parser.add_argument("--images", type=int, default=2000, help="how many to classify, from the first (default: 2000)")
    parser.add_argument("--count-images", type=int, default=16, help="how many to count operations on (default: 16)")
    parser.add_argument("--constants", default="fp32", help="energies: fp32, fp16, int8 or a YAML file (default: fp32)")


def run(args: argparse.Namespace) -> int:
    """Writes the report and says where it is."""
    check_numbers(args, "images", "count_images")
    options = {"images": args.images, "count_images": args.count_images, "constants": args.constants}
    show(write(args.runs, args.out, root=args.root, **options))
    return 0


def write(runs: list[str], out: str | None = None, **options: Any) -> Path:
    """Writes the report, with progress on a terminal."""
    from spikevit.report.html import write_report

    with progress("looking") as told:
        return write_report(runs, out, progress=told, **options)


def show(path: Path) -> None:
    """Where it is."""
    print(f"Report: {path}")


def attempt(path: str | Path, root: str | None = None) -> None:
    """The report at the end of another verb, whose result does not depend on it: what fails is said, and no more."""
    import sys

    try:
        show(write([str(path)], root=root))
    except Exception as error:
        print(f"spikevit: no report: {' '.join(str(error).split())}", file=sys.stderr)
