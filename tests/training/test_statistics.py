"""Statistics of batch norm are those of the weights that are validated and saved, however short the training was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikevit import calibrate, load_model
from spikevit.checkpoint import read_about
from spikevit.data import normalise
from spikevit.profiling.calibrate import re_estimate
from spikevit.training.build import build
from spikevit.training.module import Classifier
from spikevit.training.recipe import load_recipe
from spikevit.training.run import train
from tests.shapes import draw_shapes


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2), nn.BatchNorm1d(2)).double()


def test_the_mean_over_batches():
    """By arithmetic; what is in evaluation mode stays, and momentum and counts are as they were."""
    model, batches = network(), torch.randn(5, 7, 2, dtype=torch.float64).unbind()
    model[4].eval()
    model[1].momentum, model[1].num_batches_tracked[...] = 0.3, 12
    re_estimate(model, batches)
    first = [model[0](x).detach() for x in batches]
    torch.testing.assert_close(model[1].running_mean, sum(x.mean(0) for x in first) / 5)
    torch.testing.assert_close(model[1].running_var, sum(x.var(0, correction=1) for x in first) / 5)
    assert model[1].momentum == 0.3 and model[1].num_batches_tracked == 12
    assert not model[4].running_mean.any() and (model[4].running_var == 1).all()


def test_calibrate_takes_batches():
    model, batches = network(), torch.randn(3, 7, 2, dtype=torch.float64).unbind()
    assert calibrate(model, batches) is model and not model.training
    torch.testing.assert_close(model[1].running_mean, model[0](torch.cat(batches)).mean(0))
    with pytest.raises(ValueError, match="images are not finite"):
        calibrate(model, [batches[0], batches[1] / 0])


@pytest.mark.parametrize("changes", [[], ["regularisation.ema_decay=0.8"]], ids=["raw", "averaged"])
def test_a_run_saves_the_statistics_of_its_weights(shades, brief, tmp_path, changes):
    """Of the first batch norm: three batches of 16 are all 48 images, whose mean is that of their batches."""
    data = shades()
    train(tmp_path / "run", brief("augmentation.crop_padding=0", *changes), data=data, progress=False)
    model = load_model(tmp_path / "run/last.safetensors")
    conv, bn = model.patch_embed.proj[0].conv, model.patch_embed.proj[0].bn
    currents = F.conv2d(normalise(data.train.images, data.info), conv.weight, padding=conv.padding)
    torch.testing.assert_close(bn.running_mean, currents.mean((0, 2, 3)).detach(), rtol=1e-4, atol=1e-5)


def test_short_training_on_a_small_folder(tmp_path):
    """240 images, four epochs. With running averages alone the network is silent up to the fourth."""
    root = draw_shapes(tmp_path / "shapes")
    changes = [f"data.root={root}", "data.name=folder", "data.image_size=32", "data.batch_size=16"]
    recipe = load_recipe("digits", [*changes, "schedule.epochs=4", "schedule.warmup_epochs=1"])
    results = train(tmp_path / "run", recipe, progress=False)
    assert results["accuracy"] >= 0.85 and not results["silence"]
    assert read_about(tmp_path / "run/best.safetensors")["val_accuracy"] >= 0.85


@pytest.mark.parametrize(("devices", "batches"), [(1, 8), (2, 4), (3, 3)])
def test_all_processes_together_use_the_same_batches(shades, brief, devices, batches):
    """The last eight of an epoch, of which two processes have four each."""
    recipe = brief(f"trainer.devices={devices}", "data.batch_size=2")
    assert Classifier(recipe, *build(recipe, shades())).newest.maxlen == batches
