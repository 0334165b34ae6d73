"""The README keeps its word: its Python runs, its commands exist, what it links to is there."""

import re
from pathlib import Path

import pytest

from spikevit.cli.main import VERBS
from spikevit.training.recipe import load_recipe
from spikevit.training.sweep import combinations

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
COMMANDS = [
    line.split("#")[0].split() for kind, text in BLOCKS if not kind for line in text.splitlines() if line.strip()
]


def test_python():
    (code,) = (text for kind, text in BLOCKS if kind == "python")
    names: dict = {}
    exec(code, names)
    assert names["steps"].shape == (4, 8, 10) and names["logits"].shape == (8, 10)
    assert names["spikes"]["blocks.0.attn.proj_in.lif"].shape == (4, 8, 64, 1152)
    assert all(spikes.any() for spikes in names["spikes"].values()), "what is shown must be alive"


def test_commands():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    verbs = set()
    for program, *words in COMMANDS:
        assert program in ("make", "spikevit", "pip")
        if program == "make":
            assert words[0] in targets
        if program == "spikevit":
            verbs.add(words[0])
        if words[:2] == ["train", "digits"]:
            changes = [word for word in words[2:] if "=" in word]
            assert words[2:] in (changes, [*changes, "--out", words[-1]])
            for one in combinations(changes).values():
                load_recipe("digits", one)
    assert verbs == set(VERBS) - {"demo"}, "each verb is shown once; the demo is `make demo`"


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links(target):
    assert (ROOT / target).exists()
