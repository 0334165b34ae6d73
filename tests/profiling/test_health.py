"""What makes accuracy and cost worthless is said: layers that never fire, and accuracy that is luck."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from spikevit.adaptive import allocate_time_steps
from spikevit.data import DataInfo
from spikevit.models import SpikingModel
from spikevit.models.base import ModelConfig
from spikevit.neurons import IF
from spikevit.profiling.health import at_chance, silence
from spikevit.profiling.observe import Fired
from spikevit.training.evaluate import evaluate
from tests.profiling.firing import firing, images

INFO = DataInfo("two", ("dark", "light"), 1, (1, 1), (0.0,), (1.0,))


def luck(right: int, total: int, chance: float) -> float:
    """P(X ≥ right) of a binomial X."""
    return sum(math.comb(total, k) * chance**k * (1 - chance) ** (total - k) for k in range(right, total + 1))


@pytest.mark.parametrize("total, chance", [(360, 37 / 360), (100, 0.5), (1000, 0.001), (48, 1 / 3)])
def test_at_chance_is_what_luck_reaches(total, chance):
    """Against the binomial itself: what has less than 2.5 % is above chance, what has more than 10 % is not."""
    for right in range(total + 1):
        p = luck(right, total, chance)
        assert bool(at_chance(right, total, chance)) or p < 0.1
        assert not at_chance(right, total, chance) or p > 0.025
    assert at_chance(total, total, 1.0), "of one class alone"


def test_words():
    assert at_chance(36, 360, 0.1) == (
        "accuracy is at chance: 36 of 360 images are right, and 36 would be for one who always names their most "
        "frequent class"
    )
    assert silence({"a": 0.1, "b": 0.0, "c": 0.0}, "in validation").startswith(
        "2 of 3 layers of neurons are silent in validation, the first is b: "
    )
    assert silence({"a": 0.1}) == "" == at_chance(300, 360, 0.1)


class Two(SpikingModel):
    """Says light where the one pixel is above 1; its second layer of neurons sees half of the first one's spikes."""

    stride = 1

    def __init__(self):
        super().__init__(ModelConfig(num_classes=2, in_channels=1, image_size=(1, 1), time_steps=1))
        self.first, self.second = IF(), IF()
        self.unused = nn.Parameter(torch.zeros(1))

    def logits(self, x, stream=None):
        spikes = self.first(x).flatten(2)
        return torch.cat([0.5 - spikes, spikes - 0.5], -1) + 0 * self.second(spikes / 2)


def dataset(values, labels):
    return TensorDataset(torch.tensor(values).view(-1, 1, 1, 1).mul(255).to(torch.uint8), torch.tensor(labels))


def test_evaluate_says_both():
    """A pixel of uint8 is at most 1, which is the threshold: neurons fire on the last image alone."""
    score = evaluate(Two(), dataset([0.0, 0.2, 0.4, 1.0], [0, 0, 0, 1]), INFO)
    assert (score.right, score.chance) == (4, 0.75)
    assert score.silence.startswith("1 of 2 layers of neurons are silent on these images, the first is second")
    score = evaluate(Two(), dataset([0.0, 0.2], [1, 1]), INFO)
    assert score.silence.startswith("2 of 2 layers") and score.at_chance.startswith("accuracy is at chance: 0 of 2")


def test_what_is_closed_is_not_silent():
    """Of the layer whose steps are all closed nothing is computed; the one behind it has a bias alone."""
    model = allocate_time_steps(firing(), steps={"blocks.1.mlp.fc1.lif": 0}).freeze().eval()
    with torch.no_grad(), Fired(model) as fired:
        model(images())
    assert fired.silence().startswith("1 of 14 layers") and "blocks.1.mlp.fc2.lif" in fired.silence()


def test_over_batches_and_kinds_of_neurons():
    """One spike in any batch is enough; staircases count by their codes."""
    with torch.no_grad():
        for name in ("spikformer_tiny", "ge2mst_tiny"):
            model, x = firing(name), images(6)
            with Fired(model) as fired:
                model(x[:1]), model(x[1:])
            assert fired.silence() == ""
