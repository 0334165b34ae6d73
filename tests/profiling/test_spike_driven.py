"""`spikevit.check`: the check in one call, and always the function of that name."""

import subprocess
import sys
from io import StringIO

import pytest
import torch
from firing import firing, images
from rich.console import Console

import spikevit
from spikevit.profiling.check import Check, load_rule

ALWAYS = """
import spikevit
for name in ("spikevit.profiling.check", "spikevit.cli.check", "spikevit.profiling.spike_driven", "spikevit.cli.main"):
    __import__(name)
    assert type(spikevit.check).__name__ == "function" and "check" not in vars(spikevit), name
from spikevit import check
from spikevit import *
assert check is spikevit.check
import torch
model = spikevit.create_model("spikformer_tiny")
assert spikevit.check(model, torch.randn(1, 3, 32, 32)).verdicts
"""


def test_it_is_the_function_whatever_was_imported():
    done = subprocess.run([sys.executable, "-c", ALWAYS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_verdicts():
    """Spikformer adds spikes up, and multiplies their sums: whole numbers, no spikes."""
    model, x = firing(), images()
    found = spikevit.check(model, x)
    assert isinstance(found, Check) and not found.passed and found.rule == load_rule("accumulate-only")
    assert spikevit.check(model, x, "integer-spikes-allowed").passed
    again = spikevit.check(model, [(x, torch.arange(len(x)))], load_rule("accumulate-only"))
    assert again == found
    console = Console(width=100, record=True, file=StringIO())
    console.print(found)
    assert "values up to" in console.export_text()


def test_wrong_words():
    with pytest.raises(ValueError, match="unknown rule 'accumulate'; did you mean accumulate-only"):
        spikevit.check(firing(), images(), "accumulate")
    with pytest.raises(ValueError, match="images must be a tensor; got NoneType"):
        spikevit.check(firing(), None)
