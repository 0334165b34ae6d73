"""Errors that name the argument, the value and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def unknown(what: str, value: object, known: Iterable[object]) -> ValueError:
    """A ValueError for a name that is not among `known`: with the nearest ones, or all where none is near."""
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return ValueError(f"unknown {what} {value!r}; {hint}")


def printable(text: str) -> str:
    """The text without what steers a terminal: escapes, control characters, directions of writing."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def inside(where: object) -> Iterator[None]:
    """Says where the value of a ValueError stands: "FILE: depth=0 must be …"."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
