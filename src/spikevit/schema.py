"""Plain values of files (YAML, JSON) as typed ones: the one place where they are checked.

A dataclass that inherits `Checked` checks its fields as it is made, by whomever; `read` makes one of a mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from inspect import get_annotations, signature
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spikevit.errors import nearest, unknown

T = TypeVar("T")
NUMBERS = {int: "a whole number", float: "a number"}
WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    Sequence: "a list",
    dict: "a mapping",
    Mapping: "a mapping",
}


@dataclass(frozen=True)
class Range:
    """Bounds of a number, as in Annotated[float, Range(0, 1)]. above, below: without the bound itself."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, x: Any) -> bool:
        return not (
            (self.least is not None and x < self.least)
            or (self.most is not None and x > self.most)
            or (self.above is not None and x <= self.above)
            or (self.below is not None and x >= self.below)
        )

    def __str__(self) -> str:
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        text = " and ".join(f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None)
        return f"of {text}" if text.startswith("at") else text


Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]


class Checked:
    """A dataclass whose fields are what their types say, or making it raises a ValueError that names the field."""

    def __post_init__(self) -> None:
        for name, kind in hints(type(self)).items():
            object.__setattr__(self, name, fit(getattr(self, name), kind, name))


def read(kind: type[T], plain: Any, where: str = "") -> T:
    """A dataclass from a mapping of its fields; `where` is what the mapping is called in errors.

    Raises:
        ValueError: no mapping; a field that is missing, unknown (with the nearest ones) or of another type.
    """
    known = hints(kind)
    if not isinstance(plain, Mapping):
        raise wrong(where or kind.__name__, plain, f"a mapping of {', '.join(known)}")
    prefix = f"{where}." if where else ""
    for key in plain:
        if key not in known:
            raise _unknown_key(key, known, prefix)
    if missing := [f.name for f in _fields(kind) if f.name not in plain and _needed(f)]:
        raise ValueError(f"{where or kind.__name__} lacks {', '.join(missing)}")
    values = {key: fit(value, known[key], f"{prefix}{key}") for key, value in plain.items()}
    try:
        return kind(**values)
    except ValueError as error:  # of values that do not fit together, which knows no more than the field's own name
        if not where or where in str(error):
            raise
        raise ValueError(f"{where}: {error}") from None


def _unknown_key(key: Any, known: Mapping[str, Any], prefix: str) -> ValueError:
    """The error of a key that is no field: with the field of that name below, or else the nearest ones.

    Where neither is there, with all fields; and one that takes any keys may be meant.
    """
    near = [f"{prefix}{name}.{key}" for name, k in known.items() for d in _dataclasses(k) if key in hints(d)]
    if near := near or [f"{prefix}{name}" for name in nearest(key, known, cutoff=0.6)]:
        return unknown("key", f"{prefix}{key}", near)
    free = [f"{prefix}{name}.{key}" for name, k in known.items() if get_origin(k) is dict]
    maybe = f"did you mean {' or '.join(free)}? " if free else ""
    return ValueError(f"unknown key {f'{prefix}{key}'!r}; {maybe}known: {', '.join(f'{prefix}{n}' for n in known)}")


def fit(value: Any, kind: Any, where: str) -> Any:
    """The value as a `kind`, which is a type as annotations have it: lists become tuples, mappings dataclasses.

    Raises:
        ValueError: it is none: names `where`, the value and what would be right.
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        right = f"{NUMBERS[args[0]]} {args[1]}"
        try:
            number = fit(value, args[0], where)
        except ValueError:
            raise wrong(where, value, right) from None
        if number not in args[1]:
            raise wrong(where, value, right)
        return number
    if origin in (Union, UnionType):
        return _one_of(value, args, where)
    if origin is Literal:
        if value in args and type(value) in map(type, args):
            return value
        raise unknown(where, value, args) if isinstance(value, str) else wrong(where, value, _described(kind))
    if isinstance(kind, type) and is_dataclass(kind):
        return value if isinstance(value, kind) else read(kind, value, where)
    if kind in (int, float):
        return _number(value, kind, where)
    if (origin or kind) in (tuple, list, Sequence):
        if not isinstance(value, (list, tuple)):
            raise wrong(where, value, _described(kind))
        return _items(value, kind, where)
    if (origin or kind) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise wrong(where, value, "a mapping")
        names, values = args or (Any, Any)
        return {fit(k, names, f"key of {where}"): fit(v, values, f"{where}.{k}") for k, v in value.items()}
    if kind in (str, bool) and type(value) is not kind:
        raise wrong(where, value, WORDS[kind])
    return value


def options(function: Callable[..., Any], plain: Any, where: str) -> dict[str, Any]:
    """Keyword arguments of a function from a mapping, each as its annotation says; those of its ** are its own matter.

    Raises:
        ValueError: a name that the function does not take, or a value of another type.
    """
    types = get_type_hints(function, include_extras=True)
    parameters = list(signature(function).parameters.values())[1:]
    known = {p.name: types.get(p.name, Any) for p in parameters if p.kind is not p.VAR_KEYWORD}
    for key in plain:
        if not isinstance(key, str) or (key not in known and len(known) == len(parameters)):
            raise unknown(f"option of {where}", key, known)
    return {key: fit(value, known.get(key, Any), f"{key} of {where}") for key, value in plain.items()}


def wrong(where: str, value: Any, right: str) -> ValueError:
    """The error of a value that is not `right`."""
    text = " ".join(repr(value).split())
    return ValueError(f"{where}={text if len(text) <= 80 else text[:77] + '...'} must be {right}")


def of_kind(where: str, value: Any, kind: type | tuple[type, ...], right: str) -> Any:
    """The value, which must be a `kind`, in words: `right`."""
    if not isinstance(value, kind):
        raise wrong(where, value, right)
    return value


def positive(where: str, value: Any, above: float = 0) -> Any:
    """The value, a finite number (of any kind, such as a tensor) that is greater than `above`, or a ValueError."""
    try:
        fine = isfinite(value) and value > above
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise wrong(where, value, f"a finite number greater than {above:g}")
    return value


def hints(kind: Any) -> dict[str, Any]:
    """The type of each field of a dataclass that is given to make one."""
    return _hints(kind)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    try:
        types = get_type_hints(kind, include_extras=True)
    except NameError:  # a name that only its own module or function knows: that field is not checked, the others are
        classes = [c for c in reversed(kind.__mro__) if c is not object]
        types = {name: _hint(c, name, t) for c in classes for name, t in get_annotations(c).items()}
    return {f.name: types[f.name] for f in _fields(kind)}


def _hint(kind: type, name: str, annotation: Any) -> Any:
    """The type of one annotation of a class; Any where a name in it is not known."""
    alone = type(kind.__name__, (), {"__annotations__": {name: annotation}, "__module__": kind.__module__})
    try:
        return get_type_hints(alone, include_extras=True)[name]
    except NameError:
        return Any


def _fields(kind: Any) -> list[Field]:
    return [f for f in fields(kind) if f.init]


def _needed(f: Field) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _dataclasses(kind: Any) -> list[Any]:
    """The dataclasses that a type names."""
    return [k for k in (kind, *get_args(kind)) if is_dataclass(k)]


def _number(value: Any, kind: type, where: str) -> Any:
    """A whole or finite number, of NumPy too, as Python's own; true and false are none."""
    numbers = Integral if kind is int else Real
    try:
        found = kind(value) if isinstance(value, numbers) and not isinstance(value, bool) else None
    except (OverflowError, ValueError):  # of 10^400
        found = None
    if found is None or (kind is float and not isfinite(found)):
        raise wrong(where, value, WORDS[kind])
    return found


def _one_of(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not NoneType:
            try:
                return fit(value, kind, where)
            except ValueError as error:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise wrong(where, value, " or ".join(map(_described, kinds)))


def _items(value: Any, kind: Any, where: str) -> Any:
    """A list or tuple, each entry as its type."""
    origin, args = get_origin(kind) or kind, get_args(kind)
    if origin is tuple and args and Ellipsis not in args:
        if len(value) != len(args):
            raise wrong(where, value, _described(kind))
        kinds = args
    else:
        kinds = (args[0] if args else Any,) * len(value)
    made = tuple if origin is Sequence else origin
    return made(fit(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))


def _described(kind: Any) -> str:
    """A type in words: "a list of 2 whole numbers"."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is NoneType:
        return "null"
    if origin is Annotated:
        return f"{NUMBERS[args[0]]} {args[1]}"
    if origin is Literal:
        return " or ".join(map(repr, args))
    if (origin or kind) in (tuple, list, Sequence) and args:
        many = "" if origin is not tuple or Ellipsis in args else f" of {len(args)}"
        return f"a list{many}, each {_described(args[0])}"
    return WORDS.get(origin or kind, getattr(kind, "__name__", str(kind)))
