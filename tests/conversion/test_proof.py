"""Grids and bounds: what is claimed of a tensor is true of its values, bounds are reached, gaps are named."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from small_ge2mst import SHAPE, small
from torch import nn

from spikevit import convert, quantise
from spikevit.attention import MIXERS, make_mixer
from spikevit.conversion.certificate import certify
from spikevit.conversion.proof import IMAGE, NO_GRID, Numbers, Proof, Types, measured, outgrown, running, unit_of
from spikevit.conversion.quantise import InputGrid
from spikevit.layers.grid import OnGrid, float32_is_whole
from spikevit.neurons import ExpG, Staircase, StaircaseConfig
from spikevit.neurons.expg import spiking_
from spikevit.profiling.calibrate import calibrate

CODE = ExpG(4, 1)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def proof_of(model: nn.Module, x: torch.Tensor) -> Proof:
    proof = Proof(model)
    proof.look(x)
    proof.conclude()
    return proof


# --- what numbers are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_of_numbers(dtype):
    """An odd whole number times 2^e is divided by 2^e and by no larger power of two."""
    odd, exponent = 2 * torch.randint(-(2**21), 2**21, (500,)) + 1, torch.randint(-60, 60, (500,))
    x = (odd.double() * 2.0**exponent).to(dtype)
    assert torch.equal(unit_of(x), 2.0 ** exponent.double())
    assert measured(x) == Numbers(2.0 ** float(exponent.min()), float(x.abs().max()))
    assert measured(torch.tensor([0.0, 6.0, -20.0])) == Numbers(2.0, 20.0)
    assert measured(torch.tensor([1.0, float("nan")])).units == float("inf")
    assert measured(0.0).top == 0 and measured(0.1).unit == 2.0**-55


# --- what is claimed of a tensor is true of it -----------------------------------------------------------------------


class Checked(Proof):
    """Looks at every tensor that anything is claimed of; `reached`: how near to its bound one came."""

    checked, reached = 0, 0.0

    def call(self, func, args, kwargs):
        out = super().call(func, args, kwargs)
        for x in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(x, torch.Tensor) and (n := self.numbers[x]) not in (None, IMAGE) and n.unit:
                values = x.detach().double() / n.unit
                assert torch.equal(values, values.round()), f"{func} in {self.running[-1]}: {n}"
                assert values.abs().max() <= n.units, f"{func} in {self.running[-1]}: {n}"
                self.checked += 1
                self.reached = max(self.reached, float(values.abs().max()) / n.units)
        return out


def in_place(x):
    """A part is made smaller, another is copied over: the whole is still the larger of all."""
    x = x + 0
    x[:, :2] *= 0.25
    x[:, 2:4].copy_(x[:, :2] * 8)
    x -= 3
    return x


def moved(x):
    """Padding, constants in a concatenation, a stack, a roll."""
    x = F.pad(x, (1, 1), value=1000.0)
    return torch.stack([torch.cat([x, torch.ones(len(x), 1)], 1).roll(2, 1), 2 - F.pad(x, (0, 1))]).mean(0)


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(InputGrid(), nn.Linear(12, 8), Staircase(CODE, 2.0), *layers)


def maps(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(InputGrid(), nn.Conv2d(1, 4, 3, padding=1), Staircase(CODE, 2.0), *layers)


class Attention(nn.Module):
    """Neurons between three linear maps, and products of three of them."""

    def __init__(self, scale: float = 0.125):
        super().__init__()
        self.qkv, self.lif, self.out, self.lif_out = nn.Linear(6, 24), Staircase(CODE), nn.Linear(8, 3), Staircase(CODE)
        self.scale = scale

    def forward(self, x):
        q, k, v = self.lif(self.qkv(x)).chunk(3, -1)
        return self.out(self.lif_out(torch.matmul(torch.matmul(q, k.mT) * self.scale, v)))


NETWORKS = {
    "conv, gw_ssa": lambda: (small(windows=((), (), (2, 0))), SHAPE),
    "gw_qk": lambda: (small(mixers=("conv", "gw_qk", "ssa"), windows=((), (3,), ())), SHAPE),
    "one step": lambda: (small(mixers=("qk_token", "sdsa", "qk_channel"), windows=((),) * 3, time_steps=1), SHAPE),
    "49 tokens": lambda: (small(image_size=28, windows=((), (), (0,))), (1, 28, 28)),
    "attention": lambda: (nn.Sequential(InputGrid(), Attention()), (9, 6)),
    "in place": lambda: (flat(nn.Linear(8, 8), Call(in_place), Staircase(CODE), nn.Linear(8, 2)), (12,)),
    "moved": lambda: (flat(nn.Linear(8, 8), Call(moved), Staircase(CODE), nn.Linear(11, 2)), (12,)),
    "pools": lambda: (
        maps(nn.AvgPool2d(2, padding=1), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(3), Staircase(CODE), nn.Flatten()),
        (1, 8, 8),
    ),
    "a third": lambda: (flat(nn.Linear(8, 6), Call(lambda x: x / 3 + x), Staircase(CODE), nn.Linear(6, 2)), (12,)),
    "channels": lambda: (flat(nn.Linear(8, 6), Staircase(CODE, channels=6), nn.Linear(6, 2)), (12,)),
    "double": lambda: (nn.Sequential(InputGrid(), nn.Linear(12, 8), Staircase(CODE), nn.Linear(8, 2)).double(), (12,)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("saturated", [False, True])
def test_what_is_claimed_holds(name, saturated):
    """Of every tensor of a run: whole multiples of the unit, none above the bound."""
    torch.manual_seed(3)
    model, shape = NETWORKS[name]()
    x = torch.randn(6, *shape)
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            m.weight.data *= 3
            if m.bias is not None:
                m.bias.data += 0.3
        if isinstance(m, Staircase) and m.threshold.dim():
            m.threshold.data *= 2.0 ** torch.arange(-2, len(m.threshold) - 2)
    if name == "double":  # weights of float32, of no coarser grid
        model = model.float().double().eval()
        model[2].power_of_two = True
    else:
        model = quantise(calibrate(model, x))
    if saturated:  # weights of one sign, large inputs: sums that do not cancel
        for p in model.parameters():
            p.data.abs_()
        x = x.abs() * 4
    proof = Checked(model)
    proof.look(x.to(model[1].weight.dtype) if name == "double" else x)
    proof.conclude()
    assert proof.checked > 1 and not proof.reasons
    assert proof.reached > 0.5 or not saturated  # so tight are they somewhere: bounds that are too large prove little


# --- bounds are reached ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "dim"), [((2, 2), 32), ((4, 4), 8)])  # fewer tokens than channels a head, and more
@pytest.mark.parametrize(
    ("mixer", "options"),
    [("ssa", {"scale": 1.0}), ("gw_ssa", {"shift": 0}), ("gw_qk", {}), ("gw_qk", {"windows": (2,)})],
)
def test_attention_on_maximal_codes_reaches_its_bound(mixer, options, grid, dim):
    """All codes at L = 15, Δ = 1: what is executed sums up to N·d·L³, masks to N·L, and the bounds are these."""
    tokens, width = grid[0] * grid[1], dim // 2
    neuron = StaircaseConfig(CODE, threshold=15.0)
    model = make_mixer(mixer, dim, 2, neuron=neuron, membrane=True, grid=grid, tokens=tokens, **options)
    model = quantise(model.eval())
    for p in model.parameters():
        if p.dim() > 1:
            p.data.fill_(1.0)
    summed = []
    at = model.attn_lif if mixer != "gw_qk" else model.attn_lif[0]
    x = torch.full((1, 3, tokens, dim), 1000.0)
    with torch.no_grad(), at.register_forward_pre_hook(lambda _, args: summed.append(float(args[0].max()))):
        model(x)
    proof = proof_of(model, x)
    together = 4 if options.get("windows") else tokens
    wanted = together * 15 if mixer == "gw_qk" else tokens * width * 15**3
    assert not proof.reasons and summed == [wanted]
    assert proof.sums[""].bound == wanted and proof.sums[""].type == torch.float64


@pytest.mark.parametrize("time_steps", [1, 4])
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_is_exact_with_a_bound_or_refused(mixer, time_steps):
    torch.manual_seed(0)
    x = torch.randn(8, *SHAPE)
    windows = ((), (), (2, 0) if mixer.startswith("gw") else ())
    model = calibrate(small(mixers=("conv", "conv", mixer), windows=windows, time_steps=time_steps), x)
    try:
        _, c = convert(quantise(model), x)
    except ValueError as error:
        assert mixer in ("token_mixing", "ms_channel", "ms_token") or time_steps > 1
        assert str(error).startswith("stages.2.0.attn")
        return
    assert c.exact and not c.reasons and c.logits == 0 and c.differing == 0
    tokens, width, levels = 16, 16, 15 if time_steps == 4 else 1
    masks = {"qk_token": width, "qk_channel": tokens, "sdsa": tokens, "gw_qk": tokens}
    bound = masks[mixer] * levels if mixer in masks else tokens * width * levels**3
    assert c.accumulators["stages.2.0.attn"] == {"bound": bound, "type": "float32"}


def test_products_in_a_network_of_ones_own():
    """torch.matmul between staircases: d·N·L³ for d = 8 and N = 9."""
    torch.manual_seed(1)
    x = torch.randn(50, 9, 6)
    model = quantise(nn.Sequential(InputGrid(), Attention()))
    model[1].qkv.bias.data += 0.5
    _, c = convert(model, x)
    assert c.exact and c.lossless and c.accumulators["1"] == {"bound": 8 * 9 * 15**3, "type": "float32"}


def test_activations_meet_in_float64():
    """Products of spikes, and of pairs of their steps, are in float64 whatever the layers sum in."""
    torch.manual_seed(0)
    x = torch.randn(3, *SHAPE)
    for mixer in ("ssa", "gw_ssa"):
        model = quantise(calibrate(small(mixers=("conv", "conv", mixer), windows=((), (), ())), x))
        assert model.stages[2][0].attn.proj_in.linear.accumulates_in == torch.float32
        spiking = spiking_(quantise(model), {})
        for network in (model, spiking):
            seen = Types(network)
            with torch.no_grad(), seen.run():
                network(x)
            assert seen.narrowest["stages.2.0.attn"] == torch.float64
            assert seen.narrowest["stages.2.0.attn.proj_in.linear"] == torch.float32


# --- what is not exact, by name --------------------------------------------------------------------------------------


def reasons(model: nn.Module, x: torch.Tensor) -> list[str]:
    return [f"{reason}: {', '.join(names)}" for reason, names in proof_of(model, x).reasons.items()]


SCALED = "spikes are scaled by no power of two"
BETWEEN = {
    "a third of spikes": (Call(lambda x: x / 3), [f"{SCALED}: 3", f"{NO_GRID}: 4"]),
    "a tenth of spikes": (Call(lambda x: x * 0.1), [f"{SCALED}: 3", f"{NO_GRID}: 4"]),
    "three times": (Call(lambda x: 3 * x), []),
    "a mean of seven spikes": (
        Call(lambda x: x.unfold(1, 7, 1).mean(2).repeat(1, 4)),
        [f"{SCALED}: 3", f"{NO_GRID}: 4"],
    ),
    "a mean of four spikes": (Call(lambda x: x.unfold(1, 4, 4).mean(2).repeat(1, 4)), []),
    "a third of currents": (nn.Sequential(nn.Linear(8, 8), Call(lambda x: x / 3)), [f"{NO_GRID}: 4"]),
    "and neurons behind": (nn.Sequential(nn.Linear(8, 8), Call(lambda x: x / 3), Staircase(CODE)), []),
    "eight bits": (Call(lambda x: x.bfloat16()), []),
    "a softmax": (nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1)), ["softmax may round: 3.1", f"{NO_GRID}: 4"]),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_rounds_between_neurons_and_weights(name):
    torch.manual_seed(0)
    layer, wanted = BETWEEN[name]
    model = quantise(flat(copy.deepcopy(layer), nn.Linear(8, 4)))
    for m in model.modules():
        if isinstance(m, Staircase):
            m.power_of_two = True
    assert reasons(model, torch.randn(30, 12)) == wanted


@pytest.mark.parametrize(
    ("pool", "shift"),
    [
        (nn.AvgPool2d(2), True),
        (nn.AvgPool2d(2, padding=1), True),
        (nn.AvgPool2d((2, 4), 2), True),
        (nn.AvgPool2d(3, padding=1), False),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), False),
        (nn.AvgPool2d(4, 3, ceil_mode=True), False),
        (nn.AvgPool2d(2, divisor_override=3), False),
        (nn.AdaptiveAvgPool2d(4), True),
        (nn.AdaptiveAvgPool2d(1), True),
        (nn.AdaptiveAvgPool2d(3), False),
        (Call(lambda x: x.mean((2, 3), keepdim=True)), True),
        (Call(lambda x: x[:, :, :7].mean((2, 3), keepdim=True)), False),
    ],
)
def test_means_of_a_power_of_two_entries_are_shifts(pool, shift):
    torch.manual_seed(0)
    model = quantise(maps(pool, nn.Conv2d(4, 2, 1)))
    assert reasons(model, torch.randn(5, 1, 8, 8)) == ([] if shift else [f"{SCALED}: 3", f"{NO_GRID}: 4"])


def test_half_types_hold_few_levels():
    """4095 levels need 12 bits, of which bfloat16 has 8."""
    model = flat(Call(lambda x: x.bfloat16()), nn.Linear(8, 4))
    model[2].code = ExpG(12, 1)
    assert reasons(quantise(model), torch.randn(30, 12))[0] == f"{SCALED}: 3"


def test_scales_of_attention():
    torch.manual_seed(0)
    x = torch.randn(20, 9, 6)
    assert reasons(quantise(nn.Sequential(InputGrid(), Attention(0.25))), x) == []
    assert reasons(quantise(nn.Sequential(InputGrid(), Attention(0.3))), x) == [f"{NO_GRID}: 1"]


def test_thresholds_that_are_no_power_of_two():
    torch.manual_seed(0)
    model, x = quantise(flat(nn.Linear(8, 8), Staircase(CODE), nn.Linear(8, 2))), torch.randn(60, 12)
    assert reasons(model, x) == []
    model[4].power_of_two = False
    assert reasons(model, x) == ["Δ is no power of two: 4"]
    _, c = convert(model, x)
    assert not c.exact and c.reasons == ["Δ is no power of two: 4"]


def test_weights_off_the_grid():
    torch.manual_seed(0)
    model, x = quantise(flat(nn.Linear(8, 8), Staircase(CODE), nn.Linear(8, 2))), torch.randn(60, 12)
    model[3] = nn.Linear(8, 8).double()
    model[3].weight.data = torch.rand(8, 8).double() + torch.rand(8, 8).double() / 2**29  # of 53 bits each
    assert reasons(model, x) == [f"{outgrown(torch.float64)}: 3"]
    model[3] = nn.Linear(8, 8).float().double()  # 24 bits, times 15, sums of 8: float64 holds these
    assert reasons(model, x) == []


def test_images_off_the_grid():
    """Of a value in a million the last bit is far below those of one: sums of both round in float64."""
    torch.manual_seed(0)
    model, x = quantise(nn.Sequential(nn.Linear(12, 8), Staircase(CODE), nn.Linear(8, 2))), torch.rand(60, 12) + 0.5
    assert reasons(model, x) == []
    bound = proof_of(model, x).sums["0"].bound
    x[-1, 3] = 1e-9 * 3.14159  # beyond the two images on which all else is found
    assert reasons(model, x) == [f"{outgrown(torch.float64)}: 0"]
    assert proof_of(model, x).sums["0"].bound > 2**20 * bound
    _, c = convert(model, x, batch_size=7)
    assert not c.exact and c.reasons == [f"{outgrown(torch.float64)}: 0"]
    assert reasons(nn.Sequential(InputGrid(), model), x) == []


def test_what_is_done_to_the_image_is_not_followed():
    """It is the same in both networks: what comes out is measured, in place or not, linear or not."""

    def prepared(x):
        x = x.clone()
        x[:, 0] -= 0.3
        x[:, 1:3] = x[:, 1:3].exp()
        buffer = torch.zeros(len(x), 14)
        buffer[:, :12] = F.layer_norm(x, (12,))
        return (buffer * 64).round() / 64

    torch.manual_seed(0)
    model, x = quantise(nn.Sequential(nn.Linear(14, 8), Staircase(CODE), nn.Linear(8, 2))), torch.randn(50, 12)
    model = nn.Sequential(Call(prepared), model)
    proof = proof_of(model, x)
    assert not proof.reasons and proof.images == [Numbers(2.0**-6, float(prepared(x).abs().max()))]


def test_the_certificate_does_not_depend_on_batches():
    """Bounds are those of all images, however they come."""
    torch.manual_seed(0)
    x = torch.randn(24, *SHAPE)
    model = quantise(calibrate(small(), x))
    spiking, c = convert(model, x)
    for size in (1, 5, 24):
        again = certify(model, spiking, x.flip(0).split(size))
        assert again.accumulators == c.accumulators and again.exact


def test_networks_that_are_not_each_other(trained):
    """Equality on the images is not proof where the two have other weights or wiring."""
    x = trained.x[:8]
    spiking, c = convert(trained.exact, x)
    assert c.exact
    more = "the two networks differ in more than their neurons"
    for change in (
        lambda m: m.head.weight.data.view(-1)[0].neg_(),
        lambda m: setattr(m.down[0].conv, "padding_mode", "circular"),
        lambda m: setattr(m.stages[2][0].attn, "shift", 5),
    ):
        other = copy.deepcopy(spiking)
        change(other)
        c = certify(trained.exact, other, [x])
        assert not c.exact and c.reasons[0].startswith(f"{more}: ")
    other = copy.deepcopy(spiking)
    other.head_lif.threshold *= 2
    assert certify(trained.exact, other, [x]).reasons == [f"{more}: head_lif"]


# --- reduced precision -----------------------------------------------------------------------------------------------


@pytest.fixture
def switches():
    """Puts torch's switches back."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in places():
            place.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        for place in places():
            place.fp32_precision = "none"


def places():
    onednn = torch.backends.mkldnn
    found = (torch.backends, onednn, getattr(onednn, "matmul", None), getattr(onednn, "conv", None))
    return [place for place in found if hasattr(place, "fp32_precision")]


CPU = torch.device("cpu")


def reduced(name: str):
    """Turns one switch, as a user would."""
    if name in ("high", "medium"):
        torch.set_float32_matmul_precision(name)
    else:
        number, value = name.split()
        if int(number) >= len(places()):
            pytest.skip("this torch has no such switch")
        places()[int(number)].fp32_precision = value


SWITCHES = ["high", "medium", *(f"{i} {value}" for i in range(4) for value in ("bf16", "tf32"))]


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_that_reduce_float32(switches, switch):
    """Then layers that would sum in float32 sum in float64, which no switch touches; the bits are the same."""
    torch.manual_seed(0)
    x = torch.randn(4, *SHAPE)
    model = quantise(calibrate(small(), x), bits=12)
    layers = [m for m in model.modules() if isinstance(m, OnGrid)]
    assert float32_is_whole(CPU) and any(m.accumulates_in == torch.float32 for m in layers)
    with torch.no_grad():
        wanted = model(x)
        reduced(switch)
        assert not float32_is_whole(CPU) and all(m.accumulates_in == torch.float64 for m in layers)
        seen = Types(model)
        with seen.run():
            assert torch.equal(model(x), wanted)
    assert set(seen.narrowest.values()) == {torch.float64}
    _, c = convert(model, x)
    assert c.exact and c.logits == 0


def test_the_switch_of_older_versions(monkeypatch):
    """The only one before torch 2.9; later it may refuse to answer."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert not float32_is_whole(CPU)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: (_ for _ in ()).throw(RuntimeError("mixed")))
    assert not float32_is_whole(CPU)


@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
def test_modes_of_onednn(monkeypatch, name):
    monkeypatch.setenv(name, "STRICT")
    assert float32_is_whole(CPU)
    monkeypatch.setenv(name, "BF16")
    assert not float32_is_whole(CPU)


def test_elsewhere_float32_is_not_relied_on():
    assert not float32_is_whole(torch.device("cuda")) and not float32_is_whole(torch.device("mps"))


def test_autocast_changes_nothing(trained):
    """It would cast what is float32, and leaves float64 as it is."""
    x = trained.x[:16]
    spiking, wanted = convert(trained.exact, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not float32_is_whole(CPU)
        for model in (trained.exact, spiking):
            with torch.no_grad():
                inside = model(x)
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                assert torch.equal(model(x), inside)
        c = certify(trained.exact, spiking, [x])
    assert c.exact and c.layers == wanted.layers and c.accumulators == wanted.accumulators and c.logits == 0


def test_float32_of_other_layers_is_not_relied_on_where_it_is_reduced(switches):
    """Weights of 8 bits in an ordinary layer: exact in float32, unless it is computed in fewer bits."""
    torch.manual_seed(0)
    linear = nn.Linear(8, 4)
    linear.weight.data = torch.randint(-127, 128, (4, 8)) / 64
    linear.bias.data = torch.randint(-127, 128, (4,)) / 64
    model = nn.Sequential(InputGrid(), linear, Staircase(CODE, power_of_two=True)).eval()
    x = torch.randn(20, 8)
    assert reasons(model, x) == []
    torch.set_float32_matmul_precision("medium")
    assert reasons(model, x) == ["products of float32 may be computed in fewer bits: 1"]


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_following_leaves_the_model_as_it_is(trained):
    x = trained.x[:4]
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in trained.exact.modules()]
    with torch.no_grad():
        wanted = trained.exact(x)
        with running(trained.exact) as names:
            assert torch.equal(trained.exact(x), wanted)
    assert names == [""]
    proof_of(trained.exact, x)
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in trained.exact.modules()]
