"""ExpG-IF: spikes decode to the staircase, counts and gradients are the formulas', all backends are one function."""

import math
from importlib.util import find_spec
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikevit.neurons import IF, StaircaseConfig, staircase_numba
from spikevit.neurons.expg import ExpGIF, Staircase, histogram, rates, receive
from spikevit.neurons.staircase import (
    SMALLEST,
    ExpG,
    codes,
    expected_count,
    in_force,
    spike_count,
    spike_pattern,
    staircase,
    staircase_plain,
)

CODES = [ExpG(n, g) for n in range(1, 17) for g in range(1, 16 // n + 1)]
BY_GROUP = [ExpG(code.steps, code.groups, "group") for code in CODES if 1 not in (code.steps, code.groups)]
BOTH = CODES + BY_GROUP
SMALL = [code for code in BOTH if code.levels <= 60]
numba = pytest.param("numba", marks=pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed"))
KERNELS = ["fused", numba]
INSTALLED = ["plain", "fused", "numba"] if find_spec("numba") else ["plain", "fused"]
BACKENDS = ["plain", *KERNELS]
ids = dict(ids=lambda code: f"{code.steps}x{code.groups}" + "-by-group" * (code.order == "group"))


def hard_inputs(levels: int, quantum: float, dtype: torch.dtype) -> torch.Tensor:
    """All codes and boundaries between them, one ulp beside each, what lies between, negatives and saturation."""
    k = torch.arange(-3, levels + 4, dtype=dtype)
    tie = k + 0.5
    inf = torch.full_like(tie, math.inf)
    beside = torch.stack([k, k + 0.25, k + 0.75, tie, torch.nextafter(tie, inf), torch.nextafter(tie, -inf)])
    return (
        torch.cat([beside.flatten(), torch.tensor([-math.inf, -1e30, -0.0, 1e-40, 1e30, math.inf]).to(dtype)]) * quantum
    )


# The code


def test_levels_of_time_steps():
    assert [ExpG.of(t).levels for t in (1, 2, 4, 8, 16, 64)] == [1, 3, 15, 30, 60, 240]
    assert ExpG.of(8) == ExpG(4, 2) and ExpG.of(3) == ExpG(3, 1) and ExpG.of(8).time_steps == 8
    assert len(CODES) == 50 and all(code.bits == math.ceil(math.log2(code.levels + 1)) for code in CODES)
    assert ExpG(16, 1).levels == ExpG(1, 65535).levels == 65535


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_no_choice_of_steps_takes_fewer_spikes(steps, groups):
    """Of all ways to let 0 … G steps of each weight fire, the one with the fewest spikes for each sum."""
    code = ExpG(steps, groups)
    numeral = [2**j for j in reversed(range(steps))]
    fewest: dict[int, int] = {}
    for chosen in product(range(groups + 1), repeat=steps):
        k = sum(m * w for m, w in zip(chosen, numeral, strict=True))
        fewest[k] = min(sum(chosen), fewest.get(k, sum(chosen)))
    assert sorted(fewest) == list(range(code.levels + 1))
    k = torch.arange(code.levels + 1)
    spikes = ExpGIF(float(code.levels), code).fire(k.double())
    assert spikes.sum(0).tolist() == spike_count(k, code).tolist() == [fewest[i] for i in k.tolist()]
    weights = torch.tensor([w for w in numeral for _ in range(groups)])
    assert torch.equal(weights @ spikes.long(), k) and code.weights == tuple(weights.tolist())
    mean = {(4, 1): 2.0, (4, 2): 3.2581, (4, 4): 5.7377}.get((steps, groups))
    assert mean is None or sum(fewest.values()) / len(fewest) == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize("code", [code for code in BOTH if code.levels <= 300], **ids)
def test_steps_fire_in_their_order(code):
    """Whole numbers, one after the other: what is left of k pays for a step, or the step rests."""
    numeral = [2**j for j in reversed(range(code.steps))]
    weights = numeral * code.groups if code.order == "group" else sorted(numeral * code.groups, reverse=True)
    pattern = spike_pattern(torch.arange(code.levels + 1), code)
    assert pattern.shape == (code.time_steps, code.levels + 1) and code.weights == tuple(weights)
    for k, spikes in enumerate(pattern.T.tolist()):
        left = k
        for w, spike in zip(weights, spikes, strict=True):
            assert spike == (left >= w)
            left -= w * spike
        assert left == 0


def test_an_order_where_there_is_only_one():
    """And what files say of it: pairs are of before, by group."""
    assert ExpG(4, 1, "group") == ExpG(4) and ExpG(1, 5, "group") == ExpG(1, 5) and ExpG(2, 5, "group") != ExpG(2, 5)
    assert [repr(c) for c in (ExpG(4), ExpG(2, 5))] == ["ExpG(steps=4, groups=1)", "ExpG(steps=2, groups=5)"]
    assert repr(ExpG(2, 5, "group")) == "ExpG(steps=2, groups=5, order='group')"
    files = {ExpG(4): (4, 1), ExpG(1, 5): (1, 5), ExpG(2, 5): (2, 5, "weight"), ExpG(2, 5, "group"): (2, 5)}
    for code, plain in files.items():
        assert code.plain == plain and ExpG.from_plain(*plain) == code
    with pytest.raises(ValueError, match="unknown order 'weigth'; did you mean weight?"):
        ExpG(2, 5, "weigth")


@pytest.mark.parametrize("code", BOTH, **ids)
def test_count_and_pattern_are_those_of_the_neuron(code):
    k = torch.arange(code.levels + 1)
    spikes = ExpGIF(float(code.levels), code).fire(k.float())
    assert torch.equal(spike_count(k, code), spikes.sum(0).int())
    assert torch.equal(spike_pattern(k, code), spikes.bool())
    assert torch.equal(spike_count(k.to(code.dtype).view(1, -1), code), spikes.sum(0).int()[None])


@pytest.mark.parametrize("code", SMALL, **ids)
def test_expected_count_interpolates(code):
    k = torch.arange(code.levels + 1)
    c = spike_count(k, code).double()
    u = (k[:-1, None] + torch.tensor([0.0, 0.25, 0.5, 0.875])).double().requires_grad_()
    expected = expected_count(u, code)
    torch.testing.assert_close(expected, c[:-1, None] + (u - k[:-1, None]) * c.diff()[:, None], rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(expected.sum(), u)
    assert torch.equal(slope, c.diff()[:, None].expand(-1, 4))
    ends = torch.tensor([-1.0, code.levels, code.levels + 1.0], requires_grad=True)
    assert expected_count(ends, code).tolist() == [0, code.time_steps, code.time_steps]
    (slope,) = torch.autograd.grad(expected_count(ends, code).sum(), ends)
    assert slope.tolist() == [0, c[-1] - c[-2], 0]


def test_expected_count_is_the_mean_under_dither():
    code, dither = ExpG(3, 2), (torch.arange(1000) + 0.5) / 1000
    for u in torch.linspace(0, 13.7, 29):
        mean = spike_count((u + dither).floor().long(), code).double().mean()
        assert expected_count(u, code).item() == pytest.approx(mean.item(), abs=4e-3)


# Spikes and staircase


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("code", BOTH, **ids)
def test_spikes_decode_to_the_staircase(code, dtype):
    for exponent in (0, -7, 5):
        quantum = 2.0**exponent
        threshold = torch.tensor(code.levels * quantum, dtype=dtype)
        x = hard_inputs(code.levels, quantum, dtype)
        neuron = ExpGIF(threshold, code)
        spikes = neuron.fire(x)
        for backend in INSTALLED:
            assert torch.equal(neuron.decode(spikes), staircase(x, threshold, code, backend=backend)), backend
        assert torch.equal(neuron.codes(spikes), codes(x, threshold, code).int())
        assert torch.equal(neuron.weights @ spikes, neuron.decode(spikes))


@settings(max_examples=150, deadline=None)
@given(
    code=st.sampled_from(BOTH),
    threshold=st.floats(0.0078125, 100, width=32),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
)
def test_spikes_of_any_quantum_differ_only_at_boundaries(code, threshold, dtype, seed):
    torch.manual_seed(seed)
    theta = torch.tensor(threshold, dtype=dtype)
    quantum = theta / code.levels
    near = (
        torch.randint(code.levels + 1, (200,)) + 0.5 + torch.randint(-9, 9, (200,)) * torch.finfo(dtype).eps
    ) * quantum
    x = torch.cat([near, torch.randn(200, dtype=dtype) * theta])
    neuron = ExpGIF(theta, code)
    spikes = neuron.fire(x)
    k = codes(x, theta, code).int()
    apart = neuron.codes(spikes) - k
    u = x.double() / quantum.double() + 0.5
    ulp = torch.finfo(dtype).eps * (u.abs() + 1)
    assert apart.abs().max() <= 1
    assert ((u - u.round()).abs()[apart != 0] <= code.time_steps * ulp[apart != 0]).all()
    same = apart == 0
    assert torch.equal(neuron.decode(spikes)[same], staircase(x, theta, code)[same])


@pytest.mark.parametrize("steps", [1, 3, 16])
def test_one_step_a_group_is_rate_coding(steps):
    quantum, code = 0.25, ExpG(1, steps)
    x = hard_inputs(code.levels, quantum, torch.float32)[:-6]
    spikes = ExpGIF(steps * quantum, code).fire(x)
    currents = torch.zeros(steps, len(x))
    currents[0] = quantum / 2 + x
    assert torch.equal(spikes, IF(quantum, reset="soft")(currents))
    assert torch.equal(spikes.sum(0), (x / quantum + 0.5).floor().clamp(0, steps))


@pytest.mark.parametrize("steps", [1, 4, 11])
def test_one_group_is_the_binary_numeral(steps):
    code = ExpG(steps, 1)
    spikes = ExpGIF(float(code.levels), code).fire(torch.arange(2.0**steps))
    for k, digits in enumerate(spikes.T.int().tolist()):
        assert "".join(map(str, digits)) == f"{k:0{steps}b}"


@pytest.mark.parametrize("order", ["weight", "group"])
def test_one_flipped_spike_shows(order):
    code = ExpG(3, 2, order)
    neuron = ExpGIF(14.0, code)
    spikes = neuron.fire(torch.arange(15.0))
    for t in range(6):
        flipped = spikes.clone()
        flipped[t, 4] = 1 - flipped[t, 4]
        assert (neuron.codes(flipped) != torch.arange(15)).sum() == 1


def test_same_levels_in_other_groups():
    layer = Staircase(ExpG(4, 4), 1.7, channels=5, power_of_two=True)
    x = torch.randn(40, 5)
    for code in (None, ExpG(2, 20), ExpG(2, 20, "group"), ExpG(1, 60)):
        neuron = ExpGIF.from_staircase(layer, code)
        assert torch.equal(neuron.decode(neuron.fire(x)), layer(x))
        assert neuron.weights.shape == ((code or layer.code).time_steps, 5)
    with pytest.raises(ValueError, match="it must make the 60"):
        ExpGIF.from_staircase(layer, ExpG(4, 2))


@pytest.mark.parametrize("code", [ExpG(4, 1), ExpG(3, 3), ExpG(3, 3, "group"), ExpG(1, 5)], **ids)
@pytest.mark.parametrize("f", [nn.Linear(6, 4, bias=False), nn.Conv1d(6, 3, 3, padding=1, bias=False)], ids=repr)
def test_reception_step_by_step(code, f):
    with torch.no_grad():
        f.weight.copy_(torch.randint(-127, 128, f.weight.shape))
    x = torch.randn(2, 6, 6)
    for quantum in (0.125, 1.0):
        neuron = ExpGIF(code.levels * quantum, code)
        spikes = neuron.fire(x)
        seen = []
        received = receive(lambda s, seen=seen: seen.append(s) or f(s), spikes, code, neuron.weights[-1])
        assert torch.equal(received, f(neuron.decode(spikes)))
        assert len(seen) == code.time_steps and all(set(s.unique().tolist()) <= {0, 1} for s in seen)
    neuron = ExpGIF(1.3, code)
    spikes = neuron.fire(x)
    received = receive(f, spikes, code, 1.3 / code.levels)
    torch.testing.assert_close(received, f(neuron.decode(spikes)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("order", ["weight", "group"])
def test_rates_and_histogram(order):
    code = ExpG(2, 3, order)
    x = torch.randn(7, 11, 13) * 3
    neuron = ExpGIF(4.5, code)
    spikes = neuron.fire(x)
    counts = histogram(neuron.codes(spikes), code.levels)
    assert counts.shape == (10,) and counts.sum() == x.numel() and counts.dtype == torch.int64
    assert torch.equal(counts, histogram(codes(x, neuron.threshold, code), code.levels))
    at = {"group": [[0, 1], [2, 3], [4, 5]], "weight": [[0, 3], [1, 4], [2, 5]]}[order]  # step j of group g
    assert torch.equal(rates(spikes, code), spikes.double().mean((1, 2, 3))[torch.tensor(at)])
    pattern = spike_pattern(torch.arange(10), code).double()
    torch.testing.assert_close(rates(spikes, code), code.by_group(pattern @ counts.double() / x.numel()))
    with pytest.raises(ValueError, match="codes up to 9 are more than levels=5"):
        histogram(neuron.codes(spikes), 5)


# Gradients and backends


def both(x, threshold, code, grad, **options):
    x, threshold = x.clone().requires_grad_(), threshold.clone().requires_grad_()
    a = staircase(x, threshold, code, **options)
    return a.detach(), *torch.autograd.grad(a, (x, threshold), grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [None, 6])
@pytest.mark.parametrize("code", [ExpG(1, 1), ExpG(4, 1), ExpG(2, 5)], **ids)
def test_gradients_are_the_formulas(code, channels, backend):
    theta = torch.rand(() if channels is None else channels, dtype=torch.float64) + 0.5
    x, grad = torch.randn(2, 50, 6, dtype=torch.float64) * 1.5
    a, grad_x, grad_theta = both(x, theta, code, grad, backend=backend)
    u = x * code.levels / theta
    k = (u + 0.5).floor().clamp(0, code.levels)
    inside = (u >= 0) & (u <= code.levels)
    torch.testing.assert_close(a, k * theta / code.levels, rtol=1e-14, atol=0)
    torch.testing.assert_close(grad_x, torch.where(inside, grad, 0.0), rtol=1e-14, atol=0)
    slope = torch.where(inside, (k - u) / code.levels, (u > code.levels).double())
    shared, dims = (300, (0, 1)) if channels is None else (50, 0)
    expected = (grad * slope).sum(dims) / math.sqrt(shared * code.levels)
    torch.testing.assert_close(grad_theta, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_belong_to_the_inside(backend):
    x = torch.tensor([-1e30, -1e-30, -0.0, 0.0, 1.0, 1.0000001, 1e30])
    _, grad_x, grad_theta = both(x, torch.tensor(1.0), ExpG(2), torch.ones(7), backend=backend)
    assert grad_x.tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert grad_theta.item() == pytest.approx(2 / math.sqrt(7 * 3))
    assert staircase(torch.tensor([math.nan, 1]), torch.tensor(1.0), ExpG(2), backend=backend).isnan().tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize("backend", KERNELS)
@settings(max_examples=60, deadline=None)
@given(
    code=st.sampled_from(CODES),
    shape=st.sampled_from([(), (1,), (5,), (3, 7), (2, 3, 4), (0, 4), (2, 130, 64)]),
    per_channel=st.booleans(),
    power_of_two=st.booleans(),
    expanded=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
)
def test_backends_equal_plain(backend, code, shape, per_channel, power_of_two, expanded, dtype, seed):
    torch.manual_seed(seed)
    channels = shape[-1:] if per_channel else ()
    theta = torch.rand(channels, dtype=dtype) + 0.01
    x = (
        (torch.randn(shape, dtype=dtype) * 2).mT
        if len(shape) > 1 and not per_channel
        else torch.randn(shape, dtype=dtype)
    )
    grad = torch.randn((), dtype=dtype).expand(x.shape) if expanded else torch.randn_like(x)
    ours = both(x, theta, code, grad, power_of_two=power_of_two, backend=backend)
    theirs = both(x, theta, code, grad, power_of_two=power_of_two, backend="plain")
    tolerance = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-11, atol=1e-12)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], **tolerance)
    torch.testing.assert_close(ours[2], theirs[2], **tolerance)
    with torch.no_grad():
        assert torch.equal(staircase(x, theta, code, power_of_two=power_of_two, backend=backend), ours[0])


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("channels", [None, 130])
def test_large_tensors_in_blocks(channels, backend):
    x, grad = torch.randn(2, 3, 700, 130)
    theta = torch.rand(() if channels is None else channels) + 0.5
    ours, theirs = (both(x, theta, ExpG(4), grad, backend=b) for b in (backend, "plain"))
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
def test_numba_gives_the_same_bits_on_any_number_of_threads():
    x, grad = torch.randn(2, 900, 257)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(both(x, torch.tensor(1.3), ExpG(4), grad, backend="numba"))
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ["plain", "fused"])
def test_half_precision_is_computed_in_single(backend):
    code, theta = ExpG(4, 4), torch.tensor(1.7)
    x = torch.randn(1000).bfloat16()
    a = staircase(x, theta, code, backend=backend)
    assert torch.equal(a, staircase(x.float(), theta, code).bfloat16())
    assert torch.equal(codes(x, theta, code), codes(x.float(), theta, code))
    ours, theirs = (
        both(x.to(d), theta, code, torch.ones(1000, dtype=d), backend=backend) for d in (x.dtype, torch.float32)
    )
    assert torch.equal(ours[1].float(), theirs[1].bfloat16().float()) and ours[1].dtype == torch.bfloat16
    torch.testing.assert_close(ours[2], theirs[2])
    layer = Staircase(code, 1.7).bfloat16()
    neuron = ExpGIF.from_staircase(layer)
    assert torch.equal(neuron.decode(neuron.fire(x)), layer(x))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(("learns", "kept"), [(True, 4), (False, 1)])
def test_kept_for_backward(backend, learns, kept):
    layer = Staircase(ExpG(4), backend=backend)
    layer.threshold.requires_grad_(learns)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel() * t.element_size()) or t, lambda t: t
    ):
        x = torch.randn(40, 25, requires_grad=True)
        a = layer(x)
    assert 0 <= sum(sizes) - 1000 * kept <= 8
    a.sum().backward()
    x = x.detach()
    inside = (x >= 0) & (x <= 1)
    with torch.no_grad():
        assert torch.equal(layer(x), a)
    y = x.clone().requires_grad_()
    layer(y).sum().backward()
    assert torch.equal(y.grad, inside.float())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles(backend, dynamic):
    torch._dynamo.reset()
    layer = Staircase(ExpG(4, 2), 1.3, channels=8, power_of_two=dynamic, backend=backend)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (3, 5):
        grads = []
        x, grad = torch.randn(2, rows, 8)
        for f in (layer, compiled):
            y = x.clone().requires_grad_()
            a = f(y)
            grads.append((a.detach(), *torch.autograd.grad(a, (y, layer.threshold), grad)))
        assert torch.equal(grads[0][0], grads[1][0])
        torch.testing.assert_close(grads[0][1:], grads[1][1:])


# The layer


def test_layer():
    layer = Staircase(ExpG(3, 2), 2.8, channels=4)
    x = torch.randn(50, 4) * 2
    assert torch.equal(layer(x), staircase_plain(x, layer.threshold, layer.code))
    assert torch.equal(layer.codes(x) * layer.quantum, layer(x)) and layer.codes(x).dtype == torch.uint8
    assert layer.quantum.shape == (4,) and not layer.quantum.requires_grad
    x.requires_grad_()
    count = layer.expected_count(x)
    torch.testing.assert_close(count, expected_count((x / layer.quantum).clamp(0, 14), layer.code))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(count.sum(), (x, layer.threshold)))
    assert list(layer.state_dict()) == ["threshold"]


def test_power_of_two():
    code = ExpG(4, 2)
    theta = torch.logspace(-5, 5, 1001)
    exact = in_force(theta, code, power_of_two=True) / code.levels
    assert (torch.frexp(exact).mantissa == 0.5).all()
    assert torch.equal(exact.double(), 2 ** (theta.double() / code.levels).log2().round())
    layer = Staircase(code, 1.7, power_of_two=True)
    assert layer.quantum == 2**-4
    x = torch.full((9,), 100.0, requires_grad=True)
    layer(x).sum().backward()
    assert layer.threshold.grad.item() == pytest.approx(9 / math.sqrt(9 * 30)), "straight-through"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_threshold_below_the_smallest_comes_back(backend):
    layer = Staircase(ExpG(2), backend=backend)
    layer.threshold.data.fill_(-1.0)
    a = layer(torch.ones(4))
    assert torch.equal(a, torch.full((4,), SMALLEST)) and layer.quantum > 0
    a.sum().backward()
    assert layer.threshold.grad > 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ExpG(0, 1), ValueError, "steps=0 must be a whole number of at least 1"),
        (lambda: ExpG(2, 1.5), ValueError, "groups=1.5 must be a whole number"),
        (lambda: ExpG(16, 2), ValueError, "more than the 65535"),
        (lambda: ExpG(10**9, 1), ValueError, "more than the 65535"),
        (lambda: ExpG.of(10), ValueError, "multiple of 4, such as 8 or 12"),
        (lambda: ExpG.of(0), ValueError, "time_steps=0 must be"),
        (lambda: Staircase(ExpG(2), 0.0), ValueError, "threshold=0.0 must be a finite number greater than 0"),
        (lambda: Staircase(ExpG(2), math.inf), ValueError, "threshold=inf must be a finite number greater than 0"),
        (lambda: StaircaseConfig(ExpG(2), math.nan), ValueError, "threshold=nan must be a number above 0"),
        (lambda: ExpGIF(torch.tensor([1.0, math.inf]), ExpG(2)), ValueError, r"threshold=\[1.0, inf\] must be finite"),
        (lambda: Staircase(ExpG(2), backend="fusd"), ValueError, "did you mean fused"),
        (lambda: ExpGIF(-1.0, ExpG(2)), ValueError, "must be finite and greater than 0 everywhere"),
        (lambda: staircase(torch.ones(2, 3), torch.ones(2), ExpG(2)), ValueError, r"must have shape \(\) or"),
        (lambda: receive(abs, torch.ones(2, 3), ExpG(2), torch.ones(3)), ValueError, "fold one per channel"),
        (lambda: receive(abs, torch.ones(3, 3), ExpG(2)), ValueError, "3 time steps are not those of"),
        (lambda: rates(torch.ones(3, 3), ExpG(2)), ValueError, "3 time steps are not those of"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_numba_says_what_it_needs(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(staircase_numba, "import_module", missing)
    staircase_numba.compiled.cache_clear()
    with pytest.raises(ImportError, match="pip install numba"):
        Staircase(ExpG(2), backend="numba")
    with pytest.raises(TypeError, match="not torch.bfloat16: use backend='fused'"):
        staircase(torch.ones(3).bfloat16(), torch.tensor(1.0), ExpG(2), backend="numba")
