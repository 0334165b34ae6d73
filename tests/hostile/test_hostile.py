"""A sample of every campaign; the whole of it is `python -m tests.hostile`."""

import os

import pytest

from tests.hostile.__main__ import CAMPAIGNS, load
from tests.hostile.mutations import is_fault, outcome

HERE = [name for name in CAMPAIGNS if name != "files of runs"]  # which has tests of its own


@pytest.mark.parametrize("name", HERE)
def test_sample(name):
    place, count = CAMPAIGNS[name]
    failures: list = []
    found = load(place)(max(60, count // 25), seed=1, failures=failures)
    assert sum(found.values()) >= 60 and not failures, failures[:5]
    assert len(found) > 1, "some are refused, some are not: the damage is neither all nor nothing"


@pytest.mark.parametrize(
    ("read", "result"),
    [
        (lambda: "accepted", "accepted"),
        (lambda: int("x"), "refused"),
        (lambda: os.stat("/none"), "refused"),
        (lambda: {}["x"], "TRACEBACK KeyError"),
        (lambda: exec("while True: pass"), "HANG"),
    ],
)
def test_outcomes(read, result, monkeypatch):
    """The judge itself: what it takes for a fault."""
    monkeypatch.setattr("tests.hostile.mutations.SECONDS", 0.5)
    assert outcome(read) == result
    assert is_fault(result) == result.isupper() or result.startswith("TRACEBACK")
