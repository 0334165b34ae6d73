"""Learning: every tiny model learns eight images by heart, and its first losses are those on record.

The record (tests/golden/losses.json) is ours, made after the models equalled the originals' records. Make it anew
only where the computation was meant to change, and say so in the commit:

    python tests/training/test_learning.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spikevit import create_model, list_models
from spikevit.data import load_data, normalise

TINY = list_models("*_tiny")
GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"


@pytest.fixture(scope="module")
def eight_digits():
    """The first image of each of the digits 0 … 7, 16×16, of one channel, and their labels."""
    data = load_data("digits", image_size=16, channels=1)
    first = [int((data.train.labels == digit).nonzero()[0]) for digit in range(8)]
    images, labels = data.train.__getitems__(first)
    return normalise(images, data.info), labels


def step(model, optimizer, images, labels) -> float:
    loss = F.cross_entropy(model.train()(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def right(model, images, labels) -> int:
    return int((model.eval()(images).argmax(-1) == labels).sum())


@pytest.mark.parametrize("name", TINY)
def test_overfits_eight_digits(name, eight_digits):
    model = create_model(name, in_channels=1, image_size=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    assert right(model, *eight_digits) < 4
    for _ in range(60):
        loss = step(model, optimizer, *eight_digits)
    assert loss < 0.05
    assert right(model, *eight_digits) == 8, "in evaluation too, with the running statistics"


def first_losses(name: str) -> list[float]:
    """Of five AdamW steps in float64, on one batch of images that are made here."""
    random = np.random.RandomState(0)
    images, labels = torch.from_numpy(random.randn(4, 3, 16, 16)), torch.arange(4)
    torch.manual_seed(0)
    width = {"widths": (8, 16, 32)} if name.startswith("ge2mst") else {"embed_dim": 32}
    model = create_model(name, image_size=16, time_steps=2, **width).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return [step(model, optimizer, images, labels) for _ in range(5)]


@pytest.mark.parametrize("name", TINY)
def test_losses_on_record(name):
    record = json.loads(GOLDEN.read_text())
    assert name in record, f"no losses of {name} on record: see above how they are made"
    assert first_losses(name) == pytest.approx(record[name], rel=1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.write_text(json.dumps({name: first_losses(name) for name in TINY}, indent=2) + "\n")
