"""NaN is silence to neurons: whatever runs a network and gives numbers refuses it, and names where it began."""

from math import inf, nan

import pytest
import torch
from firing import firing, images
from torch import nn
from torch.utils.data import TensorDataset

from spikevit import (
    add_early_exit,
    add_halting,
    allocate_time_steps,
    convert,
    count,
    firing_rates,
    list_models,
    profile,
    record_spikes,
)
from spikevit.data import DataInfo
from spikevit.neurons import LIF, ExpG, SomeSteps, Staircase
from spikevit.neurons.expg import ExpGIF
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.finite import Finite, refuse_non_finite
from spikevit.profiling.observe import step_rates
from spikevit.training.evaluate import evaluate, logits_per_step

CONV = "conv of patch_embed.proj.0: its input has entries"
INFO = DataInfo("noise", tuple("abcdefghij"), 3, (16, 16), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def unit(x: torch.Tensor) -> torch.Tensor:
    """Images of normal values as those of a data set: around 0.5, between 0 and 1."""
    return x / 20 + 0.5


def data(n: int = 6, spoilt: int | None = None) -> TensorDataset:
    x = unit(images(n))
    if spoilt is not None:
        x[spoilt, 1, 3, 3] = nan
    return TensorDataset(x, torch.zeros(n, dtype=torch.long))


def spoil(model: nn.Module, name: str, value: float = nan) -> nn.Module:
    """One entry of one weight."""
    model.get_parameter(name).data.view(-1)[0] = value
    return model


RUNS = {
    "count": count,
    "profile": profile,
    "firing_rates": firing_rates,
    "step_rates": step_rates,
    "record_spikes": record_spikes,
    "calibrate": calibrate,
    "evaluate": lambda m, x: evaluate(m, TensorDataset(unit(x), torch.zeros(len(x), dtype=torch.long)), INFO),
    "logits_per_step": lambda m, x: logits_per_step(
        m, TensorDataset(unit(x), torch.zeros(len(x), dtype=torch.long)), INFO
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_weights(run):
    """One entry of 100,000: the model gives finite logits without a word."""
    model = spoil(firing(), "blocks.1.mlp.fc1.linear.weight")
    assert model(images()).isfinite().all()
    with pytest.raises(ValueError, match=r"1 of \d+ tensors of Spikformer are not finite .*blocks.1.mlp.fc1.linear"):
        RUNS[run](model, images())


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("run", RUNS)
def test_images(run, value):
    x = images()
    x[1, 2, 5, 5] = value
    with pytest.raises(ValueError, match=f"images are not finite|float images have values|{CONV}"):
        RUNS[run](firing(), x)


@pytest.mark.parametrize("run", RUNS)
def test_currents(run):
    """All weights are finite, and what they make is not: batch norm with a variance below zero."""
    model = firing()
    model.blocks[0].attn.proj_in.bn.running_var[3] = -1.0
    before = model.blocks[0].attn.proj_in.bn.running_var.clone()
    if run == "calibrate":  # which makes new statistics
        return
    with pytest.raises(
        ValueError, match="currents are not finite .* in 1 of 15 layers .* first in blocks.0.attn.proj_in"
    ):
        RUNS[run](model, images())
    assert torch.equal(model.blocks[0].attn.proj_in.bn.running_var, before)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("name", list_models("*_tiny"))
def test_every_layer_is_watched(name):
    """Of every family: an infinite current into each layer of neurons, one after the other, is told by its name."""
    model = firing(name)
    layers = list(record_spikes(model, images(1)))
    for layer in layers:

        def burst(_module, args):
            x = args[0].contiguous().clone()
            x.view(-1)[-1] = -inf
            return x, *args[1:]

        said = rf"in 1 of {len(layers)} layers of neurons, first in {layer};"
        hook = model.get_submodule(layer).register_forward_pre_hook(burst)
        with hook, pytest.raises(ValueError, match=said), torch.no_grad(), refuse_non_finite(model):
            model(images(1))


ADAPTED = {
    "early exit": lambda m: add_early_exit(m, 0.9),
    "halting": add_halting,
    "masked halting": lambda m: add_halting(m, masked=True),
    "time steps": lambda m: allocate_time_steps(m, steps={"*": 2}).freeze().eval(),
    "converted": lambda m: convert(firing("ge2mst_tiny"), images())[0],
}


@pytest.mark.parametrize("method", ADAPTED)
def test_adapted(method):
    model = ADAPTED[method](firing())
    assert evaluate(model, data(), INFO).total == 6
    with pytest.raises(ValueError, match="float images have values from nan"):
        evaluate(model, data(spoilt=4), INFO)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    norms[-1].running_var[0] = -1.0
    with pytest.raises(ValueError, match=r"membrane currents are not finite .*, first in |logits are not finite"):
        evaluate(model, data(), INFO)


def test_the_first_layer_is_named():
    """In order of execution, not of definition; and how many there are."""

    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.fc, self.first = LIF(), nn.Linear(3, 3), LIF()

        def forward(self, x):
            return self.last(self.fc(self.first(x)) / 0.0)

    model, x = Backwards(), torch.full((2, 4, 3), 5.0)
    for currents, said in ((x, "in 1 of 2 .*, first in last;"), (x * nan, "in 2 of 2 .*, first in first;")):
        with pytest.raises(ValueError, match=said), torch.no_grad(), refuse_non_finite(model):
            model(currents)


def test_what_it_takes_in():
    """Tensors of any type, a still image once, some steps, spikes, lists; and it forgets what it has said."""
    finite = Finite(["layer"])
    steps = torch.ones(2, 3, 4)
    spikes = ExpGIF(torch.ones(4), ExpG(2))(torch.rand(3, 4))
    good = [
        torch.full((1000,), 60000.0, dtype=torch.float16),  # whose sum is infinite in their own type
        torch.full((1000,), 3e38),
        torch.ones(0, 3),
        torch.ones(2, 3, device="meta"),
        torch.ones(3, dtype=torch.long),
        torch.ones(1, 3).expand(4, 3),
        SomeSteps(steps, (0, 2), 4, torch.ones(4)),
        spikes,
        None,
        "text",
    ]
    for x in (*good, good):
        finite.see("layer", x)
    finite.check()
    bad_spikes = ExpGIF(torch.ones(4), ExpG(2))(torch.rand(3, 4))
    bad_spikes.quantum = bad_spikes.quantum * nan
    for x in (
        torch.tensor([1.0, nan], dtype=torch.bfloat16),
        torch.tensor([-inf]).expand(4, 1),
        SomeSteps(steps * nan, (0, 2), 4),
        SomeSteps(steps, (0, 2), 4, torch.tensor([1, 1, 1, inf])),
        bad_spikes,
        [torch.ones(2), torch.tensor(nan)],
    ):
        finite.see("layer", torch.ones(2, dtype=torch.float64))
        finite.see("layer", x)
        with pytest.raises(ValueError, match="in 1 of 1 layers of neurons, first in layer;"):
            finite.check()
        finite.check()


def test_masks_may_hold_infinity():
    """As those of attention do; statistics may not."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), LIF())
    model.register_buffer("mask", torch.tensor([0.0, -inf]))
    assert count(model, torch.randn(3, 4)).images == 3
    model[1].running_var[0] = inf
    with pytest.raises(ValueError, match="1 of 6 tensors of Sequential are not finite .*: 1.running_var"):
        count(model, torch.randn(3, 4))


def test_one_question_for_each_batch(monkeypatch):
    """Not one for each layer: on a GPU every question waits for all that was asked before."""
    model, asked = firing(), []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: asked.append(x.shape) or tolist(x))
    with torch.no_grad(), refuse_non_finite(model) as finite:
        for _ in range(3):
            model(images())
            finite.check()
    tensors = sum("num_batches" not in name for name in model.state_dict())
    assert asked == [(tensors,), (15,), (15,), (15,)]


def test_staircases():
    model = nn.Sequential(nn.Linear(4, 4), Staircase(ExpG(2)), nn.Linear(4, 2))
    model[1].threshold.data = torch.tensor(nan)
    with pytest.raises(ValueError, match="1 of 5 tensors of Sequential are not finite .*: 1.threshold"):
        firing_rates(model, torch.ones(2, 4))
