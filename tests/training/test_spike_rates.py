"""spikes.csv of a training: the rates that the spikes of the converted network really have."""

import csv

import pytest
import torch

from spikevit import convert, load_model, record_spikes
from spikevit.adaptive import add_halting
from spikevit.data import load_data, normalise
from spikevit.profiling.observe import StepRates, observe, step_rates
from spikevit.training.recipe import load_recipe
from spikevit.training.rows import read_rows
from spikevit.training.run import train

SMALL = [
    "schedule.epochs=2",
    "schedule.warmup_epochs=0",
    "model.config.widths=[8,8,32]",
    "model.config.depths=[1,1,1]",
    "model.config.code=[2,2]",
]


def test_rates_are_those_of_the_spikes(tmp_path):
    train(tmp_path / "run", load_recipe("ge2mst_digits", SMALL), progress=False)
    with open(tmp_path / "run" / "spikes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["epoch"] for row in rows} == {"1", "2"}
    data = load_data("digits", image_size=16)
    images, _ = data.split("val").__getitems__(range(len(data.split("val"))))
    x = normalise(images, data.info)
    spiking, _ = convert(load_model(tmp_path / "run" / "last.safetensors"), x[:8])
    spikes = record_spikes(spiking, x)
    last = [row for row in rows if row["epoch"] == "2"]
    assert len(last) == 4 * len(spikes) and {row["layer"] for row in last} == set(spikes)
    for row in last:
        step = (int(row["step"]) - 1) * 2 + int(row["group"]) - 1  # by weight: of both groups in turn
        rate = float(spikes[row["layer"]][step].double().mean())
        assert float(row["rate"]) == pytest.approx(rate, abs=1e-3), row  # float mode: a few codes differ
    assert torch.stack([s.mean() for s in spikes.values()]).max() > 0.05
    with StepRates(load_model(tmp_path / "run" / "last.safetensors")) as counted, torch.no_grad():
        counted.model(x)
    for name, rates in counted.over_time().items():
        assert rates.tolist() == pytest.approx(spikes[name].flatten(1).mean(1).tolist(), abs=1e-3), name


def test_rates_of_spiking_networks(tmp_path):
    """At each step, with tokens that halt and leave: those of the cells that were computed."""
    small = ["schedule.epochs=2", "schedule.warmup_epochs=0", "model.config.depth=1", "model.time_steps=3"]
    train(tmp_path / "run", load_recipe("digits", small), progress=False)
    rows = [row for row in read_rows(tmp_path / "run" / "spikes.csv") if row["epoch"] == 2]
    data = load_data("digits", image_size=16)
    images, _ = data.split("val").__getitems__(range(len(data.split("val"))))
    model, x = load_model(tmp_path / "run" / "last.safetensors"), normalise(images, data.info)
    for name, spikes in record_spikes(model, x).items():
        of_layer = [float(row["rate"]) for row in rows if row["layer"] == name]
        assert of_layer == pytest.approx([float(s.double().mean()) for s in spikes], rel=1e-5)

    model.blocks[0].mlp.fc2.bn.bias.data[0] = 1.75  # so that the channel that decides fires, at most tokens
    halting, masked = (
        add_halting(model, gamma=2.0, beta=1.0, front="average", masked=masked) for masked in (False, True)
    )
    streamed, batches = step_rates(halting, [x[:8], x[8:16]]), [x[:8], x[8:16]]
    cells, spikes, name = [0] * 3, [0] * 3, "model.blocks.0.mlp.fc1.lif"
    for batch in batches:
        calls: list[int] = []
        with observe(masked, lambda layer, s: calls.append(int(s.sum())) if layer == name else None):  # noqa: B023
            masked(batch)
        for step, n in enumerate(calls):
            spikes[step] += n
        for cell in halting.visit(halting.front(batch)):
            cells[cell.step] += len(cell.tokens) * 256
    assert cells[0] > cells[2] > 0
    assert streamed[name][0].tolist() == pytest.approx([n / of for n, of in zip(spikes, cells, strict=True)])
