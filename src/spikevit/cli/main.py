"""The command line: `spikevit VERB …`, one verb a file. What a verb needs is imported when it runs."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from spikevit.cli import threads
from spikevit.errors import printable

VERBS = {
    "demo": "train a tiny spiking transformer on real images and look at it",
    "models": "list the models",
    "recipes": "list the recipes, or print one",
    "train": "train a model as a recipe says",
    "eval": "test a checkpoint",
    "predict": "classify images",
    "convert": "turn a trained staircase network into spikes, and prove that nothing changed",
    "plan": "choose levels and codes of each layer: spikes against error",
    "report": "show what a run did, or compare runs, as one HTML file",
    "profile": "show what a model costs, by every convention",
    "check": "check whether every product is an accumulate",
    "doctor": "show versions, devices, backends, and what is missing",
}


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the words."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.register("type", int, _number(int, "a whole number"))
        self.register("type", float, _number(float, "a number"))

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{one_line(message)}; see {self.prog} --help\n")


def _number(kind: type, right: str) -> Callable[[str], Any]:
    """What reads such a number of an option."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} must be {right}") from None

    return read


def one_line(error: object) -> str:
    """An error as the terminal shows it."""
    return f"spikevit: {printable(' '.join(str(error).split()))}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; errors of the user's are one line on stderr and status 2, an interrupted run is 130."""
    from spikevit import __version__

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows its number
            stream.reconfigure(errors="backslashreplace")
    if argv is None:  # not for a caller in Python, whose warnings are its own
        warnings.formatwarning = lambda message, *_: f"{one_line(message)}\n"
    parser = Parser(prog="spikevit", description="Spiking vision transformers.")
    parser.add_argument("--version", action="version", version=f"spikevit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    program = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    for name, summary in VERBS.items():
        module = import_module(f"spikevit.cli.{name}") if name in argv[:1] else None
        verb = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=getattr(module, "EXAMPLE", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if module:
            module.add_arguments(verb)
            verb.add_argument(
                "--import",
                dest="imports",
                action="append",
                default=[],
                metavar="MODULE",
                help="import a module with models of your own first; may be repeated",
            )
            verb.set_defaults(run=module.run)
    args, rest = parser.parse_known_args(argv)
    if rest and not (hasattr(args, "changes") and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}{_as_changes(rest) if hasattr(args, 'changes') else ''}")
    if rest:  # key=value behind an option, where argparse does not look for it
        args.changes += rest
    if program:  # before anything imports torch
        threads.choose()
    try:
        _import(args.imports)
        return args.run(args) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if os.environ.get("SPIKEVIT_TRACEBACK") or not _is_users(error):
            raise
        print(one_line(error), file=sys.stderr)
        return 130 if type(error).__name__ == "Interrupted" else 2


def _as_changes(words: list[str]) -> str:
    """What options that are none would be as changes to a recipe, where it has such fields; "--lr 0.1" in place of
    optimizer.lr=0.1.
    """
    from spikevit.training.recipe import field_names

    meant = []
    for option, value in zip(words, [*words[1:], "…"], strict=True):
        name, _, given = option.removeprefix("--").replace("-", "_").partition("=")
        if option.startswith("--") and (keys := field_names(name)):
            meant.append(f"{keys[0]}={given or value}")
    return f"; a recipe is changed by key=value: {' '.join(meant)}" if meant else ""


def _import(modules: list[str]) -> None:
    """Modules of models from outside: those of SPIKEVIT_IMPORT, separated by commas, and of --import."""
    known = os.environ.get("SPIKEVIT_IMPORT", "").replace(",", " ").split()
    if known or modules:
        from spikevit.models.outside import import_modules

        import_modules(known, "SPIKEVIT_IMPORT")
        import_modules(modules, "--import")


def _is_users(error: Exception) -> bool:
    """Whether an error speaks to the user; SPIKEVIT_TRACEBACK=1 shows where it came from all the same."""
    return isinstance(error, (ValueError, OSError, ImportError)) or type(error).__name__ in (
        "Interrupted",
        "NonFiniteLoss",
    )


if __name__ == "__main__":
    sys.exit(main())
