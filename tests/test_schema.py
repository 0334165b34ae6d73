"""The reader of plain values: what each type takes, what it refuses, and with which words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from spikevit.schema import Checked, Count, NotNegative, Positive, Range, Share, fit, options, read


@dataclass
class Inner(Checked):
    rate: Share = 0.5
    names: tuple[str, ...] = ()


@dataclass
class Outer(Checked):
    count: Count
    size: tuple[Count, Count] | int = 1
    kind: Literal["a", "b"] = "a"
    lr: Annotated[float, Range(above=0, below=1)] | None = None
    inner: Inner = field(default_factory=Inner)
    free: dict[str, Any] = field(default_factory=dict)
    on: bool = False


def test_lists_become_tuples_and_mappings_dataclasses():
    found = read(Outer, {"count": 2, "size": [3, 4], "inner": {"rate": 1, "names": ["x"]}, "lr": 0.5})
    assert found == Outer(2, (3, 4), "a", 0.5, Inner(1.0, ("x",)), {}, False)
    assert type(found.inner.rate) is float


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "top lacks count"),
        ([], "top=[] must be a mapping of count, size, kind, lr, inner, free, on"),
        ({"count": 0}, "top.count=0 must be a whole number of at least 1"),
        ({"count": True}, "top.count=True must be a whole number of at least 1"),
        ({"count": 1.0}, "top.count=1.0 must be a whole number"),
        ({"count": 1, "size": [1]}, "top.size=[1] must be a list of 2, each a whole number of at least 1 or a whole"),
        ({"count": 1, "kind": "c"}, "unknown top.kind 'c'; known: a, b"),
        ({"count": 1, "kind": 3}, "top.kind=3 must be 'a' or 'b'"),
        ({"count": 1, "lr": 1}, "top.lr=1 must be a number above 0 and below 1"),
        ({"count": 1, "lr": float("nan")}, "top.lr=nan must be a number above 0"),
        ({"count": 1, "inner": {"rate": 1.5}}, "top.inner.rate=1.5 must be a number of at least 0 and at most 1"),
        ({"count": 1, "inner": {"names": [1]}}, "top.inner.names[0]=1 must be text"),
        ({"count": 1, "inner": {"names": "xy"}}, "top.inner.names='xy' must be a list"),
        ({"count": 1, "inner": None}, "top.inner=None must be a mapping of rate, names"),
        ({"count": 1, "rate": 1}, "unknown key 'top.rate'; did you mean top.inner.rate?"),
        ({"count": 1, "cuont": 1}, "unknown key 'top.cuont'; did you mean top.count"),
        ({"count": 1, 3: 1}, "unknown key 'top.3'"),
        ({"count": 1, "on": 1}, "top.on=1 must be true or false"),
        ({"count": 1, "free": []}, "top.free=[] must be a mapping"),
        ({"count": 10**400, "lr": 10**400}, "must be a number above 0"),
        ({"count": "9" * 500}, "999... must be a whole number"),
    ],
)
def test_refusals_name_what_would_be_right(plain, message):
    with pytest.raises(ValueError) as error:
        read(Outer, plain, "top")
    assert message in str(error.value) and len(str(error.value)) < 300


def test_made_in_python_it_is_checked_too():
    with pytest.raises(ValueError, match="rate=2.0 must be a number of at least 0 and at most 1"):
        Inner(rate=2.0)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 10**400, "1", None, True, [1.0]])
@pytest.mark.parametrize("kind", [float, Positive, NotNegative])
def test_numbers_are_finite(value, kind):
    with pytest.raises(ValueError, match="must be a"):
        fit(value, kind, "x")


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (Range(0, 1), (0, 0.5, 1), (-1e-9, 1.1)),
        (Range(above=0), (1e-300, 1e300), (0, -1)),
        (Range(below=1), (-5, 0.999), (1, 2)),
        (Range(), (0, -1e300), ()),
    ],
)
def test_bounds(bounds, inside, outside):
    assert all(x in bounds for x in inside) and not any(x in bounds for x in outside)


def test_options_of_a_function():
    def method(model, rate: float, *, name: str = "x"):
        pass

    assert options(method, {"rate": 1}, "method") == {"rate": 1.0}
    with pytest.raises(ValueError, match="unknown option of method 'rat'; did you mean rate"):
        options(method, {"rat": 1}, "method")
    with pytest.raises(ValueError, match="name of method=1 must be text"):
        options(method, {"name": 1}, "method")
    with pytest.raises(ValueError, match="unknown option of method 'model'"):
        options(method, {"model": 1}, "method")


@pytest.mark.parametrize("items", [[], [1], [1, 1, 1]])
def test_a_sequence_has_any_length(items):
    """As the masks of frozen time steps, by layer."""
    assert fit({"a": items}, Mapping[str, Sequence[int]] | None, "frozen") == {"a": tuple(items)}


@pytest.mark.parametrize(
    ("value", "kind", "plain"),
    [
        (np.float32(0.5), float, 0.5),
        (np.float64(2), float, 2.0),
        (np.int64(3), int, 3),
        (3, float, 3.0),
        (10**400, int, 10**400),
    ],
)
def test_numbers_of_numpy_become_pythons_own(value, kind, plain):
    """As sweeps give them; JSON and YAML would not take them."""
    found = fit(value, kind, "x")
    assert found == plain and type(found) is kind


@pytest.mark.parametrize("value", [np.float64(2), np.bool_(True), np.array([1]), 1.0, "1", True])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="must be a whole number"):
        fit(value, int, "x")
