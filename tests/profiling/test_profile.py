"""The report: complete, as JSON, as CSV and on terminals of any width."""

import csv
import io
import json

import pytest
import torch
from firing import firing, images
from rich.console import Console
from torch import nn

from spikevit import profile
from spikevit.profiling.check import check, load_rule
from spikevit.profiling.conventions import CONVENTIONS, paper
from spikevit.profiling.profile import Report
from spikevit.report.terminal import verdicts


@pytest.fixture(scope="module")
def report() -> Report:
    torch.manual_seed(0)
    return profile(firing("spikformer_tiny"), images(3).split(1))


def test_as_plain_values(report):
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (found["model"], found["note"]) == ("spikformer_tiny", "model, not measurement")
    assert (found["images"], found["time_steps"]) == (3, 4)
    assert found["constants"]["add"] == 0.9 and found["constants"]["mac"] == pytest.approx(4.6)
    assert list(found["conventions"]) == list(CONVENTIONS)
    assert {"paper", "exact", "syops", "neurobench", "memory"} < set(found["conventions"])
    for name, cost in found["conventions"].items():
        assert cost.keys() == {"mj", "mj_spread", "macs", "acs", "shifts"}
        assert cost["mj"] == report.costs[name].energy.mj > 0 and cost["mj_spread"] > 0
    assert list(found["baselines"]) == ["ANN", "ANN, zeros skipped", "3-bit ANN", "3-bit ANN, zeros skipped"]
    exact, memory = (found["conventions"][name]["mj"] for name in ("exact", "memory"))
    for opponent in found["baselines"].values():
        assert opponent["ratio"] == pytest.approx(exact / opponent["mj"])
        assert opponent["memory_ratio"] == pytest.approx(memory / opponent["memory_mj"])
    assert report.fairest == "3-bit ANN, zeros skipped"
    assert found["neurobench"].keys() == {
        *("footprint", "connection_sparsity", "activation_sparsity", "membrane_updates"),
    }
    assert len(found["neurons"]) == 15 and all(0 < n["rate"] < 1 and n["updates"] > 0 for n in found["neurons"])
    assert found["uncounted"] == [] and {"add", "max pool", "mean"} <= {o["operator"] for o in found["uncharged"]}


def test_layers_add_up(report):
    layers = report.layers()
    assert len(layers) == len(report.counts.operators) + 2 == 20
    assert [row["module"] for row in layers if row["operator"] == "shift"] == ["blocks.0.attn", "blocks.1.attn"]
    exact = report.costs["exact"].energy
    for key, total in (("macs", exact.macs), ("acs", exact.acs), ("shifts", exact.shifts), ("exact_mj", exact.mj)):
        assert sum(row[key] for row in layers) == pytest.approx(total), key
    assert sum(row["paper_mj"] for row in layers) == pytest.approx(paper(report.counts).mj)
    assert sum(row["dense"] for row in layers) * 3 == report.counts.macs
    assert layers[0]["module"] == "patch_embed.proj.0" and layers[0]["operands"][0]["made_by"] == "image"
    assert layers[1]["operands"] == [
        {"class": "binary", "unit": 1.0, "top": 1, "rate": report.counts.operators[1].rate(), "made_by": "neuron"}
    ]


def test_csv(report):
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["module"] for row in rows] == [row["module"] for row in report.layers()]
    assert sum(float(row["exact_mj"]) for row in rows) == pytest.approx(report.costs["exact"].energy.mj)
    (first, second) = (row for row in rows if row["module"] == "blocks.0.attn" and row["operator"] == "matmul")
    assert (first["operand_class"], second["operand_class"]) == ("binary × binary", "integer × binary")
    assert len(first["operand_rate"].split(" × ")) == 2


def printed(what, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(what)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_terminal(report, width):
    text = printed(report, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "model, not measurement" in " ".join(text.split())
    for row in report.layers():
        assert row["module"] in text, "modules are shown whole"
    assert "NOT COUNTED" not in text and "0.9 pJ" in text and "zeros" in text
    for rule in ("asynchronous", "integer-spikes-allowed"):
        for show_all in (True, False):
            assert rule in printed(verdicts(check(report.counts, load_rule(rule)), show_all=show_all), width)


def test_what_is_not_counted_is_shown():
    class FFT(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real

    found = profile(nn.Sequential(nn.Linear(8, 8), FFT()), torch.randn(2, 8))
    text = printed(found, 100)
    assert "NOT COUNTED: operator _fft_r2c in 1, 1 calls" in text and found.model == "Sequential"
    assert found.to_dict()["uncounted"][0]["module"] == "1"


def test_a_model_without_products():
    found = profile(nn.ReLU(), torch.randn(2, 8), name="nothing")
    assert found.costs["exact"].energy.mj == 0 and found.model == "nothing"
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.to_csv() and printed(found, 80)


def test_constants():
    model, x = firing("spikformer_tiny"), images(1)
    costs = {name: profile(model, x, constants=name).costs["exact"].energy for name in ("fp32", "int8")}
    assert costs["fp32"].acs == costs["int8"].acs and costs["fp32"].mj > 10 * costs["int8"].mj
    with pytest.raises(ValueError, match="unknown constants"):
        profile(model, x, constants="fp33")


def test_bad_input():
    with pytest.raises(ValueError, match="data holds no images"):
        profile(nn.Linear(8, 2), [])
    with pytest.raises(ValueError, match="batch may be a tuple of all its arguments"):
        profile(nn.Bilinear(8, 8, 2), torch.randn(2, 8))
    with pytest.raises(ValueError, match="linear of 1: its input has entries that are not finite"):
        profile(nn.Sequential(nn.Threshold(0, float("nan")), nn.Linear(8, 2)), torch.randn(2, 8))
