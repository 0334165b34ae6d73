"""What the tables say of every model: energies, published figures, and the verdicts of the check."""

import re
from pathlib import Path

import pytest
import torch

from spikevit import convert, create_model, list_models
from spikevit.cli import models as verb
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.check import check, load_rule
from spikevit.profiling.conventions import Energy
from spikevit.profiling.count import count, count_shapes
from spikevit.profiling.published import published_energies, published_energy

README = (Path(__file__).parents[2] / "README.md").read_text()


def shapes(name: str, **config):
    with torch.device("meta"):
        return count_shapes(create_model(name, **config).eval())


def first_convolution(counts) -> int:
    return counts.time_steps * sum(c.macs for c in counts.operators if c.stem)


def test_a_row():
    r = verb.row("sdt_8_768")
    assert (r.gmac, r.ann, r.energy, r.quirks) == ("73.66", "83.92", "6.09", "")
    assert verb.row("stmixer_tiny").quirks == "‡" and not verb.row("stmixer_tiny").energy


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_table_fits(width, monkeypatch, capsys):
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as captured:
        console.print(verb.table(list_models("*_10_768") + list_models("msvit_4*")))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert any("msvit_4_384_channel †   7,445,956    32×32" in line for line in lines)
    assert "38.91 mJ" in captured.get()


def test_gmac_are_those_of_all_steps_with_one_first_convolution():
    """STMixer at T = 1 and Spikformer 2-384 at T = 4, by hand from their shapes."""
    t, d, n = 4, 384, 8 * 8
    stem = 32**2 * 27 * 48
    maps = 9 * (32**2 * 48 * 96 + 32**2 * 96 * 192 + 16**2 * 192 * 384 + n * 384 * 384)
    block = 4 * n * d * d + 8 * n * d * d + 2 * 12 * n * (d // 12) ** 2
    assert verb.row("spikformer_2_384").gmac == f"{(stem + t * (maps + 2 * block + d * 10)) / 1e9:.2f}"


def test_published_energies_are_of_registered_models():
    assert {entry.model for entry in published_energies()} <= set(list_models())
    assert published_energy("qkformer_10_768").mj == 38.91, "of its own configuration, not of another size"
    assert published_energy("spikformer_tiny") is None


@pytest.mark.parametrize("entry", [e for e in published_energies() if e.gsop], ids=lambda e: e.model)
def test_published_energies_follow_from_published_operations(entry):
    macs = first_convolution(shapes(entry.stem_of or entry.model))
    if entry.stem_gmac:
        assert entry.stem_gmac * 1e9 == pytest.approx(macs, rel=1e-3)
    assert Energy(macs=macs, acs=entry.gsop * 1e9).mj == pytest.approx(entry.mj, rel=1e-3)


FAMILIES = {
    re.search(r"`(\w+)`", cells[1]).group(1) if "`" in cells[1] else cells[1].strip().lower(): cells[5:7]
    for cells in (
        line.split("|") for line in README.splitlines() if re.match(r"\| \S.* \| \S* et al|.*code of 2025", line)
    )
}


def test_the_readme_names_every_family_of_the_check():
    assert set(FAMILIES) == {"spikformer", "spikingformer", "sdt", "qkformer", "msvit", "stmixer", "ge2mst"}


@pytest.mark.parametrize("family", FAMILIES)
def test_verdicts_of_the_readme(family):
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    model = calibrate(create_model(f"{family}_tiny"), images)
    if family == "ge2mst":
        model, _ = convert(model, images)
    counts = count(model, images)
    for rule, said in zip(("accumulate-only", "asynchronous"), FAMILIES[family], strict=True):
        verdict = check(counts, load_rule(rule))
        assert said.strip().startswith("yes" if verdict.passed else "no")
        reasons = " ".join(v.reason for v in verdict.verdicts if not v.passed)
        for word in ("sums of spikes", "averages", "max pools", "products of"):
            shown = {"sums of spikes": "sum of spikes", "averages": "average", "max pools": "max pool"}
            assert (word in said) <= (shown.get(word, "product of two") in reasons)
