"""Errors that name the argument, the value and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def unknown(what: str, value: object, known: Iterable[object]) -> ValueError:
    """A ValueError for a name that is not among `known`: with the nearest ones, or all where none is near."""
    names = sorted(map(str, known))
    hint = f"did you mean {' or '.join(near)}?" if (near := nearest(value, names)) else f"known: {', '.join(names)}"
    return ValueError(f"unknown {what} {value!r}; {hint}")


def nearest(value: object, names: Iterable[str], most: int = 3, cutoff: float = 0.5) -> list[str]:
    """The names that are most like a value, or begin with it, the nearest first; capital letters do not matter."""
    lower: dict[str, list[str]] = {}
    for name in names:
        lower.setdefault(name.lower(), []).append(name)
    text = str(value).lower()
    begin = [name for name in lower if len(text) > 2 and name.startswith(text)]
    near = difflib.get_close_matches(text, lower, n=most, cutoff=cutoff)
    found = dict.fromkeys([*begin, *near])
    return [name for key in found for name in lower[key]][:most]


def refuse_non_finite(tensors: Mapping[str, Any], what: str) -> None:
    """A ValueError where a tensor holds NaN or infinity: spikes would swallow it, and nothing would show it."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(
            f"{what}: {len(bad)} of {len(tensors)} tensors are not finite (NaN or infinite): {', '.join(bad[:3])}{more}"
        )


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
