"""The planner: what it predicts is what happens, what it chooses is within the limits and on the front."""

import io
import json
from itertools import pairwise, product
from math import ceil, floor, log2

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from torch import nn

from spikevit import convert, create_model, load_model, quantise, save_model
from spikevit.conversion.planner import BINS, Histogram, measure, plan
from spikevit.layers.grid import OnGrid
from spikevit.neurons import ExpG, Staircase
from spikevit.neurons.staircase import codes, spike_count
from spikevit.profiling.observe import firing_rates

BINARY = ExpG(4, 1)


def mlp(code=BINARY, power_of_two=False, channels=None, threshold=2.0):
    """Two layers of neurons."""
    neurons = [Staircase(code, threshold, power_of_two=power_of_two, channels=c) for c in (channels, None)]
    return nn.Sequential(nn.Linear(20, 64), neurons[0], nn.Linear(64, 32), neurons[1], nn.Linear(32, 10))


def images(n=300):
    return 2 * torch.randn(n, 20)


@pytest.fixture(scope="session")
def model(trained):
    """Trained, in float mode, with Δ = 2^e."""
    return trained.model


@pytest.fixture(scope="session")
def x(trained):
    return trained.x[:256]


@pytest.fixture(scope="session")
def planned(model, x):
    """A plan of the trained network that changes most of its layers."""
    found = plan(model, x, max_steps=8, max_shift=4, max_error=0.1)
    assert sum(x.before.code != x.after.code for x in found.layers) > len(found.layers) / 2
    return found


# --- what is predicted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [None, 64])
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("code", [ExpG(1, 1), ExpG(1, 5), ExpG(2, 3), ExpG(3), ExpG(4, 2), ExpG(8)])
def test_figures_are_those_of_the_data(code, power_of_two, channels):
    """Within the resolution of the bins, for every way to choose Δ."""
    model, x = mlp(power_of_two=power_of_two, channels=channels), images()
    if channels:
        model[1].threshold.data.uniform_(0.5, 4)
    histograms, number = measure(model, x)
    found = histograms["1"]
    inputs = model[0](x).detach()
    theta = model[1].quantum * 15
    assert (number, found.neurons, found.total) == (300, 64, inputs.numel())
    assert (found.below, found.above) == (int((inputs < 0).sum()), int((inputs >= 2 * theta).sum()))
    y = (inputs / theta).clamp(0, 1)
    for ratio in {1.0, code.levels / 15 * 2.0 ** round(torch.tensor(15 / code.levels).log2().item())}:
        k = codes(inputs / theta, torch.tensor(ratio), code)
        a = k * ratio / code.levels
        assert found.spikes(code, ratio) == pytest.approx(float(spike_count(k, code).float().mean()), rel=4e-3)
        assert found.error(code, ratio) == pytest.approx(float((a - y).norm() / y.norm()), rel=1e-2)


def test_a_histogram_by_hand():
    """Inputs at 0.1, 0.4, 0.9 and 1.5 thresholds, one below and one above; L = 3 makes codes 0, 1, 3, 3, 0, 3."""
    counts = torch.zeros(2 * BINS, dtype=torch.int64)
    for y in (0.1, 0.4, 0.9, 1.5):
        counts[int(y * BINS)] = 1
    found = Histogram(counts, below=1, above=1)
    assert found.total == 6
    assert found.spikes(ExpG(2)) == (0 + 1 + 2 + 2 + 0 + 2) / 6
    assert found.spikes(ExpG(1, 3)) == (0 + 1 + 3 + 3 + 0 + 3) / 6
    wrong, energy = 0.1**2 + (0.4 - 1 / 3) ** 2 + 0.1**2, 0.1**2 + 0.4**2 + 0.9**2 + 1 + 1
    assert found.error(ExpG(2)) == pytest.approx((wrong / energy) ** 0.5, rel=2e-3)
    wrong = 0.1**2 + (0.4 - 0.5) ** 2 + (0.9 - 1) ** 2 + 2 * 0.5**2  # θ = 1.5: codes 0, 1, 2, 3, 3
    assert found.error(ExpG(2), 1.5) == pytest.approx((wrong / energy) ** 0.5, rel=2e-3)


@pytest.mark.parametrize("power_of_two", [False, True])
def test_before_is_what_the_model_does(power_of_two):
    model, x = mlp(power_of_two=power_of_two), images()
    found = plan(model, x)
    for layer in found.layers:
        assert layer.before.spikes == pytest.approx(4 * firing_rates(model, [x])[layer.name], rel=4e-3)
        assert (layer.before.threshold, layer.before.quantum) == (1, 1)
    assert found.before.spikes == pytest.approx(sum(x.before.spikes * x.neurons for x in found.layers))


def test_the_first_layer_takes_what_is_predicted(model, x, planned):
    """Nothing in front of it changed."""
    first = planned.layers[0]
    assert first.name == next(iter(firing_rates(model, [x[:2]])))
    assert first.before.code != first.after.code
    counted = firing_rates(planned.apply(model), [x])[first.name] * first.after.code.time_steps
    assert counted == pytest.approx(first.after.spikes, rel=4e-3)
    assert counted < 0.9 * first.before.spikes, "else nothing is shown"


def test_the_converted_network_takes_what_is_counted_and_about_what_is_predicted(model, x):
    x = x[:128]
    found = plan(model, x, max_steps=8, max_shift=4, max_error=0.04).check(model, x)
    assert found.after.spikes < 0.96 * found.before.spikes
    _, certificate = convert(found.apply(model), x)
    fired = {layer.name: layer for layer in certificate.layers}
    total = sum(fired[layer.name].spikes * layer.neurons for layer in found.layers)
    assert found.counted == pytest.approx(total, rel=1e-4)
    assert found.after.spikes == pytest.approx(total, rel=1e-2)
    for layer in found.layers:
        assert fired[layer.name].code == layer.after.code.plain
        assert fired[layer.name].spikes == pytest.approx(layer.counted, rel=1e-3)


# --- what is chosen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power_of_two", [False, True])
def test_the_front(power_of_two):
    found = plan(mlp(power_of_two=power_of_two), images(), max_steps=8)
    figures = [(p.spikes, p.steps, p.error) for p in found.front]
    assert len(figures) > 20 and len(set(figures)) == len(figures)
    for a, b in product(figures, figures):
        assert a == b or any(x < y for x, y in zip(a, b, strict=True)), f"{b} beats {a}"
    for steps in {t for _, t, _ in figures}:
        line = sorted((s, e) for s, t, e in figures if t == steps)
        assert [e for _, e in line] == sorted((e for _, e in line), reverse=True)
    assert {p.steps for p in found.front} >= {1, 2, 4, 8}
    assert (found.after.spikes, found.after.steps, found.after.error) in figures


def options(model, x, power_of_two):
    """(spikes, error) of all codes of T ≤ 6, for each layer."""
    found = []
    for histogram in measure(model, x)[0].values():
        found.append([])
        for code in (ExpG(n, g) for n in range(1, 7) for g in range(1, 7) if n * g <= 6):
            e = log2(15 / code.levels)
            for ratio in {code.levels / 15 * 2.0**i for i in (floor(e), ceil(e))} if power_of_two else {1.0}:
                found[-1].append((histogram.spikes(code, ratio) * histogram.neurons, histogram.error(code, ratio)))
    return found


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("max_error", [0.03, 0.1, 0.3])
def test_it_is_the_best_of_all_plans(power_of_two, max_error):
    """Of all pairs of codes of two layers."""
    model, x = mlp(power_of_two=power_of_two), images()
    found = plan(model, x, max_steps=6, max_shift=6, max_error=max_error)
    best = min(
        a[0] + b[0] for a, b in product(*options(model, x, power_of_two)) if (a[1] ** 2 + b[1] ** 2) / 2 <= max_error**2
    )
    assert found.after.error <= max_error
    assert found.after.spikes == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_it_is_the_best_of_all_plans_of_many_networks(power_of_two, depth):
    """Of all combinations of codes of layers that differ in width and in what comes in, at any limit."""
    compared = 0
    for seed in range(12):
        torch.manual_seed(seed)
        widths = [20, *(int(2 ** (2 + 7 * r)) for r in torch.rand(depth).tolist())]
        layers = [
            m
            for dims, threshold in zip(pairwise(widths), (8 ** torch.rand(depth) / 2).tolist(), strict=True)
            for m in (nn.Linear(*dims), Staircase(BINARY, threshold, power_of_two=power_of_two))
        ]
        model, x = nn.Sequential(*layers), images(100)
        spikes = errors = torch.zeros(1, dtype=torch.float64)
        for layer in options(model, x, power_of_two):
            s, e = torch.tensor(layer, dtype=torch.float64).T
            spikes, errors = (spikes[:, None] + s).flatten(), (errors[:, None] + e**2).flatten()
        for max_error in (0.02, 0.05, 0.1, 0.2, 0.4):
            within = (errors / depth).sqrt() <= max_error
            if within.any():
                found = plan(model, x, max_steps=6, max_shift=6, max_error=max_error)
                assert found.after.error <= max_error
                assert found.after.spikes == pytest.approx(float(spikes[within].min()), rel=1e-9), (seed, max_error)
                compared += 1
    assert compared > 30


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("price", [1, 10, 1e2, 1e3, 1e4, 1e5])
def test_the_front_has_the_best_plan_at_any_price_of_error(power_of_two, price):
    """Lagrange's, of spikes + price · error²."""
    model, x = mlp(power_of_two=power_of_two), images()
    found = plan(model, x, max_steps=6, max_shift=6, max_error=0.9)
    best = sum(
        min(spikes + price * error**2 / 2 for spikes, error in layer) for layer in options(model, x, power_of_two)
    )
    assert min(p.spikes + price * p.error**2 for p in found.front) == pytest.approx(best, rel=1e-6)


def test_binary_codes_take_the_place_of_rates():
    """Same levels, same values, fewer spikes: which a plan must find by itself."""
    model, x = mlp(ExpG(1, 15)), images()
    found = plan(model, x)
    assert found.after.error <= found.before.error
    assert found.after.spikes < 0.35 * found.before.spikes and found.after.steps < 8
    same = plan(model, x, max_shift=1)
    assert all(layer.after.code.steps == 1 for layer in same.layers)


def test_plans_that_ask_for_less_error_spike_more(model, x, planned):
    finer = plan(model, x, max_steps=8, max_shift=4, max_error=0.05)
    assert finer.after.error <= 0.05 < planned.after.error <= 0.1
    assert finer.after.spikes > planned.after.spikes


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize(("max_steps", "max_shift"), [(1, 1), (4, 2), (7, 3), (16, 8), (20, 20)])
@pytest.mark.parametrize("objective", ["spikes", "error", "steps"])
def test_limits(power_of_two, max_steps, max_shift, objective):
    found = plan(
        mlp(power_of_two=power_of_two),
        images(100),
        max_steps=max_steps,
        max_shift=max_shift,
        max_error=0.9,
        objective=objective,
    )
    for point in (found.after, *found.front):
        assert point.steps == max(c.code.time_steps for c in point.choices) <= max_steps
        assert all(c.code.steps <= max_shift for c in point.choices)
    assert found.after.error <= 0.9
    key = {"spikes": lambda p: p.spikes, "error": lambda p: p.error, "steps": lambda p: p.steps}[objective]
    assert key(found.after) == min(key(p) for p in found.front if p.error <= 0.9)


def test_without_a_limit_the_error_is_not_larger_than_now():
    found = plan(mlp(ExpG(2, 2)), images())
    assert found.limits["max_error"] == found.before.error >= found.after.error
    assert found.after.spikes <= found.before.spikes


@pytest.mark.parametrize("codes", product([ExpG(2), ExpG(1, 3), ExpG(2, 2), ExpG(3, 2), ExpG(5)], repeat=2))
def test_no_plan_is_worse_than_what_there_was(codes):
    model = mlp()
    model[1].code, model[3].code = codes
    found = plan(model, images(100), max_steps=6)
    assert found.after.spikes <= found.before.spikes and found.after.error <= found.before.error


@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.12, 0.2, 0.25, 0.3, 0.5])
def test_fewest_steps(max_error):
    """And then fewest spikes: fewer might be had with more steps."""
    model, x = mlp(), images()
    found = plan(model, x, max_error=max_error, objective="steps")
    with pytest.raises(ValueError, match="the least that works"):
        plan(model, x, max_error=max_error, max_steps=found.after.steps - 1)
    assert found.after.spikes >= plan(model, x, max_error=max_error).after.spikes


def test_another_point_of_the_front(model, planned):
    point = planned.front[len(planned.front) // 3]
    other = planned.at(point)
    assert other.after is point and [x.after for x in other.layers] == list(point.choices)
    after = other.apply(model)
    assert [after.get_submodule(layer.name).code for layer in other.layers] == [c.code for c in point.choices]
    with pytest.raises(ValueError, match="is not a point of this plan"):
        planned.at(plan(mlp(), images()).after)


def test_a_layer_without_input_keeps_many_levels():
    """Nothing is known of it: the cheapest code would be a guess."""
    model = mlp()
    model[1].code = ExpG(2)  # so that to leave it would not do
    nn.init.constant_(model[0].bias, -100)
    found = plan(model, images(), max_steps=4, max_error=0.5)
    assert (found.layers[0].after.spikes, found.layers[0].after.code) == (0, ExpG(4))
    assert found.layers[0].after.error > 0


def test_masks_stay():
    """Neurons that fire once or not by intention."""
    small = {"in_channels": 1, "image_size": 16, "widths": (16, 32, 32), "depths": (1, 1, 1)}
    model = create_model("ge2mst_tiny", **small, mixers=("conv", "conv", "gw_qk")).eval()
    x = torch.randn(8, 1, 16, 16)
    found = plan(model, x, max_steps=3, max_error=0.9)
    masks = [name for name, m in model.named_modules() if isinstance(m, Staircase) and "attn_lif" in name]
    assert masks and not {layer.name for layer in found.layers} & set(masks)
    spiking, _ = convert(found.apply(model), x[:4])
    assert all(spiking.get_submodule(name).code == ExpG(1) for name in masks)
    assert all(spiking.get_submodule(layer.name).code == layer.after.code != ExpG(4) for layer in found.layers)


# --- planned models --------------------------------------------------------------------------------------------------


def test_thresholds_stay_unless_the_quantum_must_be_a_power_of_two():
    x = images()
    free, exact = mlp(threshold=1.7, channels=64), mlp(power_of_two=True, threshold=1.7, channels=64)
    found = plan(free, x, max_error=0.1)
    after = found.apply(free)
    assert after[1].code == found.layers[0].after.code != free[1].code
    assert torch.equal(after[1].threshold, free[1].threshold)
    found = plan(exact, x, max_error=0.1)
    after = found.apply(exact)
    for name, layer in (("1", found.layers[0]), ("3", found.layers[1])):
        was, now = exact.get_submodule(name), after.get_submodule(name)
        mantissa, _ = torch.frexp(now.quantum)
        assert (mantissa == 0.5).all() and 0.5 < layer.after.threshold < 2
        assert torch.equal(now.quantum, was.quantum * layer.after.quantum)
        assert torch.equal(now.threshold, now.quantum * now.code.levels), "in force is what is kept"
        torch.testing.assert_close(
            now.threshold / (was.quantum * 15), torch.full_like(now.threshold, layer.after.threshold)
        )


def test_the_model_is_not_changed(model, x):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config
    found = plan(model.train(), x[:64], max_error=0.1)
    assert model.training
    assert found == plan(model.eval(), x[:64], max_error=0.1), "in evaluation mode, whatever the model's"
    found.apply(model)
    assert model.config is config
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert {m.code for m in model.modules() if isinstance(m, Staircase)} == {ExpG(4)}


def test_a_planned_model_is_saved_and_loaded(model, x, planned, tmp_path):
    after = planned.apply(model)
    save_model(after, tmp_path / "p.safetensors")
    again = load_model(tmp_path / "p.safetensors")
    wanted = {layer.name: layer.after.code for layer in planned.layers}
    assert {name: m.code for name, m in again.named_modules() if isinstance(m, Staircase)} == wanted
    assert again.config == after.config and again.config.time_steps == planned.after.steps
    assert again.activation_bits == max(code.bits for code in wanted.values())
    assert torch.equal(again(x[:64]), after(x[:64]))
    assert not torch.equal(again(x[:64]), model(x[:64]))


def test_a_planned_model_goes_on_to_exact_mode_and_converts_without_loss(model, x, planned, tmp_path):
    x = x[:32]
    spiking, certificate = convert(quantise(planned.apply(model)), x)
    assert certificate.exact and certificate.differing == 0
    save_model(spiking, tmp_path / "s.safetensors")
    assert torch.equal(load_model(tmp_path / "s.safetensors")(x), spiking(x))


def test_an_exact_model_stays_exact(trained, x, tmp_path):
    x = x[:32]
    after = plan(trained.exact, x, max_steps=10, max_shift=5, max_error=0.02).apply(trained.exact)
    most = max(m.code.levels for m in after.modules() if isinstance(m, Staircase))
    assert most > 15
    save_model(after, tmp_path / "f.safetensors")
    again = load_model(tmp_path / "f.safetensors")
    for m in (after, again):
        assert {grid.levels for grid in m.modules() if isinstance(grid, OnGrid)} == {None, most}
    assert torch.equal(again(x), after(x)) and convert(again, x)[1].differing == 0


def test_a_planned_model_learns(trained, planned):
    model = planned.apply(trained.model).train()
    x, y = trained.x[:64], trained.labels[:64]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(x), y))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert all(m.threshold.grad is not None for m in model.modules() if isinstance(m, Staircase))


# --- data and mistakes -----------------------------------------------------------------------------------------------


def test_batches_of_any_kind():
    model, x = mlp(), images()
    one = plan(model, x)
    assert plan(model, x, batch_size=7) == one
    assert plan(model, (batch for batch in x.split(50))) == one
    assert plan(model, [(batch, None) for batch in x.split(50)]) == one
    assert one.images == 300


@pytest.mark.parametrize("data", [None, [], torch.zeros(0, 20)])
def test_no_images(data):
    with pytest.raises(ValueError, match="data holds no images"):
        plan(mlp(), data)
    with pytest.raises(ValueError, match="data holds no images"):
        plan(mlp(), images()).check(mlp(), data)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_steps": 0}, "max_steps=0 must be a whole number of at least 1"),
        ({"max_shift": 1.5}, "max_shift=1.5 must be a whole number of at least 1"),
        ({"objective": "spike"}, "unknown objective 'spike'; did you mean spikes?"),
        (
            {"max_steps": 2, "max_error": 0.01},
            r"max_error=0.01: no codes within max_steps=2 and max_shift=8 satisfy it",
        ),
        ({"max_steps": 2}, r"max_error=0.\d+, that of the codes it has: no codes within max_steps=2"),
    ],
)
def test_limits_that_cannot_be(limits, message):
    with pytest.raises(ValueError, match=message):
        plan(mlp(), images(), **limits)


def test_the_least_error_that_works_does():
    model, x = mlp(), images()
    with pytest.raises(ValueError, match="the least that works is") as error:
        plan(model, x, max_steps=3, max_error=0.01)
    least = float(str(error.value).split()[-1])
    assert plan(model, x, max_steps=3, max_error=least).after.error == pytest.approx(least, abs=1e-4)
    with pytest.raises(ValueError, match="the least that works is"):
        plan(model, x, max_steps=3, max_error=least - 2e-4)


def test_mistakes(model, planned):
    with pytest.raises(ValueError, match="Linear has no staircase neurons: there is nothing to plan"):
        plan(nn.Linear(2, 2), images())
    with pytest.raises(ValueError, match="unknown layer of neurons"):
        planned.apply(mlp())
    with pytest.raises(ValueError, match=r"has ExpG\(steps=.*, the plan was made for ExpG\(steps=4, groups=1\)"):
        planned.apply(planned.apply(model))
    with pytest.raises(ValueError, match="1: an input is not a number"):
        plan(mlp(), torch.full((4, 20), torch.nan))
    with pytest.raises(ValueError, match="unknown layer of neurons in codes 'head_lf'; did you mean head_lif?"):
        create_model("ge2mst_tiny", codes=(("head_lf", 2, 1),))
    unused = mlp()
    unused[1].spare = Staircase(ExpG(2))
    with pytest.raises(ValueError, match="1.spare: no input reached these neurons"):
        plan(unused, images())


# --- shown -----------------------------------------------------------------------------------------------------------


def test_plain_values(model, x, planned):
    plain = json.loads(json.dumps(planned.to_dict()))
    assert [layer["name"] for layer in plain["layers"]] == [layer.name for layer in planned.layers]
    for layer in plain["layers"]:
        for side in ("before", "after"):
            c = layer[side]
            assert c["levels"] == c["G"] * (2 ** c["n"] - 1) and c["T"] == c["n"] * c["G"]
    assert plain["after"]["spikes"] == pytest.approx(sum(x["neurons"] * x["after"]["spikes"] for x in plain["layers"]))
    assert len(plain["front"]) == len(planned.front) and plain["after"]["counted"] is None
    checked = planned.check(model, x[:64])
    assert checked.to_dict()["after"]["counted"] == checked.counted > 0


def test_table(model, x, planned):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(planned)
    text = console.export_text()
    assert "counted:" not in text
    layer = planned.layers[0]
    assert layer.before.code != layer.after.code
    (row,) = [line for line in text.splitlines() if layer.name in line]
    n, groups = layer.after.code.steps, layer.after.code.groups
    assert f"15 → {layer.after.code.levels}" in row and f"4, 1 → {n}, {groups}" in row
    assert f"{layer.before.spikes:.2f} → {layer.after.spikes:.2f}" in row
    assert f"{planned.before.spikes:,.0f} → {planned.after.spikes:,.0f}" in text
    checked = planned.check(model, x[:64])
    console.print(checked)
    assert f"(counted: {checked.counted:,.0f})" in console.export_text()


def test_plot(planned, tmp_path):
    assert planned.plot(tmp_path / "front.svg") == tmp_path / "front.svg"
    text = (tmp_path / "front.svg").read_text()
    assert text.startswith("<?xml") and text.count("<use ") > len(planned.front)
    planned.plot(tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 400
    with pytest.raises(ValueError, match=r"front.pdf: a plot is written as .svg or .png"):
        planned.plot(tmp_path / "front.pdf")
