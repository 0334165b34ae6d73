"""Exact mode: weights on power-of-two grids, straight-through; the narrower type that holds all sums."""

import copy

import pytest
import torch
from small_ge2mst import small
from torch import nn

from spikevit import create_model, load_model, quantise, save_model
from spikevit.conversion.quantise import InputGrid
from spikevit.layers.grid import FLOAT32, GridConv2d, GridLinear, OnGrid, grid_of, round_to
from spikevit.neurons import ExpG, Staircase
from spikevit.profiling.calibrate import calibrate


def powers_of_two(x: torch.Tensor) -> bool:
    return bool((torch.frexp(x)[0] == 0.5).all())


@pytest.mark.parametrize("bits", [2, 3, 8, 12, 16])
def test_grid(bits):
    """The finest power of two whose multiples hold the weights of an output in so many bits."""
    weight = torch.randn(40, 3, 5) * torch.logspace(-6, 6, 40)[:, None, None]
    weight[0] = 0
    weight[1] = torch.tensor([2.0**-3, -1, 0.5, 0, 1])  # the largest is a power of two
    weight[2, 0, 0] = (2 ** (bits - 1) - 1) * 2.0**5  # the largest fits without a rest
    weight[2] = weight[2].clamp(max=weight[2, 0, 0])
    unit = grid_of(weight, bits)
    assert unit.shape == (40,) and powers_of_two(unit)
    whole = weight / unit[:, None, None]
    most = 2 ** (bits - 1) - 1
    top = whole.abs().flatten(1).amax(1)
    assert (top.round() <= most).all()
    assert (2 * top[1:] > most).all()  # half the unit would not do: unit · most ≥ top > unit/2 · most
    assert unit[2] == 2.0**5


def test_rounding_is_straight_through():
    x = torch.randn(20, requires_grad=True)
    y = round_to(x, 0.25)
    assert torch.equal(y, (x / 0.25).round() * 0.25)
    y.backward(g := torch.randn(20))
    assert torch.equal(x.grad, g)


@pytest.fixture(scope="module")
def exact():
    torch.manual_seed(3)
    return quantise(calibrate(small(power_of_two=False), torch.randn(16, 1, 16, 16)))


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_multiples_of_their_unit(bits):
    torch.manual_seed(3)
    model = quantise(calibrate(small(), torch.randn(16, 1, 16, 16)), bits)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert len(layers) > 10 and all(isinstance(m, OnGrid) and m.bits == bits for m in layers.values())
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    for name, layer in layers.items():
        weight, bias, unit = layer.quantised()
        assert powers_of_two(unit)
        whole = weight.double() / unit.double().view(-1, *[1] * (weight.dim() - 1))
        assert torch.equal(whole, whole.round()) and whole.abs().max() < 2 ** (bits - 1), name
        assert whole.abs().max() >= 2 ** (bits - 2) - 1, name  # and no bit is wasted
        fine = bias.double() * 256 / unit.double()
        assert torch.equal(fine, fine.round()), name
        assert (bias - layer.bias).abs().max() <= unit.max() / 512, name


def test_thresholds_are_levels_of_a_power_of_two(exact):
    staircases = [m for m in exact.modules() if isinstance(m, Staircase)]
    assert staircases and all(m.power_of_two and powers_of_two(m.quantum) for m in staircases)
    assert exact.config.power_of_two and exact.config.grid_bits == 8


def test_batch_norm_is_folded_first():
    """Weights are those of γ/√(σ² + ε) · W, but for half a unit; biases those of β + γ/√(σ² + ε) · (b − μ)."""
    torch.manual_seed(3)
    model = calibrate(small(), torch.randn(16, 1, 16, 16))
    exact, units = quantise(model), 0
    for name, m in model.named_modules():
        if (bn := getattr(m, "bn", None)) is None:
            continue
        units += 1
        kind = "linear" if hasattr(m, "linear") else "conv"
        layer, ours = getattr(m, kind), exact.get_submodule(f"{name}.{kind}")
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        weight, bias, unit = ours.quantised()
        wanted = layer.weight * scale.view(-1, *[1] * (weight.dim() - 1))
        assert ((weight - wanted).abs().flatten(1).amax(1) <= 0.5001 * unit).all(), name
        shift = bn.bias + ((0 if layer.bias is None else layer.bias) - bn.running_mean) * scale
        assert ((bias - shift).abs() <= unit / 500).all(), name
        assert exact.get_submodule(name).bn is None
    assert units > 10


def test_the_model_is_not_changed():
    model = small().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    quantise(model)
    assert model.training and model.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(isinstance(m, OnGrid) for m in model.modules()) and model.config.grid_bits is None


def test_gradients_pass_straight_through(exact):
    """Training in exact mode: every weight gets the gradient of the rounded one; the optimiser moves it."""
    model = copy.deepcopy(exact).train()
    x = torch.randn(8, 1, 16, 16)
    model(x).logsumexp(-1).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name
    layer = GridLinear(6, 4)
    layer.bits, layer.levels = 4, 3
    plain = nn.Linear(6, 4)
    weight, bias, _ = layer.quantised()
    plain.weight.data, plain.bias.data = weight.detach(), bias.detach()
    inputs = torch.randn(5, 6)
    layer.train()(inputs).square().sum().backward()
    plain(inputs).square().sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad) and torch.equal(layer.bias.grad, plain.bias.grad)


def test_training_and_evaluation_are_one_function(exact):
    """But for rounding of sums in float32."""
    x = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    model = copy.deepcopy(exact).double()
    with torch.no_grad():
        torch.testing.assert_close(model.train()(x), model.eval()(x), rtol=0, atol=1e-9)


def test_evaluation_sums_exactly(exact):
    """float32 or float64, the bits are the same, and what comes out is float64."""
    codes = torch.randint(0, 16, (64, 32)) * 0.125
    for name, m in exact.named_modules():
        if isinstance(m, GridLinear) and m.in_features == 32:
            with torch.no_grad():
                y, (weight, bias, _) = m.eval()(codes), m.quantised()
            assert y.dtype == torch.float64 and m.accumulates_in == torch.float32, name
            assert torch.equal(y, codes.double() @ weight.double().T + bias.double()), name
    wide = GridLinear(4096, 2).eval()
    wide.bits, wide.levels = 12, 4095
    assert wide.bound() > FLOAT32 and wide.accumulates_in == torch.float64
    wide.levels = None  # the image
    assert wide.bound() is None and wide.accumulates_in == torch.float64


def test_convolutions_keep_their_padding():
    for options in (
        {"padding": 1, "padding_mode": "circular"},
        {"padding": "same"},
        {"padding": 2, "dilation": 2, "groups": 2},
        {"stride": 2, "padding": 1, "padding_mode": "reflect", "bias": False},
    ):
        layer = GridConv2d(4, 6, 3, **options).eval()
        layer.bits, layer.levels = 8, 15
        plain = nn.Conv2d(4, 6, 3, **options).double()
        weight, bias, _ = layer.quantised()
        plain.weight.data = weight.detach().double()
        if bias is not None:
            plain.bias.data = bias.detach().double()
        x = torch.randint(0, 16, (2, 4, 7, 7)).float()
        for training in (True, False):
            torch.testing.assert_close(layer.train(training)(x).double(), plain(x.double()), rtol=1e-5, atol=1e-4)


def test_quantising_twice_is_quantising_once(exact, tmp_path):
    x = torch.randn(4, 1, 16, 16)
    again = quantise(exact)
    with torch.no_grad():
        assert torch.equal(again(x), exact(x))
    twelve = quantise(exact, bits=12)
    assert twelve.config.grid_bits == 12 and {m.bits for m in twelve.modules() if isinstance(m, OnGrid)} == {12}
    assert twelve.stem.conv.levels is None and twelve.head.levels == 15
    twelve.name = "ge2mst_tiny"
    save_model(twelve, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert {m.bits for m in loaded.modules() if isinstance(m, OnGrid)} == {12}
    with torch.no_grad():
        assert torch.equal(loaded(x), twelve(x)) and not torch.equal(twelve(x), exact(x))


def test_made_in_exact_mode_from_its_config():
    model = create_model("ge2mst_tiny", grid_bits=6, image_size=16)
    assert {m.bits for m in model.modules() if isinstance(m, OnGrid)} == {6} and model.stem.bn is None
    model(torch.randn(2, 3, 16, 16)).sum().backward()


def test_input_grid():
    x = torch.randn(100)
    assert torch.equal(InputGrid(3)(x), (x * 8).round() / 8) and torch.equal(InputGrid()(x), (x * 64).round() / 64)


class Scaled(nn.Linear):
    """A linear map with a mind of its own."""

    def forward(self, x):
        return 3 * super().forward(x)


class Parameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.gamma


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(4), "2 is a batch norm: fold it"),
        (nn.BatchNorm1d(4, affine=False), "2 is a batch norm: fold it"),
        (nn.Conv1d(4, 4, 1), "2 is a Conv1d: grids exist for Linear and Conv2d"),
        (nn.ConvTranspose2d(4, 4, 1), "2 is a ConvTranspose2d: grids exist for Linear and Conv2d"),
        (nn.ConvTranspose1d(4, 4, 1), "2 is a ConvTranspose1d: grids exist for Linear and Conv2d"),
        (nn.Conv3d(4, 4, 1), "2 is a Conv3d: grids exist for Linear and Conv2d"),
        (nn.LayerNorm(4), "2 is a LayerNorm: grids exist for Linear and Conv2d"),
        (nn.PReLU(), "2 is a PReLU: grids exist for Linear and Conv2d"),
        (Parameter(), "2 is a Parameter: grids exist for Linear and Conv2d"),
        (Scaled(4, 4), "2 is a Scaled: grids exist for Linear and Conv2d"),
    ],
)
def test_layers_without_a_grid(layer, message):
    with pytest.raises(ValueError, match=message):
        quantise(nn.Sequential(nn.Linear(4, 4), Staircase(ExpG(2, 1)), layer))


@pytest.mark.parametrize("bits", [0, 1, 17, 8.0, True])
def test_bits(bits):
    with pytest.raises(ValueError, match=f"bits={bits!r} of a weight must be a whole number from 2 to 16"):
        quantise(nn.Sequential(nn.Linear(4, 4), Staircase(ExpG(2, 1))), bits)


def test_no_staircases():
    with pytest.raises(ValueError, match="Spikformer has no staircase neurons: there is nothing to quantise for"):
        quantise(create_model("spikformer_tiny"))
