"""Networks that know nothing of spikevit but its neurons: what converts, and what is refused, by the module's name."""

import copy
from math import gcd

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from spikevit import convert, quantise, record_spikes
from spikevit.conversion.certificate import certify
from spikevit.conversion.quantise import InputGrid
from spikevit.neurons import LIF, ExpG, ExpGIF, Staircase
from spikevit.profiling.calibrate import calibrate

CODE = ExpG(4, 1)


def conv_bn(c_in: int, c_out: int, **options) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, 3, padding=1, **options), nn.BatchNorm2d(c_out)]


class Residual(nn.Module):
    """The usual one: an addition in place of the shortcut, and the same neurons at two places."""

    def __init__(self, dim: int):
        super().__init__()
        self.first = nn.Sequential(*conv_bn(dim, dim, bias=False))
        self.second = nn.Sequential(*conv_bn(dim, dim, groups=dim))
        self.act = Staircase(CODE)

    def forward(self, x):
        out = self.act(self.first(x))
        out = self.second(out)
        out += x
        return self.act(out)


def cnn() -> nn.Sequential:
    """(B, C, H, W) all along; pools, dropout, flatten."""
    shared = Staircase(CODE)
    return nn.Sequential(
        *conv_bn(3, 8),
        shared,
        *conv_bn(8, 8, stride=2),
        shared,
        nn.AvgPool2d(2),
        Residual(8),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 16),
        Staircase(ExpG(2, 2)),
        nn.Linear(16, 5),
    )


class MixerBlock(nn.Module):
    """x + tokens mixed; x + channels mixed, with neurons in front of every linear map."""

    def __init__(self, tokens: int, dim: int):
        super().__init__()
        self.tokens = nn.Sequential(
            Staircase(CODE), nn.Linear(tokens, 2 * tokens), Staircase(CODE), nn.Linear(2 * tokens, tokens)
        )
        self.channels = nn.Sequential(
            Staircase(CODE), nn.Linear(dim, 2 * dim), Staircase(CODE), nn.Linear(2 * dim, dim)
        )

    def forward(self, x):
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return x + self.channels(x)


class Mixer(nn.Module):
    """MLP-Mixer of 4 × 4 patches; neurons as masks of the last map."""

    def __init__(self, dim: int = 12):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, stride=4)
        self.blocks = nn.Sequential(*(MixerBlock(16, dim) for _ in range(2)))
        self.gate, self.last = Staircase(ExpG(1, 1), 1.0), Staircase(CODE)
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.blocks(self.patches(x).flatten(2).mT)
        return self.head((self.gate(x) * self.last(x) / 2).mean(1))


class Attention(nn.Module):
    """Of spikes, without softmax, written as one does: chunk, view, permute, bmm, a scale."""

    def __init__(self, dim: int = 12, heads: int = 3):
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(6, dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, 5)
        self.lif, self.lif_qkv, self.lif_out = (Staircase(CODE) for _ in range(3))
        self.heads = heads

    def forward(self, x):
        x = self.embed(x.flatten(2))
        b, n, c = x.shape
        q, k, v = self.lif_qkv(self.qkv(self.lif(x))).chunk(3, dim=-1)
        q, k, v = (t.reshape(b, n, self.heads, c // self.heads).permute(0, 2, 1, 3) for t in (q, k, v))
        mixed = torch.matmul(torch.matmul(q, k.transpose(-2, -1)) * 0.125, v) / 4
        return self.out(self.lif_out(mixed.permute(0, 2, 1, 3).reshape(b, n, c))).mean(1)


IMAGES = {"cnn": (3, 16, 16), "mixer": (3, 16, 16), "attention": (9, 2, 3)}
MAKE = {"cnn": cnn, "mixer": Mixer, "attention": Attention}


def network(name: str, images: int = 200) -> tuple[nn.Module, torch.Tensor]:
    """With batch norm as after training, and biases, so that neurons fire."""
    torch.manual_seed(1)
    model, x = MAKE[name](), torch.randn(images, *IMAGES[name])
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Conv2d)) and m.bias is not None:
            m.bias.data += 0.3
            m.weight.data *= 2
    return calibrate(model, x), x


def fused(model: nn.Module) -> nn.Module:
    """Batch norm folded as torch does it."""
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        if isinstance(parent, nn.Sequential):
            for i in range(len(parent) - 1):
                if isinstance(parent[i], nn.Conv2d) and isinstance(parent[i + 1], nn.BatchNorm2d):
                    parent[i], parent[i + 1] = fuse_conv_bn_eval(parent[i], parent[i + 1]), nn.Identity()
                elif isinstance(parent[i], nn.Linear) and isinstance(parent[i + 1], nn.BatchNorm1d):
                    parent[i], parent[i + 1] = fuse_linear_bn_eval(parent[i], parent[i + 1]), nn.Identity()
    return model


def exact(model: nn.Module) -> nn.Module:
    return quantise(nn.Sequential(InputGrid(), fused(model))).eval()


@pytest.mark.parametrize("name", MAKE)
def test_float_mode(name):
    model, x = network(name)
    spiking, certificate = convert(model, x)
    assert {layer.name for layer in certificate.layers} == {
        n for n, m in model.named_modules() if isinstance(m, Staircase)
    }
    assert not any(isinstance(m, Staircase) for m in spiking.modules())
    assert certificate.agreement >= 0.98 and not certificate.exact
    assert certificate.differing < 5e-3 * sum(layer.compared for layer in certificate.layers)
    assert not any(layer.flagged for layer in certificate.layers)
    with torch.no_grad():
        torch.testing.assert_close(spiking(x).median(), model(x).median(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("batch_size", [200, 1])
@pytest.mark.parametrize("name", MAKE)
def test_exact_mode(name, batch_size):
    model, x = network(name)
    model, x = exact(model), x[: 200 if batch_size > 1 else 24]
    spiking, certificate = convert(model, x, batch_size=batch_size)
    assert certificate.exact and certificate.lossless and certificate.logits == 0 and certificate.agreement == 1
    assert all(layer.distinct > 3 or layer.code == (1, 1) for layer in certificate.layers)
    with torch.no_grad():
        assert torch.equal(spiking(x), model(x))
    for name, s in record_spikes(spiking, x[:4]).items():
        assert set(s.unique().tolist()) <= {0.0, 1.0}, name


@pytest.mark.parametrize("name", MAKE)
def test_conversion_in_float64_differs_nowhere(name):
    model, x = network(name, 64)
    _, certificate = convert(model.double(), x.double())
    assert certificate.differing == 0 and certificate.logits < 1e-12


def test_neurons_at_two_places_are_converted_at_both():
    model, x = network("cnn", 8)
    spiking, certificate = convert(model, x, codes={"2": (1, 15)})
    assert spiking[2] is spiking[5] and isinstance(spiking[2], ExpGIF) and spiking[2].code == ExpG(1, 15)
    sizes = {layer.name: layer.compared for layer in certificate.layers}
    assert sizes["2"] == 8 * 8 * (16 * 16 + 8 * 8) and sizes["7.act"] == 8 * 8 * 2 * 4 * 4


def test_thresholds_per_channel():
    """On the last axis, for linear maps and, behind a permutation, for convolutions, with groups too."""

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.act = nn.Linear(3, 8), Staircase(CODE, channels=8)
            self.conv = nn.Conv2d(8, 12, 3, padding=1, groups=4)
            self.last, self.head = Staircase(CODE, channels=12), nn.Linear(12, 5)

        def forward(self, x):
            x = self.act(self.stem(x.permute(0, 2, 3, 1)))
            x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return self.head(self.last(x).flatten(1, 2)).mean(1)

    torch.manual_seed(0)
    model = Maps()
    for staircase in (model.act, model.last):
        nn.init.uniform_(staircase.threshold, 0.3, 3)
    x = torch.randn(30, 3, 6, 6)
    _, certificate = convert(model.double(), x.double())
    assert certificate.differing == 0 and certificate.logits < 1e-12
    grids = quantise(nn.Sequential(InputGrid(), model.float()))
    _, certificate = convert(grids, x)
    assert certificate.lossless and certificate.logits == 0


def test_bounds_of_layers_that_see_other_than_codes():
    """Averages of four codes are four times finer than codes; the image's levels are those it has."""
    model, x = network("cnn", 4)
    model = exact(model)
    _, certificate = convert(model, x)
    assert certificate.exact
    image = int((x * 64).round().abs().max())
    levels = {"0": image, "3": 15, "7.first.0": 4 * 15, "7.second.0": 15, "11": 4 * 15, "13": 6}
    for name, most in levels.items():
        weight, _, unit = model[1].get_submodule(name).quantised()
        rows = (weight.detach().double().flatten(1) / unit.double()[:, None]).int().tolist()
        bound = max(sum(map(abs, row)) // (gcd(*row) & -gcd(*row)) for row in rows) * most
        assert certificate.accumulators[f"1.{name}"] == {"bound": bound, "type": "float32"}, name
    assert certificate.accumulators["1.6"] == {"bound": 4 * 15, "type": "float32"}  # the pool itself


def test_layers_get_room_where_their_input_is_larger_than_codes():
    """Sums over 64 positions have 64 times the levels; the layer behind was made for those of one."""
    torch.manual_seed(0)
    maps, head = nn.Conv2d(1, 8, 1), nn.Linear(8, 4)
    model = quantise(nn.Sequential(maps, Staircase(ExpG(12, 1), 4.0), Call(lambda x: x.sum((2, 3))), head))
    x = torch.randn(20, 1, 8, 8)
    assert model[3].accumulates_in == torch.float32
    spiking, certificate = convert(model, x)
    assert certificate.lossless and certificate.exact and certificate.accumulators["3"]["type"] == "float64"
    assert spiking[3].accumulates_in == torch.float64 and model[3].accumulates_in == torch.float32
    again = certify(model, spiking, [x])  # as it was it is not exact, and is not said to be
    assert not again.exact and again.reasons == ["sums can outgrow what float32 holds: 3"]
    wide = copy.deepcopy(model)
    wide[3].levels = None
    assert certify(wide, spiking, [x]).exact
    spiking[3].levels = 4095  # the spiking network alone sums in float32
    assert certify(wide, spiking, [x]).reasons == ["sums can outgrow what float32 holds: 3"]


def test_the_layer_that_sees_the_image_need_not_be_registered_first():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.lif, self.stem = nn.Linear(8, 3), Staircase(CODE), nn.Linear(4, 8)

        def forward(self, x):
            return self.head(self.lif(self.stem(x)))

    spiking, certificate = convert(quantise(Late()), torch.randn(40, 4))
    assert certificate.lossless and certificate.exact and spiking.stem.accumulates_in == torch.float64


# --- refused ---------------------------------------------------------------------------------------------------------


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def between(layer: nn.Module, *, behind_neurons: bool) -> nn.Sequential:
    """A network on (B, 4, 4, 4) with the layer under test at "2.odd", on spikes or on currents."""
    holder = nn.Sequential()
    holder.add_module("odd", layer)
    first = [nn.Conv2d(3, 4, 1), Staircase(CODE) if behind_neurons else nn.Identity()]
    return nn.Sequential(
        *first, holder, Call(lambda x: x.reshape(len(x), -1)[:, :16]), Staircase(CODE), nn.Linear(16, 2)
    )


LAYERS = {
    "softmax": nn.Softmax(-1),
    "layer norm": nn.LayerNorm(4),
    "layer norm without weights": nn.LayerNorm(4, elementwise_affine=False),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4),
    "batch norm of the batch": nn.BatchNorm2d(4, track_running_stats=False),
    "GELU": nn.GELU(),
    "ReLU": nn.ReLU(),
    "SiLU": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "PReLU": nn.PReLU(),
    "hardtanh": nn.Hardtanh(),
    "max pool": nn.MaxPool2d(2),
    "adaptive max pool": nn.AdaptiveMaxPool2d(2),
    "max": Call(lambda x: x.amax(-1, keepdim=True).expand(-1, -1, -1, 4)),
    "LP pool": nn.LPPool2d(2, 2),
    "local response norm": nn.LocalResponseNorm(2),
    "exp": Call(lambda x: (-x).exp()),
    "abs": Call(lambda x: x.abs()),
    "square": Call(lambda x: x * x),
    "power": Call(lambda x: x**2),
    "own gate": Call(lambda x: x * x.mean()),
    "normalised": Call(lambda x: x / (x.sum() + 100)),
    "rounded": Call(lambda x: (x * 8).round() / 8),
    "clamp": Call(lambda x: x.clamp(0, 1)),
    "comparison": Call(lambda x: torch.where(x > 0, x, -x)),
    "sorted": Call(lambda x: x.sort(-1).values),
    "largest": Call(lambda x: x.topk(4, -1).values),
    "LIF": LIF(1.0),
}


@pytest.mark.parametrize("behind_neurons", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_not_linear_is_refused(name, behind_neurons):
    model = between(copy.deepcopy(LAYERS[name]), behind_neurons=behind_neurons)
    with pytest.raises(ValueError, match=r"^2\.odd.* cannot be converted without loss: "):
        convert(model, torch.randn(4, 3, 4, 4))


@pytest.mark.parametrize("name", ["conv transpose", "bilinear"])
def test_what_spikes_have_no_way_through_is_refused(name):
    layer = {
        "conv transpose": nn.ConvTranspose2d(4, 4, 1),
        "bilinear": Call(lambda x: F.interpolate(x, size=4, mode="bilinear")),
    }[name]
    with pytest.raises(ValueError, match=r"^2\.odd cannot be converted without loss: "):
        convert(between(layer, behind_neurons=True), torch.randn(4, 3, 4, 4))


def test_products_of_currents_are_refused():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.lif = nn.Linear(4, 4), nn.Linear(4, 4), Staircase(CODE)

        def forward(self, x):
            return self.lif(self.q(x) @ self.k(x).mT)

    with pytest.raises(ValueError, match="the model itself cannot be .*: matmul of two activations"):
        convert(Products(), torch.randn(4, 5, 4))


def test_refusals_name_the_operator():
    for name, operator in {
        "softmax": "softmax is not linear, and no neurons",
        "layer norm": "native_layer_norm is not linear",
        "GELU": "gelu is not linear",
        "ReLU": "relu is not linear",
        "max pool": "max pool is not linear",
        "square": "mul of two activations that are not both spikes",
        "instance norm": "InstanceNorm2d normalises by statistics of its input",
        "LIF": "LIF neurons have a time axis",
    }.items():
        with pytest.raises(ValueError, match=operator):
            convert(between(copy.deepcopy(LAYERS[name]), behind_neurons=False), torch.randn(4, 3, 4, 4))
    with pytest.raises(ValueError, match="conv_transpose2d is not defined on spikes"):
        convert(between(nn.ConvTranspose2d(4, 4, 1), behind_neurons=True), torch.randn(4, 3, 4, 4))


def test_what_is_done_to_the_image_is_not_the_networks():
    """Preprocessing is the same in both networks."""
    model = nn.Sequential(nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 8), Staircase(CODE), nn.Linear(8, 2))
    _, certificate = convert(model.double(), torch.randn(40, 4).double())
    assert certificate.differing == 0


def test_batch_norm_in_exact_mode():
    model, _ = network("cnn", 4)
    with pytest.raises(ValueError, match=r"^1\.1 is a batch norm: fold it"):
        quantise(nn.Sequential(InputGrid(), model))


def test_a_network_that_ends_in_neurons():
    """Its output is spikes; what they stand for is compared."""
    _, certificate = convert(nn.Sequential(nn.Linear(4, 8), Staircase(CODE)).double(), torch.randn(40, 4).double())
    assert certificate.differing == 0 and certificate.logits < 1e-12 and certificate.agreement == 1
