"""What every model promises, on the tiny model of each family: a new model is tested with no line more.

float64, so that spikes are equal or not: rounding does not decide.
"""

import pytest
import torch

from spikevit import convert, create_model, list_models, load_model, record_spikes, save_model

TINY = list_models("*_tiny")
WITH_TIME = [name for name in TINY if create_model(name).time_axis] + ["ge2mst_tiny, lif"]
SIZE = (32, 32)


def make(name: str, **config):
    torch.manual_seed(0)
    name, _, variant = name.partition(", ")
    if variant == "lif":
        config["neuron"] = {"kind": "lif"}
    model = create_model(name, **config).double()
    for module in model.modules():  # statistics as after training, so that neurons fire
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.02, 0.1)
            torch.nn.init.uniform_(module.weight, 0.8, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.6)
    if variant == "converted":
        return convert(model.eval(), images(1, config.get("image_size", SIZE)))[0]
    return model.eval()


def images(batch: int = 4, size=SIZE, **kwargs) -> torch.Tensor:
    return torch.randn(batch, 3, *size, dtype=torch.float64, **kwargs)


@pytest.fixture(params=TINY)
def name(request):
    return request.param


@pytest.fixture(params=[*TINY, "ge2mst_tiny, lif", "ge2mst_tiny, converted"])
def any_name(request):
    return request.param


@pytest.fixture(params=WITH_TIME)
def timed(request):
    """Models with a common axis of time steps: what is about steps, frames and streams is for them."""
    return request.param


def assert_same_run(a: dict, b: dict):
    assert list(a) == list(b)
    for neuron in a:
        assert torch.equal(a[neuron], b[neuron]), neuron


def assert_batch_independent(model):
    """No image sees another: order and company do not matter."""
    x = images()
    spikes, logits = record_spikes(model, x), model(x)
    order = torch.tensor([2, 0, 3, 1])
    permuted, logits_permuted = record_spikes(model, x[order]), model(x[order])
    assert_same_run({n: s[:, order] for n, s in spikes.items()}, permuted)
    torch.testing.assert_close(logits[order], logits_permuted, rtol=0, atol=1e-9)
    assert_same_run({n: s[:, 1:2] for n, s in spikes.items()}, record_spikes(model, x[1:2]))
    torch.testing.assert_close(logits[1:2], model(x[1:2]), rtol=0, atol=1e-9)


def test_batch_independent(any_name):
    assert_batch_independent(make(any_name))


def test_the_defect_is_seen():
    with pytest.raises(AssertionError, match=r"stages\.2\.0\.attn\.proj_out\.lif"):
        assert_batch_independent(make("qkformer_tiny", legacy_batch_leak=True))


def test_neurons_fire(name):
    rates = {n: float((s != 0).double().mean()) for n, s in record_spikes(make(name), images()).items()}
    assert all(0.001 < rate < 0.999 for rate in rates.values()), rates


def test_causal(timed):
    model = make(timed)
    frames = torch.stack([images() for _ in range(4)])
    other = torch.cat([frames[:2], torch.stack([images(), images()])])
    ours, theirs = record_spikes(model, frames), record_spikes(model, other)
    assert_same_run({n: s[:2] for n, s in ours.items()}, {n: s[:2] for n, s in theirs.items()})
    assert any(not torch.equal(ours[n][2:], theirs[n][2:]) for n in ours)


def test_nothing_stays_behind(any_name):
    model, x = make(any_name), images()
    first = record_spikes(model, x)
    record_spikes(model, images(3))
    assert_same_run(first, record_spikes(model, x))


def test_still_image_equals_frames(timed):
    model, x = make(timed), images()
    frames = x.expand(model.config.time_steps, *x.shape).contiguous()
    assert_same_run(record_spikes(model, x), record_spikes(model, frames))


def test_stream_equals_sequence(timed):
    model = make(timed)
    frames = torch.stack([images() for _ in range(3)])
    whole, state = model(frames, per_step=True), None
    for x_t, logits in zip(frames, whole, strict=True):
        logits_t, state = model.step(x_t, state)
        torch.testing.assert_close(logits_t, logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(whole.mean(0), model(frames), rtol=0, atol=1e-12)


def test_stream_drops_samples(timed):
    model = make(timed)
    frames = torch.stack([images() for _ in range(2)])
    _, state = model.step(frames[0])
    keep = torch.tensor([True, False, True, True])
    some, _ = model.step(frames[1][keep], state[keep])
    torch.testing.assert_close(some, model(frames, per_step=True)[1][keep], rtol=0, atol=1e-9)


def test_gradients(name):
    model = make(name).train()
    torch.nn.functional.cross_entropy(model(images()), torch.tensor([0, 1, 2, 3])).backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter
        before_norm = parameter.endswith(".linear.bias")  # a shift that batch norm takes away: no gradient
        assert before_norm or p.grad.abs().max() > 0, parameter


def test_sizes(name):
    side = 2 * make(name).stride
    model = make(name, image_size=(side, 2 * side))
    assert model(images(2, (side, 2 * side))).shape == (2, model.config.num_classes)
    with pytest.raises(ValueError, match=f"image width {side + 1} is not divided by the stride {model.stride}"):
        model(images(1, (side, side + 1)))
    with pytest.raises(ValueError, match="image height 3 "):
        create_model(name, image_size=(3, side))


def test_one_step(timed):
    model = make(timed, time_steps=1)
    x = images()
    torch.testing.assert_close(model(x), model(x, per_step=True)[0])


def test_wrong_inputs(name):
    model = make(name)
    with pytest.raises(ValueError, match="4 channels .* in_channels=3"):
        model(torch.randn(1, 4, *SIZE))
    with pytest.raises(ValueError, match=r"\(B, C, H, W\) or \(T, B, C, H, W\)"):
        model(torch.randn(3, *SIZE))
    with pytest.raises(ValueError, match=r"floating point.*uint8"):
        model(torch.zeros(1, 3, *SIZE, dtype=torch.uint8))


def test_wrong_states(timed):
    model = make(timed)
    with pytest.raises(ValueError, match=r"state is of 3 images, there are 2: state\[keep\]"):
        model.step(images(2), model.step(images(3))[1])
    with pytest.raises(ValueError, match="another model's state|neurons"):
        _, state = model.step(images(1))
        state.membranes = state.membranes[:-1]
        model.step(images(1), state)


def test_without_a_time_axis():
    for name in ("ge2mst_tiny", "ge2mst_tiny, converted"):
        model, x = make(name), images(1)
        with pytest.raises(ValueError, match="step: ge2mst_tiny does not stream"):
            model.step(x)
        with pytest.raises(ValueError, match="per_step=True: ge2mst_tiny has no common axis of time steps"):
            model(x, per_step=True)
        with pytest.raises(ValueError, match="ge2mst_tiny has no time axis and takes images, not frames"):
            model(x[None])


def test_checkpoint_round_trip(name, tmp_path):
    model, x = make(name, num_classes=7, time_steps=2), images(2)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.config == model.config and again.name == name
    assert torch.equal(again(x), model(x))


def test_bf16(name):
    logits = make(name).bfloat16()(images(2).bfloat16())
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_compiles_whole(name, training):
    model, x = make(name).train(training), images(2)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    logits = compiled(x)
    torch.testing.assert_close(logits, make(name).train(training)(x), rtol=1e-9, atol=1e-9)
    if training:
        logits.sum().backward()
        assert all(p.grad is not None for p in model.parameters())
