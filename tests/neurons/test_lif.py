"""Neurons: equal to the originals' record, to the plain version, and to themselves step by step."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikevit.neurons import (
    IF,
    LIF,
    ATan,
    Dspike,
    ParametricLIF,
    Rectangle,
    Sigmoid,
    Triangle,
    fused_lif,
    lif,
    make_surrogate,
)

SURROGATES = [Sigmoid(), ATan(), Triangle(), Rectangle(), Dspike()]
VARIANTS = [
    "sj_default_vth1",
    "sj_vth0.5",
    "sj_no_detach",
    "sj_soft_reset",
    "sj_no_decay_input",
    "sj_tau4",
    "sj_atan",
    "stm_T6",
    "stm_T1",
    "sj_plif",
]


def neuron_of(variant: str, config: dict, backend: str):
    if variant.startswith("stm"):
        surrogate = Dspike(config["gamma"])
        return LIF(config["thresh"], decay_input=False, detach_reset=False, surrogate=surrogate, backend=backend)
    if variant == "sj_plif":
        return ParametricLIF(tau=config["init_tau"], backend=backend).double()
    return LIF(
        config.get("v_threshold", 1.0),
        tau=config["tau"],
        decay_input=config.get("decay_input", True),
        reset="soft" if config.get("v_reset", 0.0) is None else "hard",
        detach_reset=config["detach_reset"],
        surrogate=ATan(2.0) if "surrogate_function" in config else Sigmoid(4.0),
        backend=backend,
    )


@pytest.mark.parametrize("backend", ["plain", "fused"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_golden(golden_dir, variant, backend):
    record = np.load(golden_dir / "lif.npz")
    configs = json.loads(str(record["config"]))["configs"]
    assert set(configs) == set(VARIANTS)
    neuron = neuron_of(variant, configs[variant], backend)
    x, grad = (torch.tensor(record[key], dtype=torch.float64) for key in ("x", "grad_out"))
    if variant == "stm_T1":  # there T x B is the batch of a single step
        x, grad = x[None], grad[None]
    x.requires_grad_()

    spikes, _ = neuron.run(x)
    spikes.backward(grad)

    expected = {key: torch.tensor(record[f"{variant}/{key}"]).reshape(x.shape) for key in ("spikes", "grad_x")}
    assert torch.equal(spikes.detach(), expected["spikes"].double())
    torch.testing.assert_close(x.grad, expected["grad_x"], rtol=1e-12, atol=1e-12)
    if variant == "sj_plif":
        assert neuron.w.grad.item() == pytest.approx(record["sj_plif/grad_w"].item(), rel=1e-12)
    if f"{variant}/v_after" in record:
        v = None
        for x_t, v_after in zip(x.detach(), record[f"{variant}/v_after"], strict=True):
            _, v = neuron.step(x_t, v)
            np.testing.assert_allclose(v.detach().numpy(), v_after, rtol=0, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 5),
    leak=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    decay_input=st.booleans(),
    threshold=st.sampled_from([0.5, 1.0, 1.3]),
    reset=st.sampled_from(["hard", "soft"]),
    detach_reset=st.booleans(),
    surrogate=st.sampled_from(SURROGATES),
    start=st.booleans(),
    learn=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
)
def test_fused_equals_plain(
    steps, leak, decay_input, threshold, reset, detach_reset, surrogate, start, learn, dtype, seed
):
    torch.manual_seed(seed)
    options = dict(
        decay_input=decay_input, threshold=threshold, reset=reset, detach_reset=detach_reset, surrogate=surrogate
    )
    x, grad = torch.randn(2, steps, 3, 4, dtype=dtype) * 2
    v0, grad_v = torch.randn(2, 3, 4, dtype=dtype)
    results = []
    for function in (lif, fused_lif):
        inputs = [x.clone().requires_grad_()]
        if start:
            inputs.append(v0.clone().requires_grad_())
        rate = torch.tensor(leak, dtype=dtype, requires_grad=True) if learn else leak
        if learn:
            inputs.append(rate)
        spikes, v = function(inputs[0], inputs[1] if start else None, leak=rate, **options)
        gradients = torch.autograd.grad((spikes * grad).sum() + (v * grad_v).sum(), inputs, materialize_grads=True)
        results.append((spikes.detach(), v.detach(), *gradients))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    for ours, theirs in zip(results[0][2:], results[1][2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_inference_equals_training():
    x = torch.randn(4, 3, 5)
    trained, _ = fused_lif(x.clone().requires_grad_())
    with torch.no_grad():
        inferred, _ = fused_lif(x)
    assert torch.equal(trained, inferred)


def test_a_membrane_that_nobody_reads_is_left_out():
    x = torch.randn(4, 3, 5) * 2
    spikes, v = fused_lif(x, goes_on=False)
    assert torch.equal(spikes, fused_lif(x)[0]) and v is None


@pytest.mark.parametrize("surrogate", SURROGATES, ids=repr)
def test_surrogate_is_the_derivative_of_its_primitive(surrogate):
    u = torch.linspace(-2, 2, 1237, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(surrogate.primitive(u).sum(), u)
    torch.testing.assert_close(surrogate.derivative(u.detach()), slope, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(slope)
    torch.testing.assert_close(surrogate.backward(grad, u.detach()), grad * slope, rtol=1e-12, atol=1e-12)
    step = surrogate.primitive(torch.tensor([-50.0, 50.0]))
    torch.testing.assert_close(step, torch.tensor([0.0, 1.0]), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    "neuron", [LIF(), LIF(reset="soft"), IF(), ParametricLIF(), LIF(tau=3.0, decay_input=False)], ids=repr
)
def test_steps_equal_sequence(neuron):
    x = torch.randn(5, 2, 7) * 2
    whole, end = neuron.run(x)
    v, steps = None, []
    for x_t in x:
        s, v = neuron.step(x_t, v)
        steps.append(s)
    assert torch.equal(torch.stack(steps), whole)
    assert torch.equal(v, end)
    assert torch.equal(neuron(x), whole), "a second call starts from rest again"


def test_facts_of_the_field():
    fires = LIF()(torch.full((1, 1), 2.0))
    assert fires.item() == 1, "x = 2·threshold reaches the threshold at once, and a tie fires"
    assert LIF()(torch.full((50, 1), 0.999)).sum() == 0, "below the threshold it never fires"
    assert IF()(torch.full((4, 1), 0.5)).flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LIF(0.0), "threshold=0.0 must be a finite number greater than 0"),
        (lambda: LIF(tau=1.0), "tau=1.0 must be a finite number greater than 1"),
        (lambda: LIF(reset="hrad"), "did you mean hard"),
        (lambda: LIF(backend="fusd"), "did you mean fused"),
        (lambda: Sigmoid(-1.0), "alpha=-1.0 must be a finite number greater than 0"),
        (lambda: make_surrogate("atn"), "did you mean atan"),
        (lambda: LIF(math.inf), "threshold=inf must be a finite number greater than 0"),
        (lambda: IF(math.nan), "threshold=nan must be a finite number"),
        (lambda: LIF("1"), "threshold='1' must be a finite number"),
        (lambda: LIF(tau=math.inf), "tau=inf must be a finite number greater than 1"),
        (lambda: ParametricLIF(tau=math.nan), "tau=nan must be a finite number greater than 1"),
        *((lambda kind=kind: kind(math.inf), f"{kind.__name__}: alpha=inf must be") for kind in map(type, SURROGATES)),
        (lambda: make_surrogate("atan", math.nan), "ATan: alpha=nan must be a finite number greater than 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_compiled_by_inductor():
    x = torch.randn(4, 3, 64) * 2
    torch._dynamo.reset()
    compiled = torch.compile(LIF(), fullgraph=True)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    spikes, expected = compiled(ours), LIF()(theirs)
    spikes.sum().backward(), expected.sum().backward()
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
