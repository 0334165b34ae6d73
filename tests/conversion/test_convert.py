"""Conversion: no code of any layer differs in exact mode; in float mode every difference is listed."""

import copy
from dataclasses import replace
from math import gcd

import pytest
import torch
from small_ge2mst import SHAPE, small
from torch import nn

from spikevit import convert, create_model, load_model, quantise, record_spikes, save_model
from spikevit.conversion.certificate import certify
from spikevit.conversion.proof import ITSELF, Proof
from spikevit.layers.grid import FLOAT32, FLOAT64, on_input_grid
from spikevit.neurons import ExpG, ExpGIF, Staircase
from spikevit.neurons.spike_train import SpikeTrain
from spikevit.profiling.calibrate import calibrate


@pytest.fixture(scope="session")
def converted(trained):
    """The network in exact mode and its certificate on the whole test set."""
    return convert(trained.exact, trained.x)


def staircases(model) -> dict[str, Staircase]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Staircase)}


def decoded(spikes: torch.Tensor, code: ExpG) -> torch.Tensor:
    """Codes of spikes (T, ...), step by step as the spec has it."""
    weights = torch.tensor([2 ** (code.steps - 1 - j) for _ in range(code.groups) for j in range(code.steps)])
    return (spikes * weights.view(-1, *[1] * (spikes.dim() - 1)).to(spikes)).sum(0).int()


def assert_lossless(certificate, model, images: int):
    """Every layer was compared whole, lives, and agrees."""
    sizes = {name: codes[0, 0].numel() for name, codes in record_spikes(model, torch.zeros(1, *SHAPE)).items()}
    assert {layer.name: layer.compared for layer in certificate.layers} == {n: s * images for n, s in sizes.items()}
    assert [(layer.name, layer.differing, layer.largest) for layer in certificate.layers] == [
        (n, 0, 0) for n in names_in(certificate)
    ]
    assert not [layer.name for layer in certificate.layers if layer.flagged]
    assert certificate.lossless and certificate.exact and certificate.differing == 0
    assert certificate.images == images and certificate.agreement == 1 and certificate.logits == 0


def names_in(certificate):
    return [layer.name for layer in certificate.layers]


# --- exact mode ------------------------------------------------------------------------------------------------------


def test_the_network_is_trained(trained):
    with torch.no_grad():
        assert (trained.model(trained.x).argmax(-1) == trained.labels).double().mean() > 0.9
        assert (trained.exact(trained.x).argmax(-1) == trained.labels).double().mean() > 0.9


def test_exact_mode_is_lossless(trained, converted):
    _, certificate = converted
    assert names_in(certificate) == list(staircases(trained.exact))
    assert_lossless(certificate, trained.exact, 360)
    assert all(layer.distinct >= 6 for layer in certificate.layers)  # much of the code is in use


def test_exact_mode_is_lossless_image_by_image(trained, converted):
    """With batches of one, whose products other kernels compute; and both batch sizes give the same."""
    spiking, whole = converted
    single = certify(trained.exact, spiking, trained.x.split(1))
    assert_lossless(single, trained.exact, 360)
    assert single.layers == whole.layers


def test_codes_and_predictions_are_equal_without_the_certificate(trained, converted):
    spiking, _ = converted
    with torch.no_grad():
        ours, theirs = trained.exact(trained.x), spiking(trained.x)
    assert torch.equal(ours, theirs)
    codes, spikes = record_spikes(trained.exact, trained.x[:64]), record_spikes(spiking, trained.x[:64])
    assert list(codes) == list(spikes) and len(codes) == len(staircases(trained.exact))
    for name in codes:
        assert torch.equal(decoded(spikes[name], ExpG(4, 1)), codes[name][0].int()), name


def test_exact_mode_in_float64_and_in_other_batches(trained, converted):
    """The sums have one value, so that neither type nor order of images shows."""
    spiking, _ = converted
    x = trained.x[:100]
    with torch.no_grad():
        wanted = spiking(x)
        assert torch.equal(spiking(x.flip(0)).flip(0), wanted)
        assert torch.equal(torch.cat([spiking(part) for part in x.split(17)]), wanted)
        assert torch.equal(copy.deepcopy(spiking).double()(x.double()), wanted)


@pytest.mark.parametrize(
    ("mixers", "windows"),
    [(("conv", "gw_qk", "gw_ssa"), ((), (2,), (3, 0))), (("conv", "conv", "ssa"), ((), (), ()))],
)
def test_other_mixers(mixers, windows):
    """Masks inside windows, windows that do not divide the grid, the usual spiking attention."""
    torch.manual_seed(1)
    x = torch.randn(24, *SHAPE)
    _, certificate = convert(quantise(calibrate(small(mixers=mixers, windows=windows), x)), x)
    assert certificate.lossless and certificate.logits == 0


@pytest.mark.parametrize("mixer", ["qk_token", "sdsa"])
def test_masks_of_many_levels_are_refused(mixer):
    torch.manual_seed(1)
    x = torch.randn(4, *SHAPE)
    model = calibrate(small(mixers=("conv", "conv", mixer), windows=((), (), ())), x)
    with pytest.raises(ValueError, match=r"^stages\.2\.0\.attn cannot be converted without loss: .* a mask"):
        convert(model, x)


def test_float_mode_lists_every_difference(trained):
    spiking, certificate = convert(trained.model, trained.x)
    assert certificate.agreement >= 1 - 1 / 360 and not certificate.exact  # of 360 images at most one
    differing = {name: 0 for name in staircases(trained.model)}
    largest = dict(differing)
    for batch in trained.x.split(64):
        codes, spikes = record_spikes(trained.model, batch), record_spikes(spiking, batch)
        for name in codes:
            apart = (decoded(spikes[name], ExpG(4, 1)) - codes[name][0].int()).abs()
            differing[name] += int(apart.count_nonzero())
            largest[name] = max(largest[name], int(apart.max()))
    assert {layer.name: layer.differing for layer in certificate.layers} == differing
    assert {layer.name: layer.largest for layer in certificate.layers} == largest
    assert certificate.differing == sum(differing.values())
    assert certificate.differing < 2e-3 * sum(layer.compared for layer in certificate.layers)
    assert certificate.lossless == (certificate.differing == 0)


def test_the_model_stays_as_it_was(trained):
    model = copy.deepcopy(trained.exact).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    spiking, _ = convert(model, trained.x[:4])
    assert model.training and not spiking.training
    assert staircases(model).keys() == staircases(trained.exact).keys() and not staircases(spiking)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.config.spikes is None
    for p in spiking.parameters():
        p.data.zero_()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


# --- one spike more or less ------------------------------------------------------------------------------------------

FLIPPED = ["down.0.lif", "stages.0.0.attn.depthwise.lif", "stages.2.0.attn.proj_in.lif", "head_lif"]


def flip(_module, _args, out):
    """One spike of the last image, or one quantum."""
    if isinstance(out, SpikeTrain):
        steps = out.steps.clone()
        steps.view(-1)[-1] = 1 - steps.view(-1)[-1]
        return SpikeTrain(steps, out.code, out.quantum)
    out = out.clone()
    last, quantum = out.view(-1), _module.quantum
    last[-1] += quantum if last[-1] == 0 else -quantum
    return out


@pytest.mark.parametrize("side", ["spiking", "reference"])
@pytest.mark.parametrize("name", FLIPPED)
def test_one_flipped_spike_shows(trained, converted, name, side):
    networks = {"reference": trained.exact, "spiking": copy.deepcopy(converted[0])}
    x = trained.x[:8]
    assert certify(*networks.values(), [x]).differing == 0
    order = list(record_spikes(trained.exact, x))
    handle = networks[side].get_submodule(name).register_forward_hook(flip)
    try:
        certificate = certify(*networks.values(), [x])
    finally:
        handle.remove()
    differing = {layer.name: layer.differing for layer in certificate.layers}
    assert not certificate.lossless and differing[name] == 1
    assert not any(differing[earlier] for earlier in order[: order.index(name)])
    assert certify(*networks.values(), [x]).lossless


def test_a_changed_threshold_shows(trained, converted):
    spiking = copy.deepcopy(converted[0])
    spiking.get_submodule("stages.1.0.mlp.fc2.lif").threshold *= 1.01
    certificate = certify(trained.exact, spiking, [trained.x[:8]])
    assert not certificate.lossless
    assert {layer.name: layer.differing for layer in certificate.layers}["stages.1.0.mlp.fc2.lif"] > 0


class Fires(nn.Module):
    """Calls its neurons as often as it is told."""

    def __init__(self, times: int):
        super().__init__()
        self.linear, self.lif, self.times = nn.Linear(4, 4), Staircase(ExpG(2, 1)), times

    def forward(self, x):
        for _ in range(self.times):
            x = self.linear(self.lif(x))
        return x


def test_neurons_that_fire_more_than_once():
    model, x = Fires(3), torch.randn(50, 4)
    spiking, certificate = convert(model, x)
    assert [layer.compared for layer in certificate.layers] == [3 * 50 * 4]
    for reference, other in ((2, 3), (3, 2)):
        model.times, spiking.times = reference, other
        with pytest.raises(ValueError, match="lif.*often"):
            certify(model, spiking, [x])


def test_a_dead_layer_is_flagged():
    """Equality of silence proves nothing."""
    model = nn.Sequential(nn.Linear(4, 8), Staircase(ExpG(2, 1)), nn.Linear(8, 3), Staircase(ExpG(1, 1)))
    model[0].bias.data.fill_(-100)
    _, certificate = convert(model, torch.randn(20, 4))
    assert certificate.differing == 0 and not certificate.lossless
    assert [(layer.name, layer.distinct, layer.flagged) for layer in certificate.layers] == [
        ("1", 1, True),
        ("3", certificate.layers[1].distinct, certificate.layers[1].distinct < 2),
    ]


def test_two_codes_are_all_that_one_step_has():
    model = nn.Sequential(nn.Linear(4, 8), Staircase(ExpG(1, 1)), nn.Linear(8, 3))
    _, certificate = convert(model, torch.randn(50, 4) * 5)
    (layer,) = certificate.layers
    assert layer.distinct == 2 and not layer.flagged
    assert replace(layer, code=(2, 1)).flagged


# --- other codes of the same levels ----------------------------------------------------------------------------------


def test_codes_by_layer(trained):
    spiking, certificate = convert(
        trained.exact, trained.x[:90], codes={"stages.*": (1, 15), "stages.2.*": (2, 5), "head_lif": (1, 15)}
    )
    assert certificate.lossless
    spikes = record_spikes(spiking, trained.x[:3])
    for layer in certificate.layers:
        wanted = {"stages": (1, 15), "head_lif": (1, 15)}.get(layer.name.split(".")[0], (4, 1))
        wanted = (2, 5, "weight") if layer.name.startswith("stages.2.") else wanted
        assert layer.code == wanted and len(spikes[layer.name]) == wanted[0] * wanted[1], layer.name
        assert (layer.name, *wanted) in spiking.config.spikes
    assert {layer.code for layer in certificate.layers} == {(4, 1), (1, 15), (2, 5, "weight")}
    with torch.no_grad():
        assert torch.equal(spiking(trained.x[:90]), trained.exact(trained.x[:90]))


@pytest.mark.parametrize("code", [(4, 2), (4, 2, "group"), (1, 30), (2, 10), (2, 10, "group"), (3, None)])
def test_thirty_levels(code):
    torch.manual_seed(1)
    x = torch.randn(12, *SHAPE)
    model = quantise(calibrate(small(time_steps=8), x))
    if code[1] is None:
        with pytest.raises(ValueError, match=r"(?s)down\.0\.lif: .*makes 28 levels; it must make the 30"):
            convert(model, x, codes={"*": (3, 4)})
        return
    spiking, certificate = convert(model, x, codes={"*": code})
    written = {(4, 2): (4, 2, "weight"), (2, 10): (2, 10, "weight")}.get(code, code[:2])
    assert certificate.lossless and {layer.code for layer in certificate.layers} == {written}
    assert {len(s) for s in record_spikes(spiking, x[:2]).values()} == {code[0] * code[1]}


def test_codes_that_do_not_fit(trained):
    with pytest.raises(ValueError, match=r"stages\.0.*makes 7 levels; it must make the 15"):
        convert(trained.exact, trained.x[:2], codes={"stages.0.*": (3, 1)})
    with pytest.raises(ValueError, match=r"codes\['stage\.0\.\*'\].*down\.0\.lif"):
        convert(trained.exact, trained.x[:2], codes={"stage.0.*": (1, 15)})
    with pytest.raises(ValueError, match="ExpG: steps=0"):
        convert(trained.exact, trained.x[:2], codes={"head_lif": (0, 15)})


# --- what is seen of it ----------------------------------------------------------------------------------------------


def test_record_spikes(trained, converted):
    spiking, certificate = converted
    x = trained.x[:5]
    codes, spikes = record_spikes(trained.exact, x), record_spikes(spiking, x)
    assert list(codes) == list(spikes) and set(codes) == set(names_in(certificate))
    for name, s in spikes.items():
        assert set(s.unique().tolist()) <= {0.0, 1.0}, name
        assert s.shape == (4, *codes[name].shape[1:]) and s.shape[1] == 5, name
        assert codes[name].shape[0] == 1 and codes[name].dtype == torch.uint8 and codes[name].max() <= 15, name
    assert record_spikes(spiking, x[:1])["head_lif"].shape == (4, 1, 4, 4, 32)


@pytest.mark.parametrize("kind", ["float", "exact", "spiking"])
def test_round_trip(trained, converted, tmp_path, kind):
    codes = {"stages.0.*": (1, 15), "stages.1.*": (2, 5), "stages.2.*": (2, 5, "group")}
    spiking = convert(trained.exact, trained.x[:2], codes=codes)[0]
    model = {"float": trained.model, "exact": trained.exact, "spiking": spiking}[kind]
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.config == model.config and again.name == "ge2mst_tiny" and type(again) is type(model)
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
    ours, theirs = record_spikes(model, trained.x[:40]), record_spikes(again, trained.x[:40])
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with torch.no_grad():
        assert torch.equal(again(trained.x[:40]), model(trained.x[:40]))
    assert {n: m.code for n, m in again.named_modules() if isinstance(m, ExpGIF)} == {
        n: m.code for n, m in model.named_modules() if isinstance(m, ExpGIF)
    }
    if kind == "spiking":
        said = {name: code for name, *code in again.config.spikes}
        assert [said[f"stages.{i}.0.mlp.fc1.lif"] for i in range(3)] == [[1, 15], [2, 5, "weight"], [2, 5]]
        assert again.get_submodule("stages.1.0.mlp.fc1.lif").code == ExpG(2, 5)
        assert again.get_submodule("stages.2.0.mlp.fc1.lif").code == ExpG(2, 5, "group")


@pytest.mark.parametrize("kind", ["staircase", "spiking"])
def test_what_needs_a_time_axis_is_refused(trained, converted, kind):
    model = {"staircase": trained.exact, "spiking": converted[0]}[kind]
    x = trained.x[:2]
    assert not model.time_axis and not model.streaming
    with pytest.raises(ValueError, match="step: ge2mst_tiny does not stream"):
        model.step(x)
    with pytest.raises(ValueError, match="per_step=True: ge2mst_tiny has no common axis"):
        model(x, per_step=True)
    with pytest.raises(ValueError, match=r"ge2mst_tiny has no time axis.*frames \(4, 2, 1, 16, 16\)"):
        model(x.expand(4, *x.shape))


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, [], (), torch.zeros(0, *SHAPE), iter([])])
def test_without_data(trained, data):
    with pytest.raises(ValueError, match="data holds no images"):
        convert(trained.exact, data)


def test_data_of_any_form(trained):
    x, labels = trained.x[:10], trained.labels[:10]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=4)
    forms = [x, loader, list(x.split(4)), ((part, None) for part in x.split(4)), [[p, 0] for p in x.split(4)]]
    certificates = [convert(trained.exact, form, batch_size=4)[1] for form in forms]
    assert all(c == certificates[0] for c in certificates) and certificates[0].images == 10


@pytest.mark.parametrize("make", [lambda: create_model("spikformer_tiny"), lambda: nn.Linear(2, 2)])
def test_nothing_to_convert(make):
    with pytest.raises(ValueError, match="no staircase neurons: there is nothing to convert"):
        convert(make(), torch.zeros(1, 3, 32, 32))


def test_a_converted_network_is_not_converted_again(trained, converted):
    with pytest.raises(ValueError, match="nothing to convert"):
        convert(converted[0], trained.x[:2])


# --- accumulators ----------------------------------------------------------------------------------------------------


def test_bounds_of_accumulators(trained, converted):
    """By hand: the largest sum of |weights| on its grid, times the largest input; attention d·M·L³."""
    found = converted[1].accumulators
    layers = {n: m for n, m in trained.exact.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert found.keys() == layers.keys() | {"stages.2.0.attn", ITSELF}
    most = {"stem.conv": int(on_input_grid(trained.x, 6).abs().max() * 64)}  # of multiples of 2^−6
    for name, layer in layers.items():
        weight, _, unit = layer.quantised()
        whole = weight.detach().double().flatten(1) / unit.double()[:, None]
        assert torch.equal(whole, whole.round()), name
        rows = [(sum(map(abs, row)), gcd(*row)) for row in whole.int().tolist() if any(row)]
        bound = max(total // (divisor & -divisor) for total, divisor in rows) * most.get(name, 15)
        assert found[name] == {"bound": bound, "type": "float32"} and bound <= FLOAT32, name
    assert found["stages.2.0.attn"] == {"bound": 16 * 16 * 15**3, "type": "float32"}


def test_sums_stay_within_their_bound(trained, converted):
    """Of the largest sum in a run, at both ends; else the bound proves nothing."""
    seen = {}

    def look(module, args, out):
        _, bias, unit = module.quantised()
        unit = unit.double() * float(scale[module])
        y = out if bias is None else out - bias.double().view(module._channels())
        units = y.double() / unit.view(module._channels())
        assert torch.equal(units, units.round())
        seen[module] = max(seen.get(module, 0), float(units.abs().max()))

    scale = {}
    model = copy.deepcopy(trained.exact)
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "quantised") and n != "stem.conv"}
    last = []
    for m in model.modules():
        if isinstance(m, Staircase):
            m.register_forward_hook(lambda module, args, out: last.append(module.quantum))
    for m in layers.values():
        m.register_forward_pre_hook(lambda module, args: scale.__setitem__(module, last[-1]))
        m.register_forward_hook(look)
    with torch.no_grad():
        model(trained.x)
    assert seen.keys() == set(layers.values())
    for name, m in layers.items():
        assert seen[m] <= converted[1].accumulators[name]["bound"], name


def test_float32_or_float64():
    """The narrower type that holds the bound; the logits are the same bits in both networks either way."""
    torch.manual_seed(2)
    x = torch.randn(6, *SHAPE)
    model = quantise(calibrate(small(code=(12, 1)), x), bits=10)  # L = 4095
    _, certificate = convert(model, x)
    types = {name: a["type"] for name, a in certificate.accumulators.items()}
    for name, a in certificate.accumulators.items():
        assert a["type"] == ("float32" if a["bound"] <= FLOAT32 else "float64"), name
    assert {*types.values()} == {"float32", "float64"} and types["stages.2.0.attn"] == "float64"
    assert FLOAT32 < certificate.accumulators["stages.2.0.attn"]["bound"] == 16 * 16 * 4095**3 <= FLOAT64
    assert certificate.differing == 0 and certificate.logits == 0


def test_sums_that_nothing_holds_are_refused_before_anything_runs(monkeypatch):
    torch.manual_seed(2)
    x = torch.randn(2, *SHAPE)
    model = quantise(calibrate(small(code=(16, 1)), x))  # L = 65535: 16 · 16 · L³ > 2^53
    proof = Proof(model)
    proof.look(x)
    proof.conclude()
    assert proof.sums["stages.2.0.attn"].bound == 16 * 16 * 65535.0**3 > FLOAT64
    monkeypatch.setattr(ExpGIF, "fire", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"stages\.2\.0\.attn: sums up to 7\.\d+e\+16 .* 2\^53 .* fewer levels"):
        convert(model, x)
