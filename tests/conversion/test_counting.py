"""What a converted network costs: additions only behind the first convolution, and as many as loops count."""

from types import MappingProxyType

import numba
import numpy as np
import pytest
import torch
from small_ge2mst import small
from torch import nn
from torch.overrides import TorchFunctionMode

from spikevit import convert, count, firing_rates, quantise, record_spikes
from spikevit.neurons import ExpG, ExpGIF, SpikeTrain, Staircase
from spikevit.neurons.staircase import spike_count
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.check import check, load_rule
from spikevit.profiling.conventions import charge, exact

# --- every multiplication of the step tensors, one by one ------------------------------------------------------------


@numba.njit
def loop_matmul(a, b):
    """How many pairs of entries that meet are both not zero, and how many meet."""
    active, total = 0, 0
    for batch in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(b.shape[2]):
                for k in range(a.shape[2]):
                    total += 1
                    active += a[batch, i, k] != 0 and b[batch, k, j] != 0
    return active, total


@numba.njit
def loop_conv(x, w, stride, pad, groups):
    active, total = 0, 0
    rows = (x.shape[2] + 2 * pad - w.shape[2]) // stride + 1
    columns = (x.shape[3] + 2 * pad - w.shape[3]) // stride + 1
    for image in range(x.shape[0]):
        for out in range(w.shape[0]):
            for row in range(rows):
                for column in range(columns):
                    for k in range(w.shape[1]):
                        c = out // (w.shape[0] // groups) * w.shape[1] + k
                        for dy in range(w.shape[2]):
                            for dx in range(w.shape[3]):
                                i, j = row * stride + dy - pad, column * stride + dx - pad
                                if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]:
                                    total += 1
                                    active += x[image, c, i, j] != 0 and w[out, k, dy, dx] != 0
    return active, total


class Products(TorchFunctionMode):
    """Operands of every product, those of spikes as the steps that arrive."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if any(isinstance(x, SpikeTrain) for x in args):
            with self:
                return SpikeTrain.__torch_function__(func, types, args, kwargs)
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in ("linear", "conv2d"):
            names = ("stride", "padding", "dilation", "groups")
            self.found.append((name, *args[:2], dict(zip(names, args[3:], strict=False)) | kwargs))
        elif name in ("matmul", "__matmul__"):
            self.found.append(("matmul", *args, {}))
        else:
            assert name not in ("bmm", "mm", "einsum", "baddbmm", "conv1d", "conv3d"), f"{name}: this test must know it"
        return func(*args, **kwargs)


def array(x):
    return np.ascontiguousarray(x.detach().double().numpy())


def loops(call) -> tuple[int, int]:
    name, a, b, options = call
    if name == "linear":
        return loop_matmul(array(a).reshape(1, -1, a.shape[-1]), array(b.mT)[None])
    if name == "conv2d":
        stride, padding = options.get("stride", 1), options.get("padding", 0)
        stride, padding = (v[0] if isinstance(v, tuple) else v for v in (stride, padding))
        return loop_conv(array(a), array(b), stride, padding, options.get("groups", 1))
    shape = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return loop_matmul(*(array(m.expand(*shape, *m.shape[-2:])).reshape(-1, *m.shape[-2:]) for m in (a, b)))


def binary(x: torch.Tensor) -> bool:
    return set(x.unique().tolist()) <= {0.0, 1.0}


# --- networks --------------------------------------------------------------------------------------------------------


def tiny(exact_mode: bool, config=MappingProxyType({}), codes=None):
    """Converted, with images; its neurons fire, many of its weights are 0 in exact mode."""
    torch.manual_seed(5)
    settings = {"image_size": 8, "widths": (4, 8, 8), "strides": (1, 2, 1), "head_width": 4, "num_classes": 3}
    x = torch.randn(6, 1, 8, 8)
    model = calibrate(small(**{**settings, **config}), x)
    if exact_mode:
        model = quantise(model, bits=3)
    return convert(model, x, codes=codes)[0], model, x


CASES = {
    "float": (False, {}),
    "exact": (True, {}),
    "rate coding": (True, {"code": (1, 3)}),
    "two groups": (True, {"code": (3, 2)}),
    "two groups, by group": (True, {"code": (3, 2)}, {"*": (3, 2, "group")}),
    "one step": (True, {"time_steps": 1}),
    "windows that do not divide": (True, {"windows": ((), (), (3, 0))}),
    "Q-K": (True, {"mixers": ("conv", "gw_qk", "gw_ssa"), "windows": ((), (2,), (2, 0))}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_loops(case):
    snn, _, x = tiny(*CASES[case])
    counts = count(snn, [x[:2], x[2:3]])
    runs = []
    for batch in (x[:2], x[2:3]):
        with Products() as products, torch.no_grad():
            snn(batch)
        runs.append(products.found)
    assert {len(run) for run in runs} == {len(counts.operators)}
    active_sum = 0
    for c, *calls in zip(counts.operators, *runs, strict=True):
        (active, total), found = np.sum([loops(call) for call in calls], 0), charge(c)
        assert c.operator == calls[0][0] or (c.operator, calls[0][0]) == ("conv", "conv2d") or c.operator == "linear"
        if c.stem:
            assert (found.macs, found.acs) == (total, 0) and c.module.startswith("stem")
        else:
            if len(c.operands) == 2 and not (binary(calls[0][1]) and binary(calls[0][2])):  # spikes and a sum of spikes
                assert binary(calls[0][1]) or binary(calls[0][2])
            else:
                assert binary(calls[0][1])
            assert (found.macs, found.acs) == (0, active), (c.module, c.operator)
            active_sum += active
    assert active_sum > 0 and exact(counts).acs * 3 == pytest.approx(active_sum)


@pytest.mark.parametrize("case", CASES)
def test_accumulate_only(case):
    """Behind the first convolution, the head included; the staircase network is not."""
    snn, model, x = tiny(*CASES[case])
    verdict = check(count(snn, x), load_rule("accumulate-only"))
    assert verdict.passed, [v for v in verdict.verdicts if not v.passed]
    heads = [v for v in verdict.verdicts if v.module.startswith("head")]
    assert len(heads) == 1 and heads[0].reason == "" and heads[0].operands[0].startswith("binary")
    assert [v.module for v in verdict.verdicts if "exempt" in v.reason] == [verdict.verdicts[0].module]
    assert not count(snn, x).uncounted
    if case not in ("one step",):
        assert not check(count(model, x), load_rule("accumulate-only")).passed


@pytest.mark.parametrize(("steps", "groups"), [(4, 2), (2, 5), (3, 4)])
def test_by_weight_costs_less(steps, groups):
    """By hand, of codes 0 … L in turn: an accumulate for each spike and output, a shift for each doubling of one."""
    levels, outputs = groups * (2**steps - 1), 7
    k = list(range(levels + 1))
    by_group = [steps * (i // (2**steps - 1)) + (i % (2**steps - 1)).bit_count() for i in k]
    by_weight = []
    for i in k:
        spikes = 0
        for w in sorted([2**j for j in range(steps)] * groups, reverse=True):
            if i >= w:
                i, spikes = i - w, spikes + 1
        by_weight.append(spikes)
    model = nn.Sequential(Staircase(ExpG(steps, groups), float(levels)), nn.Linear(1, outputs))
    x = torch.arange(levels + 1.0)[:, None]
    costs = {}
    for order, spikes, doublings in (("weight", by_weight, steps - 1), ("group", by_group, groups * (steps - 1))):
        snn, certificate = convert(model, x, codes={"0": (steps, groups, order)})
        assert [layer.spikes for layer in certificate.layers] == [pytest.approx(sum(spikes) / len(k))]
        costs[order] = exact(count(snn, x))
        assert costs[order].acs == pytest.approx(outputs * sum(spikes) / len(k))
        assert costs[order].shifts == pytest.approx(outputs * doublings)
    assert costs["weight"].mj < costs["group"].mj


class Decoded(nn.Module):
    def __init__(self, lif: nn.Module):
        super().__init__()
        self.lif = lif

    def forward(self, x, stream=None):
        return self.lif(x).decode()


def test_the_check_sees_a_decoded_value():
    """A layer that hands on numbers in place of spikes fails."""
    snn, _, x = tiny(False)
    layer = snn.get_submodule("stages.1.0.mlp.fc2")
    layer.lif = Decoded(layer.lif)
    verdict = check(count(snn, x), load_rule("accumulate-only"))
    assert [v.module for v in verdict.verdicts if not v.passed] == ["stages.1.0.mlp.fc2"]


def test_trained(trained):
    """At full size, on real images: behind the first convolution additions only."""
    x = trained.x[:8]
    snn = convert(trained.exact, x)[0]
    counts = count(snn, x)
    assert check(counts, load_rule("accumulate-only")).passed and not counts.uncounted
    whole = exact(counts)
    assert whole.macs == 16 * (3 * 16 - 2) ** 2  # channels · products in bounds of a 3 × 3 kernel, each way
    assert whole.acs > 0


# --- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", [None, {"stages.0.*": (1, 15), "stages.1.*": (2, 5)}])
def test_rates_agree(trained, codes):
    """Of what is recorded, of firing_rates, of the counter and of the certificate; and of the staircase's codes."""
    x = trained.x[:32]
    snn, certificate = convert(trained.exact, x, codes=codes)
    spikes = record_spikes(snn, x)
    rates = firing_rates(snn, x.split(10))
    neurons = {n.module: n for n in count(snn, x).neurons}
    expected = record_spikes(trained.exact, x)
    assert spikes.keys() == rates.keys() == neurons.keys() == expected.keys()
    for layer in certificate.layers:
        s = spikes[layer.name]
        number, code = int(s.count_nonzero()), ExpG(*layer.code)
        assert rates[layer.name] == pytest.approx(float(s.double().mean()), rel=1e-12)
        assert (neurons[layer.name].spikes, neurons[layer.name].updates) == (number, s.numel())
        assert layer.spikes == pytest.approx(number / (s.numel() / code.time_steps), rel=1e-12)
        k = expected[layer.name]
        assert int(spike_count(k, code).sum()) == number
        per_neuron = spike_count(k[0], code)
        assert torch.equal(per_neuron, s.sum(0).int())


def test_rates_of_a_staircase_network_are_those_it_will_fire_at(trained):
    x = trained.x[:32]
    snn = convert(trained.exact, x)[0]
    assert firing_rates(trained.exact, [x]) == pytest.approx(firing_rates(snn, [x]), rel=1e-12)
    ours, theirs = count(trained.exact, x).neurons, count(snn, x).neurons
    assert [(n.module, n.spikes, n.updates) for n in ours] == [(n.module, n.spikes, n.updates) for n in theirs]


def test_observing_changes_nothing(trained):
    x = trained.x[:4]
    snn = convert(trained.exact, x)[0]
    with torch.no_grad():
        before = snn(x)
        record_spikes(snn, x), firing_rates(snn, [x]), count(snn, x)
        assert torch.equal(snn(x), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in snn.modules())


def test_foreign_network():
    """Averages of spikes: integers, which are additions too, and are not called spikes."""
    first, second = [nn.Conv2d(1, 4, 3), Staircase(ExpG(3, 1))], [nn.Conv2d(4, 6, 3), Staircase(ExpG(2, 2))]
    model = nn.Sequential(*first, nn.AvgPool2d(2), *second, nn.Flatten(), nn.Linear(6 * 4, 3))
    x = torch.randn(5, 1, 10, 10)
    snn = convert(model, x)[0]
    counts = count(snn, x)
    kinds = [c.operands[0].kind.name for c in counts.operators]
    assert kinds == ["real", "integer", "binary"]
    assert not check(counts, load_rule("accumulate-only")).passed
    model[2] = nn.Identity()
    model[6] = nn.Linear(6 * 36, 3)
    snn = convert(model, x)[0]
    assert check(count(snn, x), load_rule("accumulate-only")).passed
    assert all(isinstance(snn[i], ExpGIF) for i in (1, 4))
