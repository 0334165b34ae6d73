"""A mistake, how it is made, and whether its answer is a good one."""

from __future__ import annotations

import io
import os
import shlex
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import spikevit
from spikevit.cli.main import main
from spikevit.models import registry
from tests.mistakes.place import make

OURS = str(Path(spikevit.__file__).parent)
HERE = "<mistake>"


class Mistake(NamedTuple):
    """What is done, and three pieces of text that an answer needs: what is wrong, its value, what would be right."""

    name: str
    done: str
    argument: str
    value: str
    right: str


class Place(NamedTuple):
    """The folder, and what makes the names that a user of Python has."""

    folder: Path
    names: Callable[[], dict[str, Any]]


@contextmanager
def place() -> Iterator[Place]:
    """A folder in which mistakes are made, and the current one meanwhile."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Place(Path(folder), make(Path(folder)))
        finally:
            os.chdir(before)


def answer_in_python(mistake: Mistake, place: Place) -> tuple[str, str]:
    """The message, and what is poor about the way it comes, "" where nothing is."""
    names = place.names()
    try:
        exec(compile(mistake.done, HERE, "exec"), names)
    except (ValueError, TypeError, OSError, ImportError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        return str(error), "" if last.startswith((OURS, HERE)) else f"{type(error).__name__} from inside {last}"
    except Exception as error:
        return str(error), type(error).__name__
    return "", "no error"


def answer_on_the_command_line(mistake: Mistake, place: Place) -> tuple[str, str]:
    """As `answer_in_python`."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status: Any = main(shlex.split(mistake.done))
    except SystemExit as end:
        status = end.code
    except Exception as error:
        return str(error), f"{type(error).__name__} with a traceback"
    said = err.getvalue()
    if status != 2:
        return said, f"status {status}"
    return said.removesuffix("\n"), ""


def judge(answer: Callable[[Mistake, Place], tuple[str, str]], mistake: Mistake, place: Place) -> tuple[str, str]:
    """The answer to a mistake, and what is poor about it, "" where it is good."""
    before, known = {*place.folder.rglob("*")}, dict(registry._MODELS)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        said, poor = answer(mistake, place)
    registry._MODELS.clear()
    registry._MODELS.update(known)
    left = sorted({*place.folder.rglob("*")} - before)
    for path in reversed(left):  # for the next mistake to start from the same
        path.rmdir() if path.is_dir() else path.unlink()
    if poor:
        seen = " | ".join(str(w.message) for w in warned)
        return said or seen, f"{poor}, but a warning" if seen and poor == "no error" else poor
    if "\n" in said:
        return said, "several lines"
    lacks = [word for word in mistake[2:] if word not in said]
    if lacks:
        return said, f"lacks {', '.join(map(repr, lacks))}"
    return said, f"leaves {', '.join(path.name for path in left)} behind" if left else ""
