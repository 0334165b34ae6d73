"""One small Ge²mS-T, trained on digits once a session, in float and in exact mode."""

from dataclasses import dataclass

import pytest
import torch
from small_ge2mst import fit, small
from torch import Tensor, nn

from spikevit import quantise
from spikevit.data import load_data, normalise


@dataclass
class Trained:
    """model: as trained; exact: quantised and trained on; x, labels: all 360 test images. Not to be changed."""

    model: nn.Module
    exact: nn.Module
    x: Tensor
    labels: Tensor


@pytest.fixture(scope="session")
def trained() -> Trained:
    torch.manual_seed(0)
    data = load_data("digits")
    train, test = data.train, data.test
    x, labels = normalise(train.images, data.info), train.labels
    model = fit(small(), x, labels, 6, 4e-3)
    exact = fit(quantise(model), x, labels, 1, 5e-4)
    exact.name = model.name
    return Trained(model, exact, normalise(test.images, data.info), test.labels)
