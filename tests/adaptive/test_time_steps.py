"""Dynamic time steps: masks and their gradients, what is skipped, and that nothing but work is lost by it."""

import pytest
import torch
from adaptive_models import TIMED, assert_same_run, images, make

from spikevit import convert, count, create_model, load_model, record_spikes, save_model
from spikevit.adaptive import add_early_exit, add_halting, allocate_time_steps
from spikevit.neurons import Neuron, time_mask


def scored(model, pattern: str = "prefix", per: str = "layer", seed: int = 1):
    """The model with random scores, some layers with no open step at all."""
    found = allocate_time_steps(model, pattern=pattern, per=per)
    generator = torch.Generator().manual_seed(seed)
    for gate in found.gates:
        gate.scores.data.copy_(torch.randn(len(gate.scores), generator=generator, dtype=torch.float64) + 0.7)
    return found.eval()


def test_masks():
    scores = torch.tensor([1.0, 0.1, -0.1, 3.0])
    assert time_mask(scores, "free").tolist() == [1, 1, 0, 1]
    assert time_mask(scores, "prefix").tolist() == [1, 1, 0, 0]
    p = scores.sigmoid()
    torch.testing.assert_close(time_mask(scores, "free", soft=True), p)
    torch.testing.assert_close(time_mask(scores, "prefix", soft=True)[2], p[0] * p[1] * p[2])
    assert time_mask(torch.zeros(2), "free").tolist() == [0, 0], "σ(0) is not above 1/2"
    with pytest.raises(ValueError, match="unknown pattern 'prefx'; did you mean prefix"):
        time_mask(scores, "prefx")


@pytest.mark.parametrize("pattern", ["free", "prefix"])
def test_soft_masks_have_the_gradient_of_finite_differences(pattern):
    scores = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: time_mask(a, pattern, soft=True), scores, eps=1e-6, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pattern", ["free", "prefix"])
def test_hard_masks_have_the_written_gradient(pattern):
    """∂m_t/∂a_s = σ'(a_s) of free masks at s = t; of prefixes times the other bits up to t."""
    scores = torch.tensor([0.5, 1.0, -0.3, 0.2, -2.0], dtype=torch.float64, requires_grad=True)
    found = torch.autograd.functional.jacobian(lambda a: time_mask(a, pattern), scores)
    p = scores.detach().sigmoid()
    slope, bits = p * (1 - p), (p > 0.5).double()
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for t in range(5):
        for s in range(t + 1):
            others = [bits[r] for r in range(t + 1) if r != s]
            expected[t, s] = slope[s] * (torch.stack(others).prod() if others else 1)
    torch.testing.assert_close(found, torch.diag(slope) if pattern == "free" else expected)


@pytest.mark.parametrize("pattern", ["free", "prefix"])
@pytest.mark.parametrize("name", TIMED)
def test_frozen_equals_masked(name, pattern):
    """All spikes and logits, at a whole sequence, as a stream, on frames, whatever the batch; and with less work."""
    masked = scored(make(name), pattern)
    frozen, x = masked.freeze(), images()
    spikes = record_spikes(masked, x)
    assert_same_run(spikes, record_spikes(frozen, x))
    whole = masked(x, per_step=True)
    torch.testing.assert_close(frozen(x, per_step=True), whole, rtol=0, atol=1e-9)
    assert count(frozen, x).macs < 0.9 * count(masked, x).macs

    order = torch.tensor([2, 0, 3, 1])
    assert_same_run({n: s[:, order] for n, s in spikes.items()}, record_spikes(frozen, x[order]))
    assert_same_run({n: s[:, 1:2] for n, s in spikes.items()}, record_spikes(frozen, x[1:2]))
    state = None
    for logits in whole:
        logits_t, state = frozen.step(x, state)
        torch.testing.assert_close(logits_t, logits, rtol=0, atol=1e-9)
    frames = torch.stack([images() for _ in range(masked.config.time_steps)])
    torch.testing.assert_close(frozen(frames), masked(frames), rtol=0, atol=1e-9)
    one, two = frozen.step(x)[1], masked.step(x)[1]
    keep = torch.tensor([True, False, True, False])
    torch.testing.assert_close(
        frozen.step(x[keep], one[keep])[0], masked.step(x[keep], two[keep])[0], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", TIMED)
def test_all_open_is_the_plain_model(name):
    model, x = make(name), images()
    found = allocate_time_steps(model).eval()
    assert found.mean_steps == model.config.time_steps
    for other in (found, found.freeze()):
        assert_same_run({f"model.{n}": s for n, s in record_spikes(model, x).items()}, record_spikes(other, x))
        assert torch.equal(other(x), model(x))
        assert count(other, x).macs == count(model, x).macs


def test_closed_steps_send_nothing():
    model = make("spikformer_tiny")
    found = allocate_time_steps(model, per="block", steps={"blocks.0": 2, "patch_embed": 4, "blocks.1": 1})
    for name, spikes in record_spikes(found.eval(), images()).items():
        steps = 2 if "blocks.0" in name else 1 if "blocks.1" in name else 4
        assert not spikes[steps:].any() and spikes[:steps].any(), name
    assert set(found.table()) == {n for n, m in model.named_modules() if isinstance(m, Neuron)}
    assert found.table()["blocks.0.attn.attn_lif"] == (True, True, False, False)
    assert found.mean_steps == (5 * 4 + 5 * 2 + 5 * 1) / 15


def test_membranes_are_not_masked():
    """A step behind a closed one fires as if the closed one had been open."""
    model, x = make("spikformer_tiny"), images()
    found = allocate_time_steps(model, pattern="free", steps={"patch_embed.proj.0.lif": [0, 1, 1, 1]}).eval()
    name = "patch_embed.proj.0.lif"
    plain, masked = record_spikes(model, x)[name], record_spikes(found.freeze(), x)[f"model.{name}"]
    assert not masked[0].any() and torch.equal(masked[1:], plain[1:])


def test_a_layer_without_an_open_step():
    """It is silent, what it feeds sees its bias alone, and with all layers closed only the head's bias is left."""
    model, x = make("spikformer_tiny"), images()
    found = allocate_time_steps(model, steps={"blocks.1.mlp.fc1.lif": 0}).eval()
    frozen = found.freeze()
    torch.testing.assert_close(frozen(x), found(x), rtol=0, atol=1e-9)
    assert not record_spikes(frozen, x)["model.blocks.1.mlp.fc1.lif"].any()
    modules = {c.module for c in count(frozen, x).operators if c.macs}
    assert "model.blocks.1.mlp.fc1" not in modules and "model.blocks.1.mlp.fc2" not in modules
    silent = allocate_time_steps(model, steps={"*": 0}).eval().freeze()
    torch.testing.assert_close(silent(x), model.head.bias.expand(4, -1), rtol=0, atol=1e-9)
    assert silent.mean_steps == 0


@pytest.mark.parametrize("name", ["qkformer_tiny", "spikformer_tiny", "spikingformer_tiny"])
def test_what_is_skipped_is_not_counted(name):
    """k open steps everywhere: the work of a model with T = k, product by product, and its membrane updates."""
    model, short, x = make(name), make(name, time_steps=2), images()
    frozen = allocate_time_steps(model, steps={"*": 2}).eval().freeze()
    theirs = count(short, x)
    ours = count(frozen, x)
    assert [(f"model.{c.module}", c.macs) for c in theirs.operators if c.module != "head"] == [
        (c.module, c.macs) for c in ours.operators if c.module != "model.head"
    ]
    assert [(f"model.{n.module}", n.updates, n.spikes) for n in theirs.neurons] == [
        (n.module, n.updates, n.spikes) for n in ours.neurons
    ]


@pytest.mark.parametrize(
    ("name", "lif", "product"),
    [
        ("spikformer_tiny", "blocks.0.mlp.fc1.lif", "blocks.0.mlp.fc1"),
        ("spikformer_tiny", "blocks.1.attn.attn_lif", "blocks.1.attn"),
        ("spikformer_tiny", "patch_embed.proj.2.lif", "patch_embed.proj.2"),
        ("msvit_tiny", "stages.0.0.attn.p.lif", "stages.0.0.attn.p"),
        ("spikingformer_tiny", "blocks.0.mlp.fc2.lif", "blocks.0.mlp.fc2"),
    ],
)
def test_currents_behind_the_last_open_step_are_not_computed(name, lif, product):
    """The input has all steps; neurons that are open at the first alone need a quarter of the work in front of them."""
    model, x = make(name), images()
    frozen = allocate_time_steps(model, steps={lif: 1}).eval().freeze()
    full = sum(c.macs for c in count(model, x).operators if c.module == product)
    assert full and sum(c.macs for c in count(frozen, x).operators if c.module == f"model.{product}") * 4 == full


def test_penalties():
    model = make("spikformer_tiny")
    free = allocate_time_steps(model, weight=0.5)
    scores = torch.stack([gate.scores for gate in free.gates])
    torch.testing.assert_close(free.penalty(), 0.5 * scores.sigmoid().sum(1).mean())
    aimed = allocate_time_steps(model, per="block", target=3.0, weight=2.0)
    torch.testing.assert_close(aimed.penalty(), torch.tensor(2.0, dtype=torch.float64))
    aimed.penalty().backward()
    for unit, gate in zip(aimed.units, aimed.gates, strict=True):
        p = gate.scores.detach().sigmoid()
        expected = 2.0 * len(aimed.units[unit]) / 15 * p * (1 - p) * torch.arange(4, 0, -1)  # of all m_t with t ≥ s
        torch.testing.assert_close(gate.scores.grad, expected)
    assert not aimed.meets_target
    reached = allocate_time_steps(model, target=3.0, steps={"*": 3})
    assert reached.penalty() == 0 and reached.meets_target
    assert reached.freeze().penalty() == 0


def test_the_loss_trains_scores_and_weights():
    model = allocate_time_steps(make("spikformer_tiny"), target=2.0).train()
    loss, logits = model.loss(images(), torch.tensor([0, 1, 2, 3]))
    task = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(loss, task + model.penalty())
    task.backward()
    assert all(gate.scores.grad.isfinite().all() for gate in model.gates)
    assert sum(bool(gate.scores.grad.any()) for gate in model.gates) >= 10, "of 15; layers that are silent have none"
    assert all(p.grad is not None for p in model.parameters())


def test_a_penalty_closes_steps():
    model = allocate_time_steps(make("spikformer_tiny", time_steps=2), target=1.2, weight=5.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    x, y = images(), torch.tensor([0, 1, 2, 3])
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(x, y)[0].backward()
        optimizer.step()
        if model.meets_target:
            break
    assert model.meets_target and model.mean_steps <= 1.2


@pytest.mark.parametrize("frozen", [False, True])
def test_checkpoints(frozen, tmp_path):
    model, x = scored(make("qkformer_tiny"), per="block"), images()
    model = model.freeze() if frozen else model
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.frozen == frozen and again.table() == model.table() and again.name == "qkformer_tiny"
    assert torch.equal(again(x), model(x)) and count(again, x).macs == count(model, x).macs


@pytest.mark.parametrize("training", [False, True])
def test_compiles_whole(training):
    model, x = scored(make("spikformer_tiny")).train(training), images()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), scored(make("spikformer_tiny")).train(training)(x), rtol=1e-9, atol=1e-9)


def test_copies_do_not_share_masks():
    model = scored(make("spikformer_tiny"))
    frozen = model.freeze()
    before = frozen.table()
    for gate in model.gates:
        gate.scores.data.fill_(-1)
    assert frozen.table() == before and model.mean_steps == 0
    assert next(m for m in frozen.model.modules() if isinstance(m, Neuron)).gate is frozen.gates[0]


def test_settings_of_the_curve():
    model, x = scored(make("spikformer_tiny"), "free"), images()
    points = [model.at(setting) for setting in model.settings()]
    steps = [p.mean_steps for p in points]
    assert steps == sorted(steps) and steps[0] > 0 and len(set(steps)) > 3
    own = model.at(model.setting)
    assert own.frozen and own.table() == model.table()
    frozen = model.freeze()
    assert frozen.settings() == [1, 2, 3, 4] and frozen.setting == 4
    torch.testing.assert_close(frozen.at(2)(x), frozen(x, per_step=True)[:2].mean(0), rtol=0, atol=1e-9)
    assert frozen.config.time_steps == 4
    for bad in (0, 5, 2.5, float("nan")):
        with pytest.raises(ValueError, match=f"time_steps={bad} must be a whole number from 1 to 4"):
            frozen.at(bad)
    for bad in (-0.1, 1.5, float("nan"), "0.5"):
        with pytest.raises(ValueError, match=f"score={bad!r} must be a number of at least 0 and at most 1"):
            model.at(bad)


def test_composes_with_halting_and_early_exit():
    x = images()
    masked = allocate_time_steps(make("spikformer_tiny"), steps={"blocks.1.*": 2, "blocks.0.*": 3}).eval()
    for options in ({}, {"masked": True}):
        one, two = add_halting(masked, beta=15.0, **options), add_halting(masked.freeze(), beta=15.0)
        torch.testing.assert_close(one(x), two(x), rtol=0, atol=1e-9)
        assert torch.equal(one.run(x)[1], two.run(x)[1]) and one.run(x)[1].min() < one.cells
    one, two = add_early_exit(masked, 0.3), add_early_exit(masked.freeze(), 0.3)
    torch.testing.assert_close(one(x), two(x), rtol=0, atol=1e-9)
    assert torch.equal(one.run(x)[1], two.run(x)[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 5.0}, r"target=5.0 must be .* at most max_steps=4"),
        ({"target": 0.0}, "target=0.0 must be a mean number of time steps above 0"),
        ({"target": 3.0, "max_steps": 2}, "at most max_steps=2"),
        ({"max_steps": 0}, "max_steps=0 must be a whole number of at least 1"),
        ({"per": "blok"}, "unknown per 'blok'; did you mean block"),
        ({"pattern": "suffix"}, "unknown pattern 'suffix'; did you mean prefix"),
        ({"weight": -1.0}, "weight=-1.0 must be a number of at least 0"),
        ({"weight": float("inf")}, "weight=inf must be a number of at least 0"),
        ({"steps": {"blocks.7.*": 2}}, r"unknown layer of steps 'blocks.7.\*'"),
        ({"steps": {"block.0": 2}, "per": "block"}, "unknown block of steps 'block.0'; did you mean blocks.0"),
        ({"steps": {"*": 5}}, r"steps\['\*'\]=5 must be between 0 and max_steps=4"),
        ({"steps": {"*": [1, 0]}}, "must have a bit for each of max_steps=4 steps"),
        ({"steps": {"*": [1, 0, 1, 0]}}, "does not start with its open steps; pattern='free' allows it"),
        ({"frozen": {"stem": [1, 1, 1, 1]}}, r"frozen has masks of \['stem'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        allocate_time_steps(create_model("spikformer_tiny"), **options)


def test_bad_models():
    with pytest.raises(ValueError, match="allocation of time steps needs a model with time steps; ge2mst_tiny has no"):
        allocate_time_steps(create_model("ge2mst_tiny"))
    converted, _ = convert(make("ge2mst_tiny"), images(1))
    with pytest.raises(ValueError, match="ge2mst_tiny has no common axis of time steps"):
        allocate_time_steps(converted)
    model = make("spikformer_tiny")
    with pytest.raises(ValueError, match="time steps are allocated in spikformer_tiny already"):
        allocate_time_steps(allocate_time_steps(model))
    with pytest.raises(ValueError, match="time steps are allocated first, then halting is applied"):
        allocate_time_steps(add_halting(model))
    with pytest.raises(ValueError, match="time steps were allocated for 4 steps; this run has at least 6"):
        allocate_time_steps(model)(torch.stack([images(1)] * 6))
    with pytest.raises(ValueError, match="time steps were allocated for 4 steps"):
        allocate_time_steps(model).eval().freeze()(torch.stack([images(1)] * 6))
