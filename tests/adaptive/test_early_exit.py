"""Early exit: the model run step by step is its specification on the logits of all steps, whatever the batch.

float64, so that spikes are equal or not: rounding does not decide.
"""

import pytest
import torch

from spikevit import count, create_model, list_models, load_model, record_spikes, save_model
from spikevit.adaptive import EarlyExit, add_early_exit, apply_methods, choose_threshold, exit_steps
from spikevit.adaptive.early_exit import MEASURES
from spikevit.checkpoint import read_about
from spikevit.profiling.calibrate import calibrate

WITH_TIME = [name for name in list_models("*_tiny") if create_model(name).time_axis] + ["ge2mst_tiny, lif"]


def make(name: str = "spikformer_tiny", **config):
    """In evaluation mode, with neurons that fire and logits far enough apart to be sure of some."""
    torch.manual_seed(0)
    name, _, variant = name.partition(", ")
    if variant == "lif":
        config["neuron"] = {"kind": "lif"}
    model = create_model(name, **{"num_classes": 5, "time_steps": 4} | config).double()
    calibrate(model, images(8, seed=1))
    torch.nn.init.normal_(model.head.weight, std=1.5)
    return model.eval()


def images(batch: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def frames(steps: int = 4, batch: int = 12) -> torch.Tensor:
    return torch.stack([images(batch, seed) for seed in range(steps)])


def in_between(logits: torch.Tensor, measure: str = "confidence") -> float:
    """A threshold at which images exit at as many different steps as can be."""
    means = logits.cumsum(0) / torch.arange(1, len(logits) + 1)[:, None, None]
    values = MEASURES[measure](means).flatten().sort().values
    between = ((values[1:] + values[:-1]) / 2)[values.diff() > 1e-6].tolist()
    return max(between, key=lambda threshold: len(exit_steps(logits, threshold, measure)[0].unique()))


@pytest.fixture(params=WITH_TIME)
def timed(request):
    return request.param


@pytest.fixture(params=sorted(MEASURES))
def measure(request):
    return request.param


@torch.no_grad()
def assert_specified(model, x, threshold, measure):
    steps, logits = exit_steps(model(x, per_step=True), threshold, measure)
    early = add_early_exit(model, threshold, measure=measure)
    ours, taken = early.run(x)
    assert torch.equal(taken, steps)
    torch.testing.assert_close(ours, logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(early(x), logits, rtol=0, atol=1e-9)
    return steps


@pytest.mark.parametrize(("kind", "measure"), [("images", "confidence"), ("frames", "margin")])
def test_is_what_the_specification_says(timed, kind, measure):
    model = make(timed)
    x = images() if kind == "images" else frames(5)
    with torch.no_grad():
        threshold = in_between(model(x, per_step=True), measure)
    steps = assert_specified(model, x, threshold, measure)
    assert len(steps.unique()) > 1, "some exit and some go on, or this test shows nothing"


def test_with_every_measure(measure):
    model, x = make(), images()
    with torch.no_grad():
        threshold = in_between(model(x, per_step=True), measure)
    assert len(assert_specified(model, x, threshold, measure).unique()) > 1


def test_the_ends_of_the_threshold(timed):
    model, x = make(timed), images(4)
    with torch.no_grad():
        every = model(x, per_step=True)
        first, taken = add_early_exit(model, 1e-9).run(x)
        assert taken.tolist() == [1] * 4
        torch.testing.assert_close(first, every[0], rtol=0, atol=1e-9)
        last, taken = add_early_exit(model, 1.0).run(x)
        assert taken.tolist() == [4] * 4
        torch.testing.assert_close(last, model(x), rtol=0, atol=1e-9)


def test_no_image_sees_its_batch(timed):
    model, x = make(timed), images()
    with torch.no_grad():
        early = add_early_exit(model, in_between(model(x, per_step=True)))
        logits, taken = early.run(x)
        assert len(taken.unique()) > 1
        order = torch.randperm(len(x))
        permuted, taken_permuted = early.run(x[order])
        torch.testing.assert_close(permuted, logits[order], rtol=0, atol=1e-9)
        assert torch.equal(taken_permuted, taken[order])
        for i in range(3):
            alone, taken_alone = early.run(x[i : i + 1])
            torch.testing.assert_close(alone, logits[i : i + 1], rtol=0, atol=1e-9)
            assert torch.equal(taken_alone, taken[i : i + 1])


def test_steps_behind_the_exit_are_not_computed():
    """Spikes of every neuron are as many as the images that are left: nothing runs for those that are done."""
    model, x = make(), images()
    with torch.no_grad():
        early = add_early_exit(model, in_between(model(x, per_step=True)))
        _, taken = early.run(x)
    left = [int((taken >= t).sum()) for t in range(1, int(taken.max()) + 1)]
    seen = []
    handle = model.blocks[0].mlp.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[:2])))
    early(x)
    handle.remove()
    assert seen == [(1, n) for n in left] and left[-1] < left[0] == len(x)


def test_fewer_operations_are_counted():
    model, x = make(), images()
    with torch.no_grad():
        threshold = in_between(model(x, per_step=True))
        _, taken = add_early_exit(model, threshold).run(x)
    full, early, first = (count(add_early_exit(model, at), x) for at in (1.0, threshold, 1e-9))
    one = count(make(time_steps=1), x)
    assert [(c.module.removeprefix("model."), c.macs) for c in first.operators] == [
        (c.module, c.macs) for c in one.operators
    ]
    assert first.macs * int(taken.sum()) == early.macs * len(x)
    assert full.macs == first.macs * 4 > early.macs
    assert sum(n.updates for n in early.neurons) * len(x) == sum(n.updates for n in first.neurons) * int(taken.sum())
    assert early.uncounted == []


def test_training_is_that_of_the_model():
    model = make().train()
    early, x = add_early_exit(model, 1e-9), images(4)
    assert early.training
    logits, taken = early.run(x)
    assert taken.tolist() == [4] * 4
    assert record_spikes(model, x).keys() == {n.removeprefix("model.") for n in record_spikes(early, x)}
    torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-9)
    loss, _ = early.loss(x, torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_weights_are_shared():
    model = make()
    early = add_early_exit(model, 0.5)
    assert early.base is model and all(
        a is b for a, b in zip(model.parameters(), early.at(0.9).parameters(), strict=True)
    )


def test_checkpoint_round_trip(timed, tmp_path):
    model, x, measure = make(timed), images(4), "margin"
    with torch.no_grad():
        early = add_early_exit(model, in_between(model(x, per_step=True), measure), measure=measure)
    save_model(early, tmp_path / "m.safetensors")
    assert read_about(tmp_path / "m.safetensors")["methods"] == [["early_exit", early.options()]]
    again = load_model(tmp_path / "m.safetensors")
    assert isinstance(again, EarlyExit) and again.options() == early.options() and again.name == early.name
    for a, b in zip(early.run(x), again.run(x), strict=True):
        assert torch.equal(a, b)
    applied = apply_methods(model, early.methods)
    assert torch.equal(applied(x), early(x))


def test_the_knob(measure):
    early = add_early_exit(make(), 0.37, measure=measure)
    x = images()
    with torch.no_grad():
        works = [float(early.at(setting).run(x)[1].double().mean()) for setting in early.settings()]
    assert works == sorted(works) and works[0] < works[-1] == 4
    assert early.setting == 0.37 and 0.37 in early.settings() and len(early.settings()) == 13
    assert early.at(0.9).options() == {"threshold": 0.9, "measure": measure}


def test_half_precision():
    model, x = make().bfloat16(), images(4).bfloat16()
    with torch.no_grad():
        logits, taken = add_early_exit(model, 0.999).run(x)
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    assert ((taken >= 1) & (taken <= 4)).all()


# --- the specification ------------------------------------------------------------------------------------------------


def test_exit_steps_by_hand():
    """Softmax of logits (log a, log b) is (a, b) / (a + b)."""
    per_step = torch.tensor([[[3.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 9.0]], [[1.0, 1.0], [1.0, 1.0]]]).log()
    p = 3 / (1 + 3)  # of the first image's z̄_1; the second's are 1/2, then √9 : 1 = 3/4, then 9^(1/3) : 1
    steps, logits = exit_steps(per_step, p - 1e-6)
    assert steps.tolist() == [1, 2]
    torch.testing.assert_close(logits, torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log())
    assert exit_steps(per_step, p + 1e-6)[0].tolist() == [3, 3]
    assert exit_steps(per_step, 2 * p - 1 - 1e-6, "margin")[0].tolist() == [1, 2]
    assert exit_steps(per_step, 2 * p - 1 + 1e-6, "margin")[0].tolist() == [3, 3]
    h = -(p * torch.tensor(p).log2() + (1 - p) * torch.tensor(1 - p).log2()).item()
    assert exit_steps(per_step, h + 1e-6, "entropy")[0].tolist() == [1, 2]
    assert exit_steps(per_step, h - 1e-6, "entropy")[0].tolist() == [3, 3]
    torch.testing.assert_close(exit_steps(per_step, 1.0)[1], per_step.mean(0))


def test_measures_stay_in_their_range(measure):
    logits = torch.tensor([[0.0, 0.0, 0.0], [200.0, 0.0, -200.0], [1.0, 2.0, 3.0]])
    alike, sure, between = MEASURES[measure](logits).tolist()
    assert (alike, sure) == {"confidence": (pytest.approx(1 / 3), 1), "margin": (0, 1), "entropy": (1, 0)}[measure]
    assert min(alike, sure) < between < max(alike, sure)


# --- choosing a threshold ---------------------------------------------------------------------------------------------


def by_brute_force(logits, labels, tolerance, measure) -> float:
    """Every threshold that occurs, and the strictest, through `exit_steps`."""
    means = torch.stack([logits[: t + 1].mean(0) for t in range(len(logits))])
    strictest = 0.0 if measure == "entropy" else 1.0
    tried = [strictest, *MEASURES[measure](means[:-1]).flatten().tolist()]
    whole = (means[-1].argmax(-1) == labels).sum().item()
    found = []
    for threshold in tried:
        steps, z = exit_steps(logits, threshold, measure)
        right = (z.argmax(-1) == labels).sum().item()
        if right >= whole - tolerance * len(labels) - 1e-9:
            found.append((steps.sum().item(), abs(threshold - strictest), threshold))
    return min(found)[2]


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_best_there_is(measure, seed, tolerance):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (40,), generator=generator)
    signal = torch.nn.functional.one_hot(labels, 4).double() * torch.linspace(0.3, 2, 5)[:, None, None]
    logits = (signal + torch.randn(5, 40, 4, generator=generator, dtype=torch.float64)) * 2
    threshold = choose_threshold(logits, labels, tolerance=tolerance, measure=measure)
    wanted = by_brute_force(logits, labels, tolerance, measure)
    ours, theirs = (exit_steps(logits, at, measure)[0] for at in (threshold, wanted))
    assert torch.equal(ours, theirs)
    assert threshold == pytest.approx(wanted, abs=1e-12)
    assert ours.double().mean() < 5 or tolerance == 0


def test_a_chosen_threshold_is_used_by_the_model():
    """What it promises on these images is what the model then does."""
    model, x = make(), images(24)
    with torch.no_grad():
        logits = model(x, per_step=True)
        labels = logits.mean(0).argmax(-1)
        labels[:6] = (labels[:6] + 1) % 5
        threshold = choose_threshold(logits, labels, tolerance=0.1)
        ours, taken = add_early_exit(model, threshold).run(x)
    assert (ours.argmax(-1) == labels).sum() >= 18 - 2
    assert taken.double().mean() < 4


def test_nothing_may_exit_early():
    """Right at the last step alone: the strictest threshold, at which all go on; if they do."""
    labels = torch.zeros(3, dtype=torch.long)
    logits = torch.tensor([[0.0, 1.0], [4.0, 0.0]]).repeat(3, 1, 1).transpose(0, 1)  # (2, 3, 2)
    for name in sorted(MEASURES):
        threshold = choose_threshold(logits, labels, measure=name)
        assert threshold == (0.0 if name == "entropy" else 1.0)
        assert exit_steps(logits, threshold, name)[0].tolist() == [2, 2, 2]
        assert choose_threshold(logits[1:], labels, measure=name) == threshold, "T = 1: there is no earlier step"
    saturated = torch.tensor([[0.0, 500.0], [2000.0, 0.0]]).repeat(3, 1, 1).transpose(0, 1)
    for name in sorted(MEASURES):
        with pytest.raises(
            ValueError, match=f"tolerance=0.0: no threshold of {name} keeps the accuracy of all 2 steps"
        ):
            choose_threshold(saturated, labels, measure=name)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "measure", "message"),
    [
        (0, "confidence", "threshold=0 must be a number above 0 and at most 1, as confidence is"),
        (1.5, "confidence", "threshold=1.5 must be a number above 0"),
        (float("nan"), "margin", "threshold=nan must be a number from 0 to 1, as margin is"),
        (-0.1, "entropy", "threshold=-0.1 must be a number from 0 to 1, as entropy"),
        (True, "margin", "threshold=True must be a number from 0 to 1, as margin"),
        ("0.5", "margin", "threshold='0.5' must be a number from 0 to 1, as margin"),
        (0.5, "confidense", "unknown measure 'confidense'; did you mean confidence?"),
    ],
)
def test_refuses_a_threshold(threshold, measure, message):
    with pytest.raises(ValueError, match=message):
        add_early_exit(make(), threshold, measure=measure)
    with pytest.raises(ValueError, match=message):
        exit_steps(torch.zeros(1, 1, 2), threshold, measure)


def test_refuses_a_model():
    with pytest.raises(ValueError, match="early exit needs a model with time steps; ge2mst_tiny has no common axis"):
        add_early_exit(create_model("ge2mst_tiny"), 0.5)
    with pytest.raises(ValueError, match="logits of every step; spikformer_tiny with early exit gives them once"):
        add_early_exit(add_early_exit(make(), 0.5), 0.5)
    with pytest.raises(ValueError, match="at least two classes to be sure of one; num_classes is 1"):
        add_early_exit(create_model("spikformer_tiny", num_classes=1), 0.5)


@pytest.mark.parametrize("training", [False, True])
def test_refuses_all_steps(training):
    early = add_early_exit(make(), 0.5).train(training)
    with pytest.raises(ValueError, match="per_step=True: spikformer_tiny with early exit does not compute all steps"):
        early(images(1), per_step=True)
    with pytest.raises(ValueError, match="step: spikformer_tiny with early exit does not stream"):
        early.step(images(1))


def test_refuses_images():
    early = add_early_exit(make(), 0.5)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\) or \(T, B, C, H, W\)"):
        early(torch.randn(3, 32, 32))
    with pytest.raises(ValueError, match="images are empty"):
        early(images(1)[:0])


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        (torch.zeros(2, 0, 3), torch.zeros(0).long(), {}, r"one image and two classes; got shape \(2, 0, 3\)"),
        (torch.zeros(0, 2, 3), torch.zeros(2).long(), {}, r"got shape \(0, 2, 3\)"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {}, r"must be \(T, B, K\) .* got shape \(2, 3\)"),
        (torch.zeros(2, 2, 1), torch.zeros(2).long(), {}, "two classes"),
        (torch.zeros(2, 2, 3), torch.zeros(3).long(), {}, r"whole numbers \(2,\), .* got torch.int64 \(3,\)"),
        (torch.zeros(2, 2, 3), torch.zeros(2), {}, "whole numbers .* got torch.float32"),
        (torch.zeros(2, 2, 3), torch.zeros(2).long(), {"tolerance": -0.1}, "tolerance=-0.1 must be a share"),
        (torch.zeros(2, 2, 3), torch.zeros(2).long(), {"tolerance": 1}, "tolerance=1 must be a share"),
        (torch.zeros(2, 2, 3), torch.zeros(2).long(), {"measure": "certainty"}, "unknown measure 'certainty'"),
        (torch.full((2, 2, 3), float("nan")), torch.zeros(2).long(), {}, "not all finite"),
    ],
)
def test_refuses_to_choose(logits, labels, options, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold(logits, labels, **options)
