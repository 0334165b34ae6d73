"""Our NeuroBench metrics against what NeuroBench itself measured (tests/golden/neurobench.json); it is not needed."""

import json
from pathlib import Path

import pytest
import torch
from firing import recorded

from spikevit import count
from spikevit.layers.fold import fold_batch_norm
from spikevit.profiling.conventions import neurobench
from spikevit.profiling.metrics import metrics

RECORD = json.loads((Path(__file__).parents[1] / "golden" / "neurobench.json").read_text())


@pytest.mark.parametrize("name", RECORD["cases"])
def test_equals_neurobench(name):
    case = RECORD["cases"][name]
    model, x = recorded(case, RECORD["seed"])
    assert list(x.shape) == case["shape"] and x.dtype == getattr(torch, RECORD["dtype"])
    model = fold_batch_norm(model)
    counts = count(model, x.split(case["batch_size"], dim=1 if case["frames"] else 0))
    assert counts.images == case["images"] and not counts.uncounted

    theirs = case["metrics"]
    operations = theirs["SynapticOperations"]
    energy = neurobench(counts)
    total = operations["Effective_MACs"] + operations["Effective_ACs"]
    assert energy.macs + energy.acs == pytest.approx(total, rel=1e-12)
    if not case["binary_image"]:  # a class there differs from batch to batch; ours is one for all
        assert energy.macs == pytest.approx(operations["Effective_MACs"], rel=1e-12)
        assert energy.acs == pytest.approx(operations["Effective_ACs"], rel=1e-12)
    of_modules = [c for c in counts.operators if len(c.operands) == 1 and c.layer]
    assert sum(c.tally.inbounds for c in of_modules) / counts.images == pytest.approx(operations["Dense"], rel=1e-12)

    ours = metrics(model, counts)
    assert ours["footprint"] == theirs["Footprint"]
    assert round(ours["connection_sparsity"], 4) == theirs["ConnectionSparsity"]
    assert ours["activation_sparsity"] == pytest.approx(theirs["ActivationSparsity"], rel=1e-12)
    assert ours["membrane_updates"] >= theirs["MembraneUpdates"], "it leaves out those that change nothing"


def test_sparsity():
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Conv1d(1, 1, 4, bias=False))
    layers[0].weight.data[:3] = 0
    found = metrics(layers, count(layers[0], torch.ones(1, 4)))
    assert found["connection_sparsity"] == 12 / 20 and found["footprint"] == 80
    assert found["activation_sparsity"] == found["membrane_updates"] == 0
