"""Sweeps: a run for each combination of values, side by side in one directory.

spikevit train digits optimizer.lr=1e-3,5e-3 trainer.seed=0,1
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from spikevit.errors import inside
from spikevit.files import parse_yaml, read_yaml, write_text
from spikevit.schema import fit, wrong
from spikevit.training.recipe import load_recipe
from spikevit.training.run import Interrupted, check, new_run, train

FILE = "sweep.yaml"  # names of the runs, in their order


def values(text: str) -> list[str]:
    """The values in "1e-3,5e-3": what stands between commas, but for those in brackets, braces and quotes."""
    found, depth, quote = [""], 0, ""
    for c in text:
        if c == "," and not depth and not quote:
            found.append("")
            continue
        if c in "'\"" and quote in ("", c):
            quote = "" if quote else c
        elif not quote:
            depth += (c in "[{") - (c in "]}")
        found[-1] += c
    return found


def combinations(changes: Sequence[str]) -> dict[str, list[str]]:
    """The changes of each run, by its name: "optimizer.lr=0.001,trainer.seed=0". One without a name is no sweep.

    Raises:
        ValueError: a list with an empty value, or with one that comes twice.
    """
    pairs = [change.partition("=") for change in changes]
    several = {key: found for key, _, text in pairs if len(found := values(text)) > 1}
    runs: dict[str, list[str]] = {}
    for chosen in product(*several.values()):
        now = dict(zip(several, chosen, strict=True))
        name = ",".join(f"{key}={_plain(key, text)}" for key, text in now.items())
        if name in runs:
            raise ValueError(f"{name}: a value comes twice")
        runs[name] = [f"{key}={now[key]}" if key in now else f"{key}{equals}{text}" for key, equals, text in pairs]
    return runs


def _plain(key: str, text: str) -> str:
    """A value as a name of a directory has it."""
    value = parse_yaml(text, f"{key}={text}: the value is not valid YAML")
    if not text.strip():
        raise ValueError(f"{key}: there is an empty value between commas")
    return str(value if not isinstance(value, (list, dict)) else json.dumps(value)).replace("/", "_").replace(" ", "")


def new_sweep(source: str | Path, runs: dict[str, list[str]], directory: str | Path) -> None:
    """Makes the directory of each run, once all recipes are known to fit model, data and training.

    Raises:
        ValueError: what does not fit, by run, or a directory that is in use. Nothing is made before.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is not empty; take another directory, or go on with --resume {directory}")
    recipes = {}
    for name, changes in runs.items():
        with inside(name):
            recipe = recipes[name] = load_recipe(source, changes)
            if recipe.trainer.fast_dev_run:
                tried = str(recipe.trainer.fast_dev_run).lower()
                raise ValueError(f"trainer.fast_dev_run={tried} tries one recipe: leave the lists of values out")
            for field in ("devices", "nodes"):
                if (value := getattr(recipe.trainer, field)) > 1:
                    raise wrong(f"trainer.{field}", value, f"trainer.{field}=1: a sweep is of recipes for one process")
            check(recipe, directory / name)
    for name, recipe in recipes.items():
        new_run(recipe, directory / name)
    write_text(directory / FILE, yaml.safe_dump(list(runs)))


def is_sweep(directory: str | Path) -> bool:
    """Whether it is the directory of a sweep."""
    return (Path(directory) / FILE).is_file()


def train_all(
    directory: str | Path, *, progress: bool = True, say: Callable[[str], Any] = lambda line: None
) -> dict[str, dict[str, Any] | Exception]:
    """Trains every run of a sweep that has not ended; one that fails does not stop the others.

    Returns:
        By run, in their order, what is in results.json, or what stopped it.

    Raises:
        Interrupted: Ctrl-C or a signal; `train_all(directory)` goes on.
    """
    directory = Path(directory)
    names = fit(read_yaml(directory / FILE, "the list of a sweep"), list[str], str(directory / FILE))
    found: dict[str, dict[str, Any] | Exception] = {}
    for i, name in enumerate(names, 1):
        results = directory / name / "results.json"
        say(f"{i} of {len(names)}: {name}{' has ended' if results.is_file() else ''}")
        try:
            found[name] = (
                json.loads(results.read_text("utf-8"))
                if results.is_file()
                else train(directory / name, progress=progress)
            )
        except Interrupted:
            raise Interrupted(f"stopped; go on with: spikevit train --resume {directory}") from None
        except Exception as error:
            found[name] = error
            say(f"{name}: {type(error).__name__}: {error}")
    return found
