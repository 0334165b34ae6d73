"""spikevit report: one HTML file that shows what a run did, or several runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spikevit.cli.source import add_device, check_numbers, device_of, progress

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
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the report and says where it is."""
    check_numbers(args, "images", "count_images")
    options: dict[str, Any] = {"root": args.root, "device": device_of(args)}
    options |= {"images": args.images, "count_images": args.count_images, "constants": args.constants}
    show(write(args.runs, args.out, **options))
    return 0


def write(runs: list[str], out: str | None = None, **options: Any) -> Path:
    """Writes the report, with progress on a terminal."""
    from spikevit.report.html import write_report

    with progress("looking") as told:
        return write_report(runs, out, progress=told, **options)


def show(path: Path) -> None:
    """Where it is."""
    from spikevit.report.terminal import console

    console().print(f"Report: {path}", soft_wrap=True)


def attempt(
    path: str | Path | list[Path], root: str | None = None, device: str = "auto", out: str | Path | None = None
) -> None:
    """The report of a run, or of several, at the end of another verb, whose result does not depend on it: what fails is
    said, and no more.
    """
    from spikevit.report.terminal import console

    runs = [str(one) for one in (path if isinstance(path, list) else [path])]
    try:
        show(
            write(
                runs, None if out is None else str(out), root=root, device=device_of(argparse.Namespace(device=device))
            )
        )
    except Exception as error:
        console(stderr=True).print(f"spikevit: no report: {' '.join(str(error).split())}", soft_wrap=True)
