"""spikes.csv of a training: the rates that the spikes of the converted network really have."""

import csv

import pytest
import torch

from spikevit import convert, load_model, record_spikes
from spikevit.data import load_data, normalise
from spikevit.training.recipe import load_recipe
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
        step = (int(row["group"]) - 1) * 2 + int(row["step"]) - 1
        rate = float(spikes[row["layer"]][step].double().mean())
        assert float(row["rate"]) == pytest.approx(rate, abs=1e-3), row  # float mode: a few codes differ
    assert torch.stack([s.mean() for s in spikes.values()]).max() > 0.05
