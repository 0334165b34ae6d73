"""spikevit profile: what a model costs, by every convention side by side."""

from __future__ import annotations

import argparse

from spikevit.cli.source import add_source, load_source

EXAMPLE = """examples:
  spikevit profile runs/digits-1/best.safetensors
  spikevit profile spikformer_4_384 --images 4 --constants int8
  spikevit profile runs/digits-1/best.safetensors --json report.json --csv layers.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, images, constants, and where to write."""
    add_source(parser, images=100, batch_size=1)
    parser.add_argument("--constants", default="fp32", help="fp32, fp16, int8, or a YAML file (default: fp32, 45 nm)")
    parser.add_argument("--json", metavar="FILE", help="write everything there; - prints it instead of the tables")
    parser.add_argument("--csv", metavar="FILE", help="write the table of layers there")


def run(args: argparse.Namespace) -> int:
    """Prints tables of layers and totals; writes them where asked to."""
    import json

    from spikevit.files import refuse_existing, text_writer, write_together
    from spikevit.profiling.constants import load_constants
    from spikevit.profiling.profile import profile
    from spikevit.report.terminal import alarms, console

    to_file = None if args.json == "-" else args.json
    refuse_existing({"--json": to_file, "--csv": args.csv})
    constants = load_constants(args.constants)
    source = load_source(args)
    report = profile(source.model, source.batches(), constants=constants)
    at_chance = source.at_chance()
    text = json.dumps(report.to_dict() | {"data": source.about, "at_chance": at_chance}, indent=2) + "\n"
    files = {path: text_writer(t) for path, t in ((to_file, text), (args.csv, report.to_csv())) if path}
    write_together(files)
    if args.json == "-":
        print(text, end="")
    else:
        shown = console()
        shown.print(report)
        shown.print(alarms(at_chance), end="")
        shown.print(f"On {source.about}.", style="dim")
    return 0
