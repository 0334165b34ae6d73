"""The same network gives the same numbers in any wrapper and in any mode, and is afterwards what it was before."""

import copy
import warnings

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
    profile,
    record_spikes,
)
from spikevit.conversion.certificate import certify
from spikevit.conversion.proof import Proof
from spikevit.data import DataInfo
from spikevit.models.running import evaluating, inputs_of, unwrapped, zoo_model
from spikevit.profiling.check import check, load_rule
from spikevit.profiling.observe import step_rates
from spikevit.report.curve import curve
from spikevit.training.evaluate import evaluate, logits_per_step

INFO = DataInfo("noise", tuple("abcdefghij"), 3, (16, 16), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Wrapper(nn.Module):
    """Anybody's."""

    def __init__(self, model):
        super().__init__()
        self.network = model

    def forward(self, x):
        return self.network(x)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "torch.compile": lambda m: torch.compile(m, backend="eager"),
    "Sequential": nn.Sequential,
    "two deep": lambda m: nn.DataParallel(nn.Sequential(m)),
    "Sequential of two": lambda m: nn.Sequential(m, nn.Softmax(-1)),
    "a class": Wrapper,
}
MODELS = {
    "spikformer": firing,
    "frames": firing,
    "early exit": lambda: add_early_exit(firing(), 0.6),
    "halting": lambda: add_halting(firing()),
    "converted": lambda: convert(firing("ge2mst_tiny"), images())[0],
    "staircases": lambda: firing("ge2mst_tiny"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", MODELS)
def test_wrapped(name, wrapper):
    model, x = MODELS[name](), images()
    if name == "frames":
        x = torch.stack([images() for _ in range(3)])
    wrapped = WRAPPERS[wrapper](model)
    report, expected = profile(wrapped, x), profile(model, x)
    assert min(expected.costs["paper"].energy.mj, expected.costs["exact"].energy.mj) > 0
    for convention, cost in expected.costs.items():
        assert report.costs[convention].energy == cost.energy, convention
    assert report.baselines == expected.baselines
    assert report.metrics["membrane_updates"] == expected.metrics["membrane_updates"]
    assert (report.counts.images, report.counts.time_steps) == (expected.counts.images, expected.counts.time_steps)
    assert list(firing_rates(wrapped, x).values()) == list(firing_rates(model, x).values())
    for ours, theirs in zip(record_spikes(wrapped, x).values(), record_spikes(model, x).values(), strict=True):
        assert torch.equal(ours, theirs)
    if wrapper not in ("Sequential of two", "a class"):
        assert unwrapped(wrapped) is model or wrapper == "AveragedModel"
        assert list(record_spikes(wrapped, x)) == list(record_spikes(model, x))


def test_traits_are_those_of_the_model_inside():
    model = firing()
    assert zoo_model(Wrapper(nn.DataParallel(model))) is model and zoo_model(nn.Linear(2, 2)) is None
    assert zoo_model(nn.ModuleList([model, firing()])) is model
    with pytest.raises(ValueError, match=r"holds models that run differently \(spikformer_tiny, spikformer_tiny\)"):
        zoo_model(nn.ModuleList([model, firing(time_steps=2)]))


# --- modes and statistics ---------------------------------------------------------------------------------------------


def dataset(n=6):
    return TensorDataset(images(n) / 20 + 0.5, torch.zeros(n, dtype=torch.long))


def proved(model, x):
    proof = Proof(model)
    proof.look(x)
    proof.conclude()


RUNS = {
    "count": count,
    "profile": profile,
    "check": lambda m, x: check(count(m, x), load_rule("accumulate-only")),
    "firing_rates": firing_rates,
    "step_rates": step_rates,
    "record_spikes": record_spikes,
    "evaluate": lambda m, x: evaluate(m, dataset(), INFO),
    "logits_per_step": lambda m, x: logits_per_step(m, dataset(), INFO),
    "curve": lambda m, x: curve(m, dataset(), INFO, count_images=2),
    "proof": proved,
}


@pytest.mark.parametrize("run", RUNS)
def test_no_statistics_move_and_every_mode_comes_back(run):
    """Of a model in training whose first block is frozen, and of one in evaluation whose last block trains."""
    for root, part, frozen in ((True, "blocks.0", False), (False, "blocks.1", True)):
        model = firing().train(root)
        model.get_submodule(part).train(frozen)
        modes = {name: m.training for name, m in model.named_modules()}
        before = copy.deepcopy(model.state_dict())
        RUNS[run](model, images(3))
        assert {name: m.training for name, m in model.named_modules()} == modes
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_certifying_moves_nothing():
    model, x = firing("ge2mst_tiny"), images()
    spiking, certificate = convert(model, x)
    before = copy.deepcopy(model.state_dict())
    assert certify(model.train(), spiking, [x]) == certificate and model.training and not spiking.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("run", [count, firing_rates, record_spikes])
def test_numbers_do_not_depend_on_the_mode(run):
    model, x = firing(), images()
    found = [str(run(model.train(mode), x)) for mode in (True, False)]
    assert found[0] == found[1]


def test_modes_come_back_after_an_error():
    model = firing().train()
    model.blocks[0].eval()
    with pytest.raises(ValueError, match="5 channels"):
        count(model, torch.randn(2, 5, 16, 16))
    assert model.training and not model.blocks[0].attn.training and model.blocks[1].attn.training


def test_evaluating_several():
    a, b = nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with evaluating(a, b):
        assert not (a.training or b.training or b[0].training)
    assert a.training and b.training and b[0].training and not b[1].training


def test_frozen_time_steps():
    """Whose masks, in training, multiply: counting is of what evaluation leaves out."""
    model = allocate_time_steps(firing(), steps={"*": 2}).freeze()
    counts = [count(model.train(mode), images()).macs for mode in (True, False)]
    assert counts[0] == counts[1] < count(firing(), images()).macs


# --- what images may be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [count, firing_rates, lambda m, x: step_rates(m, x), lambda m, x: profile(m, x).counts])
def test_forms_of_images(run):
    """A tensor, batches of one, and batches with labels are the same images."""
    model, x = firing(), images(4)
    forms = [x, [x], iter([x]), [(x, torch.zeros(4, dtype=torch.long))], [[x, torch.ones(4, dtype=torch.long)]]]
    found = [str(run(model, form)) for form in forms]
    assert len(set(found)) == 1
    with pytest.raises(ValueError, match="data holds no images|at least one image"):
        run(model, x[:0])
    with pytest.raises(ValueError, match="data holds no images"):
        run(model, [])


def test_arguments_of_other_models():
    pair = nn.Bilinear(2, 3, 4)
    x, y = torch.ones(5, 2), torch.ones(5, 3)
    assert list(inputs_of(pair, [(x, y)])) == [(x, y)]
    with pytest.raises(ValueError, match=r"Bilinear does not take \(5, 2\): missing a required argument: 'input2'"):
        list(inputs_of(pair, x))
    labels = torch.zeros(5, dtype=torch.long)
    assert len(next(inputs_of(nn.Linear(2, 2), [(x, labels)]))) == 1
    assert len(next(inputs_of(pair, [(x, labels)]))) == 2, "it takes two: they may be indices"


def test_recordings_in_evaluate():
    frames = TensorDataset(torch.randn(6, 4, 3, 16, 16, dtype=torch.float64), torch.zeros(6, dtype=torch.long))
    with pytest.raises(ValueError, match=r"images have the shape \(4, 3, 16, 16\); .* recordings .* are no images"):
        evaluate(firing(), frames, INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(firing(), dataset(), INFO)
