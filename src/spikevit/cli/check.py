"""spikevit check: whether every product of a model is an accumulate, and why not."""

from __future__ import annotations

import argparse

from spikevit.cli.source import add_source, load_source

EXAMPLE = """examples:
  spikevit check stmixer_tiny --rule asynchronous
  spikevit check runs/digits-1/best.safetensors --rule accumulate-only --all"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, images, rules."""
    add_source(parser, images=16, batch_size=16)
    parser.add_argument(
        "--rule",
        action="append",
        metavar="NAME|FILE",
        help="accumulate-only (default), asynchronous, integer-spikes-allowed, or a YAML file; may be repeated",
    )
    parser.add_argument("--all", action="store_true", help="show what passes, too")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints every verdict that is not a pass, by rule; 1 where there is one."""
    import json

    from spikevit.profiling.check import check, load_rule
    from spikevit.profiling.count import count
    from spikevit.report.terminal import alarms, console, verdicts

    rules = [load_rule(name) for name in args.rule or ["accumulate-only"]]
    source = load_source(args)
    counts = count(source.model, source.batches())
    checks = [check(counts, rule) for rule in rules]
    if args.json:
        answer = {"data": source.about, "at_chance": source.at_chance(), "checks": [c.to_dict() for c in checks]}
        print(json.dumps(answer, indent=2))
    else:
        shown = console()
        shown.print(alarms(source.at_chance()), end="")
        for c in checks:
            shown.print(verdicts(c, show_all=args.all))
        shown.print(f"On {source.about}.", style="dim")
    return 0 if all(c.passed for c in checks) else 1
