"""Observation: every neuron, in firing order, and nothing changed, kept or left behind by it."""

import gc
import io
import warnings
import weakref

import pytest
import torch
from rich.console import Console
from torch import nn

from spikevit import (
    allocate_time_steps,
    convert,
    count,
    create_model,
    firing_rates,
    list_models,
    observe,
    profile,
    record_spikes,
)
from spikevit.neurons import LIF, ExpG, Staircase
from spikevit.neurons.staircase import spike_pattern
from spikevit.profiling.check import check, load_rule

T = 4


def firing(name: str = "spikformer_tiny"):
    """In float64 and evaluation mode, with batch norm as after training, so that neurons fire."""
    model = create_model(name, image_size=16).double().eval()
    for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.uniform_(bn.running_var, 0.02, 0.1)
        nn.init.uniform_(bn.bias, 0.0, 0.8)
    return model


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, dtype=torch.float64)


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(params=list_models("*_tiny"))
def model(request):
    return firing(request.param)


def test_names_are_in_firing_order():
    branches = ["attn.proj_in.lif", "attn.attn_lif", "attn.proj_out.lif", "mlp.fc1.lif", "mlp.fc2.lif"]
    stem = [*(f"patch_embed.proj.{i}.lif" for i in range(4)), "patch_embed.rpe.lif"]
    expected = [*stem, *(f"blocks.{i}.{branch}" for i in range(2) for branch in branches)]
    assert list(record_spikes(firing(), images())) == expected
    seen = []
    with observe(model := firing(), lambda name, spikes: seen.append(name)):
        model(images())
        model(images())
    assert seen == expected * 2


def test_order_is_that_of_firing_not_of_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = LIF(), LIF()

        def forward(self, x):
            return self.first(self.second(x))

    assert list(record_spikes(Backwards(), torch.ones(2, 3, 4))) == ["second", "first"]


def test_recorded_spikes_are_time_first(model):
    if not model.time_axis:
        return check_recorded_codes(model)
    for x, steps in ((images(), T), (torch.stack([images() for _ in range(3)]), 3)):
        spikes = record_spikes(model, x)
        assert all(s.shape[:2] == (steps, 2) for s in spikes.values())
        assert all(((s == 0) | (s == 1)).all() and not s.requires_grad for s in spikes.values())
        assert all(s.any() for s in spikes.values()), "the model must fire to be observed"


def check_recorded_codes(model):
    """A network of staircases has no time: one whole number, which the spikes will spell, stands for all steps."""
    for name, codes in record_spikes(model, images()).items():
        assert codes.shape[:2] == (1, 2) and not codes.is_floating_point() and codes.any()
        assert codes.min() >= 0 and codes.max() <= model.get_submodule(name).code.levels


def test_recorded_shapes():
    spikes = record_spikes(firing(), images())
    assert spikes["patch_embed.proj.0.lif"].shape == (T, 2, 16, 16, 8)
    assert spikes["patch_embed.rpe.lif"].shape == (T, 2, 4, 4, 64)
    assert spikes["blocks.0.attn.proj_in.lif"].shape == (T, 2, 16, 3 * 64)
    assert spikes["blocks.1.mlp.fc1.lif"].shape == (T, 2, 16, 4 * 64)


def test_observation_changes_nothing(model):
    x = images()
    before = model(x)
    seen = []
    with observe(model, lambda name, spikes: seen.append(name)):
        assert torch.equal(model(x), before)
    assert seen and not model.training
    record_spikes(model.train(), x)
    assert model.training


def test_what_the_observer_returns_does_not_matter(model):
    """Such as `lambda name, spikes: means.setdefault(name, spikes.mean())`."""
    x = images()
    before = model(x)
    with observe(model, lambda name, spikes: torch.zeros_like(spikes)):
        assert torch.equal(model(x), before)


def test_spikes_are_not_kept(model):
    seen = []
    with torch.no_grad(), observe(model, lambda name, spikes: seen.append(weakref.ref(spikes))):
        model(images())
        gc.collect()
        assert len(seen) > 10 and all(spikes() is None for spikes in seen)


def test_hooks_go_with_the_context(model):
    with observe(model, lambda name, spikes: None):
        assert hooks(model) == len(record_spikes(model, images()))
    assert hooks(model) == 0


def test_hooks_go_after_an_error(model):
    def refuse(name, spikes):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="lif"), observe(model, refuse):
        model(images())
    assert hooks(model) == 0
    for look in (record_spikes, lambda m, x: firing_rates(m, [x])):
        with pytest.raises(ValueError, match="channels"):
            look(model, torch.randn(2, 5, 16, 16))
        assert hooks(model) == 0


@pytest.mark.parametrize("batch", [1, 2])
def test_the_batch_stays_an_axis(batch):
    """Of ours, converted, and of a foreign network with the same neurons, whose values have no axis of steps."""
    ours = convert(firing("ge2mst_tiny"), images())[0]
    assert {s.shape[1] for s in record_spikes(ours, images(batch)).values()} == {batch}
    foreign = nn.Sequential(
        nn.Linear(3, 5), Staircase(ExpG(2)), nn.Linear(5, 7), Staircase(ExpG(1, 2)), nn.Linear(7, 2)
    )
    spiking = convert(foreign, torch.rand(4, 3))[0]
    shapes = [tuple(s.shape) for s in record_spikes(spiking, torch.rand(batch, 3)).values()]
    assert shapes == [(2, batch, 5), (2, batch, 7)]
    around = nn.Sequential(ours, nn.Softmax(-1))
    assert {s.shape[1] for s in record_spikes(around, images(batch)).values()} == {batch}


def test_silent_layers_are_said():
    """By the rates, the counts, the report, the check and what the terminal prints of them."""
    fresh, x = create_model("spikformer_tiny", image_size=16).eval(), images().float()
    spikes = record_spikes(fresh, x)
    silent = [name for name, s in spikes.items() if not s.any()]
    said = f"{len(silent)} of 15 layers of neurons are silent on these images, the first is {silent[0]}: this is"
    assert len(silent) > 5
    with pytest.warns(UserWarning, match=said):
        firing_rates(fresh, x)
    report = profile(fresh, x)
    verdicts = check(report.counts, load_rule("accumulate-only"))
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(report), console.print(verdicts)
    assert console.export_text().count(said) == 2
    for found in (report.counts.silence, report.to_dict()["silence"], verdicts.silence):
        assert found.startswith(said) and found.count("not what a trained network would cost") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        firing_rates(firing(), images())
    assert profile(firing(), images()).counts.silence == ""


def test_a_layer_that_is_never_open_is_not_silent():
    """Nothing of it is computed: that was allocated so. What follows it has a bias alone, and is silent."""
    model = allocate_time_steps(firing(), steps={"blocks.1.mlp.fc1.lif": 0}).freeze().eval()
    assert not record_spikes(model, images())["model.blocks.1.mlp.fc1.lif"].any()
    said = count(model, images()).silence
    assert said.startswith("1 of 14 layers") and "the first is model.blocks.1.mlp.fc2.lif" in said


def test_firing_rates_are_the_mean_over_all_batches(model):
    x = images(6)
    spikes = record_spikes(model, x)
    rates = firing_rates(model, iter([x[:4], x[4:5], x[5:]]))
    assert list(rates) == list(spikes)
    for name, rate in rates.items():
        if not model.time_axis:
            code = model.get_submodule(name).code
            spikes[name] = spike_pattern(spikes[name], code)
        assert rate == pytest.approx(spikes[name].double().mean().item(), rel=1e-12)
