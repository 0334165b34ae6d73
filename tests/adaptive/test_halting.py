"""Halting in space and time: the weights of cells, and that gathered tokens compute what masked ones do."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from adaptive_models import HALTING, SWAPPED, images, make

from spikevit import convert, count, create_model, load_model, observe, record_spikes, save_model
from spikevit.adaptive import add_early_exit, add_halting, allocate_time_steps
from spikevit.adaptive.halting import halting_distribution, halting_score, halting_weights
from spikevit.checkpoint import KEY, read_about
from spikevit.layers import LinearBN
from spikevit.layers.fold import fold_batch_norm
from spikevit.layers.tokens import Gathered
from spikevit.neurons import Constant, Neuron, Steady, dense
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.conventions import exact

NEVER = {"beta": 1e4}  # no token halts before the last cell
SOME = {"gamma": 4.0, "beta": 6.0}
SOON = {"gamma": 20.0, "beta": 4.0}  # half a spike in the deciding channel is enough
FRONTS = ("integrate", "average", "one")
OVER = ("both", "blocks", "steps")


def cells(model, x) -> list:
    """Of every cell: what happened, and the spikes of its neurons, in firing order."""
    found, spikes = [], []
    with torch.no_grad():
        front = model.front(x)
        with observe(model.base, lambda name, s: spikes.append((name, s))):
            for cell in model.visit(front):
                found.append((cell, tuple(spikes)))
                spikes.clear()
    return found


def assert_gathered_equals_masked(model, x, **options):
    gathered, masked = add_halting(model, **options), add_halting(model, masked=True, **options)
    ours, theirs = cells(gathered, x), cells(masked, x)
    assert len(ours) == len(theirs)
    for (cell, spikes), (same, all_spikes) in zip(ours, theirs, strict=True):
        assert torch.equal(cell.tokens.index, same.tokens.index), (cell.step, cell.depth)
        assert [name for name, _ in spikes] == [name for name, _ in all_spikes]
        halted = ~cell.tokens.active.flatten()
        for (name, s), (_, every) in zip(spikes, all_spikes, strict=True):
            every = every.flatten(0, 2)
            assert torch.equal(s.flatten(0, 2), every[cell.tokens.index]), (cell.step, cell.depth, name)
            assert not every[halted].any(), name
    torch.testing.assert_close(gathered(x), masked(x), rtol=0, atol=1e-9)
    visited = gathered.run(x)[1]
    assert torch.equal(visited, masked.run(x)[1])
    assert visited.mean() < 0.99 * gathered.cells and len({c.step for c, _ in ours}) > 1, "some halt, some stay"
    return gathered


def test_models():
    assert HALTING == ["msvit_tiny", "qkformer_tiny", "spikformer_tiny", "spikingformer_tiny", "stmixer_tiny"]


MODES = [{"front": front, "over": over} | (SOON if over == "blocks" else SOME) for front in FRONTS for over in OVER]
MODES += [{"merge": 0.9, "over": over} | SOME for over in ("both", "steps")]


def make_deep(name):
    """With at least two blocks that halt."""
    return make(name, **({"depths": (1, 1, 2)} if "depths" in vars(create_model(name.split(",")[0]).config) else {}))


@pytest.mark.parametrize("options", MODES, ids=lambda options: "-".join(map(str, list(options.values())[:2])))
@pytest.mark.parametrize("name", [*HALTING, *SWAPPED])
def test_gathered_equals_masked(name, options):
    """Every neuron, every logit; and no image sees whether another one has halted."""
    model, x = make_deep(name), images()
    halting = assert_gathered_equals_masked(model, x, **options)
    logits, visited = halting.run(x)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(halting(x[order]), logits[order], rtol=0, atol=1e-9)
    for i in range(4):
        one, cells_of_one = halting.run(x[i : i + 1])
        torch.testing.assert_close(one, logits[i : i + 1], rtol=0, atol=1e-9)
        assert torch.equal(cells_of_one, visited[i : i + 1])


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("name", [*HALTING, *SWAPPED])
def test_without_halting_it_is_the_plain_encoder(name, front):
    """Its spikes at every step, on the same tokens, and its last output as features."""
    model, x = make(name), images()
    halting = add_halting(model, front=front, **NEVER)
    with torch.no_grad():
        tokens = halting.front(x)
        expected: dict[str, torch.Tensor] = {}
        y = tokens.expand(4, *tokens.shape[1:])
        with observe(model, expected.__setitem__):
            for block in model.encoder:
                y = block(y)
    for cell, spikes in cells(halting, x):
        for name, s in spikes:
            theirs = expected[name][cell.step].flatten(0, 1)
            assert torch.equal(s.flatten(0, 2), theirs), (name, cell.step)
    logits, visited = halting.run(x)
    assert (visited == halting.cells).all()
    torch.testing.assert_close(logits, model.classify(y[-1:].mean(2))[0], rtol=0, atol=1e-9)


def test_one_step_of_the_stem():
    model, x = make("spikformer_tiny"), images()
    first = record_spikes(add_halting(model, front="one"), x)
    steps = record_spikes(model, x)
    for name in ("patch_embed.proj.0.lif", "patch_embed.rpe.lif"):
        assert torch.equal(first[f"model.{name}"], steps[name][:1])
    average = add_halting(model, front="average").front(x)
    torch.testing.assert_close(average[0], model.front(model.maps(x)).mean(0), rtol=0, atol=1e-12)


class Integrator(torch.nn.Module):
    """The definition, neuron by neuron: the same current x[0] at T steps, the share of steps with a spike."""

    def __init__(self, neuron: Neuron, steps: int):
        super().__init__()
        self.neuron, self.steps = neuron, steps

    def forward(self, x, stream=None):
        n, v, spikes = self.neuron, torch.zeros_like(x[0]), []
        mask = n.gate.open if n.gate is not None else (True,) * self.steps
        for t in range(self.steps):
            h = n.leak * v + (1 - n.leak if n.decay_input else 1.0) * x[0]
            s = (h >= n.threshold).to(h)
            v = (1 - s) * h if n.reset == "hard" else h - n.threshold * s
            spikes.append(s * mask[t])
        return sum(spikes)[None] / self.steps


def integrated(model, x, steps=4):
    """The front of the integrating neurons, by definition."""
    model = copy.deepcopy(model)
    for name, neuron in [(name, m) for name, m in model.named_modules() if isinstance(m, Neuron)]:
        model.set_submodule(name, Integrator(neuron, steps))
    return model.front(model.maps(x)[:1]).flatten(2, -2)


@pytest.mark.parametrize("name", [*HALTING, "qkformer_tiny, imagenet"])
def test_integrating_front_is_its_definition(name):
    """Convolutions once, neurons T steps on one constant current, the mean of their spikes goes on."""
    name, _, stem = name.partition(", ")
    model, x = make(name, **({"stem": stem} if stem else {})), images()
    with torch.no_grad():
        torch.testing.assert_close(add_halting(model).front(x), integrated(model, x), rtol=0, atol=1e-12)
        other = add_halting(model, front="average").front(x)
    assert (add_halting(model).front(x) - other).abs().max() > 0.1, "the mean of steps is another one"


@pytest.mark.parametrize("frozen", [False, True])
def test_integrating_front_with_time_steps(frozen):
    """Masks of time steps decide which spikes the mean is of: all T steps count in it."""
    steps = {"patch_embed.*": 2, "patch_embed.proj.1.lif": 0, "patch_embed.rpe.lif": 3}
    model = allocate_time_steps(make("spikformer_tiny"), steps=steps).eval()
    model, x = (model.freeze().eval() if frozen else model), images()
    with torch.no_grad():
        torch.testing.assert_close(add_halting(model).front(x), integrated(model.base, x), rtol=0, atol=1e-12)


def test_neurons_of_a_constant_current_by_hand():
    """h = v/2 + 0.6 reaches 1 at the third step (0.6, 0.9, 1.05), then 0.6: one spike in four, v/2 + 1 fires always."""
    model = make("spikformer_tiny", in_channels=1, neuron={"decay_input": False})
    halting, neuron = add_halting(model), model.patch_embed.proj[0].lif
    model.front = lambda maps, stream=None: neuron(maps)
    x = torch.tensor([0.6, 1.0, 0.4, 0.75], dtype=torch.float64).view(4, 1, 1, 1).expand(4, 1, *model.config.image_size)
    with torch.no_grad():
        tokens = halting.front(x)
    assert tokens[0, :, 0, 0].tolist() == [0.25, 1.0, 0.0, 0.5]  # 0.75, 1.125, 0.75, 1.125: every second step


def test_integrating_front_runs_every_convolution_once():
    """Its MACs are those of one step; its neurons update at all T steps; hooks are gone afterwards."""
    model, x = make("qkformer_tiny"), images()
    found = {front: count(add_halting(model, front=front), x) for front in FRONTS}
    convs = {front: sum(c.macs for c in f.operators if c.operator == "conv") for front, f in found.items()}
    updates = {front: sum(n.updates for n in f.neurons if "patch_embed" in n.module) for front, f in found.items()}
    assert convs["integrate"] == convs["one"] < convs["average"]
    assert updates["integrate"] == updates["average"] == 4 * updates["one"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for name, spikes in record_spikes(add_halting(model), x).items():
        assert "patch_embed" not in name or len(spikes) == 4, name


def test_integrating_front_has_the_gradient_of_its_definition():
    model, x = make("spikformer_tiny"), images()
    tokens = add_halting(model).train().front(x)
    weight = model.patch_embed.proj[0].conv.weight
    (ours,) = torch.autograd.grad((tokens * torch.arange(64).double()).sum(), weight)
    patch = copy.deepcopy(model.patch_embed)
    for neuron in [m for m in patch.modules() if isinstance(m, Neuron)]:
        neuron.backend = "plain"
        neuron.register_forward_pre_hook(lambda _, args: (torch.cat([args[0]] * 4), *args[1:]))
        neuron.register_forward_hook(lambda _, __, s: sum(s.unbind())[None] / 4)
    maps = patch(model.maps(x)[:1])
    torch.testing.assert_close(tokens, maps.flatten(2, 3))
    (theirs,) = torch.autograd.grad((maps * torch.arange(64).double()).sum(), patch.proj[0].conv.weight)
    torch.testing.assert_close(ours, theirs)


def test_a_checkpoint_of_before_names_its_front(tmp_path):
    """Files that were written when "one" was the default say so, and load as they were."""
    from safetensors.torch import load_file, save_file

    before = SOME | {"epsilon": 0.01, "front": "one", "merge": None}
    before |= {"ponder": 5e-4, "prior": 1e-3, "centre": 0.5, "width": 0.25}
    model, x, path = make("spikformer_tiny"), images(), tmp_path / "m.safetensors"
    save_model(model, path)
    about = {"format": 2, "family": "Spikformer", "name": "spikformer_tiny"}
    about |= {"config": read_about(path)["config"], "methods": [["halting", before]]}
    tensors = {f"model.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, {KEY: json.dumps(about)})
    again = load_model(path)
    assert again.halting.front == "one" and again.options().items() >= before.items()
    assert torch.equal(again(x), add_halting(model, front="one", **SOME)(x))
    assert not torch.equal(again(x), add_halting(model, **SOME)(x))


def test_maps_of_a_hierarchy_halt_in_the_last_stage():
    halting = add_halting(make("qkformer_tiny", depths=(1, 1, 2)), **SOME)
    assert halting.cells == 8 and {c.depth for c, _ in cells(halting, images())} == {0, 1}


def test_score_has_the_gradient_of_finite_differences():
    e = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: halting_score(e, 2.0, 1.0), e, eps=1e-6, atol=1e-6, rtol=0)


def test_weights_have_the_gradient_of_finite_differences():
    scores = (torch.rand(6, 20, dtype=torch.float64) * 0.4).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: halting_weights(h), scores, eps=1e-6, atol=1e-6, rtol=0)


def test_weights_have_the_written_gradient():
    """p_c = h_c before the last visited cell, 1 − Σ h there; ρ has the gradient of the remainder."""
    scores = torch.tensor([[0.2], [0.5], [0.6], [0.9]], dtype=torch.float64, requires_grad=True)
    weights, ponder = halting_weights(scores)
    assert weights[:, 0].tolist() == pytest.approx([0.2, 0.5, 0.3, 0.0]) and ponder.item() == pytest.approx(3.3)
    jacobian = torch.autograd.functional.jacobian(lambda h: halting_weights(h)[0][:, 0], scores)[..., 0]
    assert jacobian.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [-1, -1, 0, 0], [0, 0, 0, 0]]
    ponder.backward()
    assert scores.grad[:, 0].tolist() == [-1, -1, 0, 0]


def test_weights_add_up_to_one():
    weights, ponder = halting_weights(torch.rand(8, 500, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(0), torch.ones(500, dtype=torch.float64))
    assert (weights >= 0).all() and (ponder >= 1).all() and (ponder <= 9).all()
    late, ponder = halting_weights(torch.zeros(3, 1))
    assert late[:, 0].tolist() == [0, 0, 1] and ponder.item() == 4
    soon, ponder = halting_weights(torch.tensor([[0.995], [0.5]]))
    assert soon[:, 0].tolist() == [1, 0] and ponder.item() == 2


@pytest.mark.parametrize("merge", [None, 0.9])
def test_cells_follow_the_weights(merge):
    """The loop over cells gives the weights of `halting_weights`; with merging, sizes keep the sum."""
    model, x = make("spikformer_tiny"), images()
    halting = add_halting(model, merge=merge, **SOME)
    total = torch.zeros(4 * 16, dtype=torch.float64)
    features = torch.zeros(4, 64, dtype=torch.float64)
    scores = torch.ones(halting.cells, 64, dtype=torch.float64)
    weights = torch.zeros_like(scores)
    for cell, _ in cells(halting, x):
        c = cell.step * 2 + cell.depth
        scores[c, cell.tokens.index] = halting_score(cell.e, **SOME)
        weights[c, cell.tokens.index] = cell.weight
        total[cell.tokens.index] += cell.weight * cell.size
        features.index_add_(0, cell.tokens.image, (cell.weight * cell.size)[:, None] * cell.e)
    torch.testing.assert_close(total.view(4, 16).sum(1), torch.full((4,), 16.0, dtype=torch.float64))
    torch.testing.assert_close(halting(x), model.head(features / 16))
    if merge is None:
        torch.testing.assert_close(weights, halting_weights(scores)[0])


def test_merged_tokens_leave():
    model, x = make("spikformer_tiny"), images()
    found = cells(add_halting(model, merge=0.9, **NEVER), x)
    merged = sum(int(cell.merged.sum()) for cell, _ in found)
    assert merged > 0 and float(found[-1][0].size.sum()) == 4 * 16
    assert len(found[-1][0].tokens) == 4 * 16 - sum(int(cell.merged.sum()) for cell, _ in found[:-1])
    plain = add_halting(model, **NEVER)
    assert count(add_halting(model, merge=0.9, **NEVER), x).macs < count(plain, x).macs


def test_identical_tokens_are_merged_without_loss():
    """Tokens that are the same compute the same: one may stand for others, where nothing looks across tokens."""
    model, x = make("spikformer_tiny", mixer="qk_token"), images(2)
    x[..., 8:, :] = x[..., 8:, :1]
    tokens = add_halting(model).front(x)
    tokens[:, :, 1::2] = tokens[:, :, ::2]
    plain, merging = add_halting(model, **NEVER), add_halting(model, merge=1 - 1e-9, **NEVER)
    for halting in (plain, merging):
        halting.front = lambda _images: tokens
    torch.testing.assert_close(merging(x), plain(x), rtol=0, atol=1e-9)
    assert merging.run(x)[1].mean() < 0.7 * merging.cells


@pytest.mark.parametrize("over", OVER)
def test_skipped_work_is_not_counted(over):
    """The MACs of the blocks' linear maps are those of the tokens that visited them, and once those that ever did.

    What comes out of the front is the same at every step: every map of it runs once, for the tokens that come there. In
    front of the first projection nothing is added to it yet.
    """
    model, x = make("spikformer_tiny"), images()
    halting = add_halting(model, over=over, **(SOME if over == "steps" else SOON))
    visits, ever = [0, 0], torch.zeros(2, 64, dtype=torch.bool)
    for cell, _ in cells(halting, x):
        visits[cell.depth] += len(cell.tokens)
        ever[cell.depth, cell.tokens.index] = True
    work: dict[str, int] = {}
    for c in count(halting, x).operators:
        work[c.module] = work.get(c.module, 0) + c.macs
    assert ever[0].all() and not (over == "both" and ever[1].all())
    for depth in (0, 1):
        once = int(ever[depth].sum())
        assert work[f"model.blocks.{depth}.mlp.fc1"] == (visits[depth] + once) * 64 * 256
        assert work[f"model.blocks.{depth}.mlp.fc2"] == visits[depth] * 256 * 64
        assert work[f"model.blocks.{depth}.attn.proj_in"] == (visits[1] * depth + once) * 64 * 192


def test_what_is_multiplied_at_every_step_are_sums_of_spikes():
    """Whatever the front gives, fractions of T = 4 here, is multiplied once; all else that comes in is whole."""
    operators = count(add_halting(make("spikformer_tiny"), front="average", **SOME), images()).operators
    units: dict[str, list[float]] = {}
    for c in operators:
        if c.operator == "linear" and ".blocks." in c.module:
            assert c.operands[0].kind.name in ("binary", "integer"), c
            units.setdefault(c.module.removeprefix("model.blocks."), []).append(c.operands[0].kind.unit)
    assert units.pop("0.attn.proj_in") == [0.25]
    for name in ("0.mlp.fc1", "1.attn.proj_in", "1.mlp.fc1"):
        assert units.pop(name) == [1.0, 0.25], name
    assert set(map(tuple, units.values())) == {(1.0,)}


def test_without_halting_it_costs_what_fixed_steps_cost():
    """The mean of four steps makes as many accumulates as the steps themselves, if it is multiplied once."""
    x = images(8).float()
    model = calibrate(make("spikformer_tiny", neuron={"decay_input": False}).float(), x)
    fixed = exact(count(model, x)).mj
    cost = {front: exact(count(add_halting(model, front=front, **NEVER), x)).mj / fixed for front in FRONTS}
    assert 0.95 < cost["average"] < 1.05 and cost["one"] < cost["integrate"] < cost["average"]


def test_steady():
    """Its linear maps are those of the sum; anything else sees the sum; the constant is multiplied once a layer."""
    torch.manual_seed(0)
    x, rest = torch.randn(1, 2, 3, 8).double(), torch.randint(0, 3, (1, 4, 1, 8)).double()
    active = torch.tensor([[True, False, True], [True, True, False]])
    tokens, layers = Gathered(active), [LinearBN(8, 5).double().eval(), LinearBN(8, 5, bias=False).double().eval()]
    for layer in layers:
        torch.nn.init.uniform_(layer.bn.running_mean)
    layers.append(fold_batch_norm(layers[1]))
    seen: list = []
    layers[2].linear.register_forward_hook(lambda _, __, out: seen.append(out))
    constant = Constant(x)
    steady = Steady(constant, tokens) + rest
    whole = x[0][active][None, :, None] + rest
    assert isinstance(steady, Steady) and torch.equal(dense(steady), whole) and steady.shape == whole.shape
    assert isinstance(steady.flatten(2, -2), Steady) and torch.equal(steady.flatten(0, 2), whole.flatten(0, 2))
    assert torch.equal(steady * 2, whole * 2) and torch.equal(torch.relu(steady), whole.relu())
    assert torch.equal(steady + 1, whole + 1) and torch.equal(steady[..., 0], whole[..., 0])
    for layer in layers:
        torch.testing.assert_close(layer(steady), layer(whole), rtol=0, atol=1e-12)
    other = Gathered(active ^ torch.tensor([False, True, True]))  # two tokens are new, of the others some are left
    for layer in layers:
        torch.testing.assert_close(layer(Steady(constant, other)), layer(other.rows(x)), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.nn.functional.linear(steady, x[0, 0] * 2), whole @ x[0, 0].T * 2)
    constant.x = torch.full_like(x, torch.nan)  # nobody multiplies it again
    fewer, keep = Gathered(active & torch.tensor([False, True, True])), torch.tensor([False, True, False, True])
    for layer in layers:
        torch.testing.assert_close(layer(steady.only(keep, fewer)), layer(whole[:, keep]), rtol=0, atol=1e-12)
    assert layers[2].bn is None and len(seen) == 6, "hooks see linear maps that batch norm was folded into"


def test_gathered_equals_masked_where_steps_are_closed():
    """Closed steps of branches, and of projections, which do not look at the stream then; one layer has none open."""
    steps = {"blocks.0.attn.proj_out.lif": 1, "blocks.1.attn.proj_out.lif": 0, "blocks.1.attn.proj_in.lif": 2}
    steps |= {"blocks.1.mlp.fc1.lif": 3, "blocks.0.mlp.fc2.lif": 3, "patch_embed.rpe.lif": 3}
    model = allocate_time_steps(make("spikformer_tiny"), steps=steps).freeze().eval()
    for options in MODES:
        assert_gathered_equals_masked(model, images(), **options)


def slowly(model, tokens, over, gamma, beta, epsilon=0.01, steps=4):
    """Halting of one image's tokens (N, C) through Spikformer's blocks, one token's decision at a time."""

    def affine(layer, x):
        y = x @ layer.linear.weight.T - layer.bn.running_mean
        y = y if layer.linear.bias is None else y + layer.linear.bias
        return y / (layer.bn.running_var + layer.bn.eps) ** 0.5 * layer.bn.weight + layer.bn.bias

    def fire(neuron, currents, who):
        v = membranes.setdefault(neuron, torch.zeros(len(tokens), currents.shape[1], dtype=torch.float64))
        h = (v[who] + currents) / 2
        s = (h >= neuron.threshold).double()
        v[who] = h * (1 - s)
        return s

    membranes: dict = {}
    count = len(tokens)
    features, visited, last = torch.zeros_like(tokens[0]), [0] * count, len(model.blocks) - 1
    total, active = [0.0] * count, set(range(count))
    for t in range(steps):
        if over == "blocks":
            total, active = [0.0] * count, set(range(count))
        x = tokens.clone()
        for depth, block in enumerate(model.blocks):
            who = sorted(active)
            y, attn, mlp = x[who], block.attn, block.mlp
            q, k, v = fire(attn.proj_in.lif, affine(attn.proj_in, y), who).chunk(3, -1)
            heads = [(a @ b.T) @ c / 8 for a, b, c in zip(*(p.chunk(attn.heads, -1) for p in (q, k, v)), strict=True)]
            mixed = fire(attn.attn_lif, torch.cat(heads, -1), who)
            y = y + fire(attn.proj_out.lif, affine(attn.proj_out, mixed), who)
            y = y + fire(mlp.fc2.lif, affine(mlp.fc2, fire(mlp.fc1.lif, affine(mlp.fc1, y), who)), who)
            x[who] = y
            for token, e in zip(who, y, strict=True):
                visited[token] += 1
                if over == "steps" and depth < last:
                    continue
                h = 1 / (1 + math.exp(beta - gamma * float(e[0])))
                end = depth == last and (over == "blocks" or t == steps - 1)
                p = 1 - total[token] if end or total[token] + h >= 1 - epsilon else h
                features += p * e / (steps if over == "blocks" else 1)
                active -= {token} if end or total[token] + h >= 1 - epsilon else set()
                total[token] += h
    return model.head(features / count), visited


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("over", OVER)
def test_halting_over_blocks_and_steps(over, front):
    """Both forms against a slow loop over the tokens of an image: logits, and which cells they visit."""
    model, x, options = make("spikformer_tiny", depth=3), images(2), SOON if over == "blocks" else SOME
    for masked in (False, True):
        halting = add_halting(model, over=over, front=front, masked=masked, **options)
        with torch.no_grad():
            logits, tokens, visits = halting(x), halting.front(x)[0], halting.visits(x).cells.flatten(1)
            for i in range(2):
                expected, visited = slowly(model, tokens[i], over, **options)
                torch.testing.assert_close(logits[i], expected, rtol=0, atol=1e-9)
                assert visits[i].tolist() == visited
        assert visits.min() < 12 and len(visits.unique()) > 1, "some halt, some stay"


def test_over_steps_tokens_skip_whole_steps_and_over_blocks_they_return():
    model, x = make("spikformer_tiny", depth=3), images()
    steps = [c for c, _ in cells(add_halting(model, over="steps", **SOME), x)]
    assert all(not c.weight.any() and not c.halts.any() for c in steps if c.depth < 2)
    numbers = [len(c.tokens) for c in steps]
    assert numbers[0::3] == numbers[1::3] == numbers[2::3] and numbers[0] > numbers[-1]
    blocks = [c for c, _ in cells(add_halting(model, over="blocks", **SOON), x)]
    assert [len(c.tokens) for c in blocks if c.depth == 0] == [64] * 4
    assert len({len(c.tokens) for c in blocks if c.depth == 2}) > 1
    for step in range(4):
        given = torch.zeros(64, dtype=torch.float64)
        for c in blocks:
            if c.step == step:
                given[c.tokens.index] += c.weight
        torch.testing.assert_close(given, torch.full_like(given, 0.25))


@pytest.mark.parametrize("name", ["msvit_tiny", "spikformer_tiny", "stmixer_tiny", "spikformer_tiny, ms_token"])
def test_everything_is_counted(name):
    """No operator is unknown; spikes stay spikes where tokens are gathered."""
    counts = count(add_halting(make(name), merge=0.9, **SOME), images())
    assert not counts.uncounted
    for c in counts.operators:
        if c.module.endswith(".attn") and c.operator == "matmul" and name == "spikformer_tiny":
            assert "neuron" in [o.origin.operator for o in c.operands], c


def test_visits():
    model, x = make("spikformer_tiny", image_size=(16, 32)), images(size=(16, 32))
    halting = add_halting(model, **SOME)
    found = halting.visits(x)
    assert found.cells.shape == (4, 4, 8) and found.cells.dtype == torch.int64
    torch.testing.assert_close(found.cells.float().mean((1, 2)), halting.run(x)[1])
    assert torch.equal((found.step - 1) * 2 + found.depth, found.cells), "a token visits all cells until it leaves"
    assert int(found.cells.min()) < int(found.cells.max()) == 8


@pytest.mark.parametrize(("over", "merge"), [("both", None), ("blocks", None), ("steps", None), ("both", 0.9)])
def test_loss(over, merge):
    """Cross-entropy, ponder and prior, each by hand: numpy, from what blocks gave."""
    model, x, y = make("spikformer_tiny", depth=3), images(), torch.tensor([0, 1, 2, 3])
    options = SOON if over == "blocks" else SOME
    halting = add_halting(model, over=over, merge=merge, ponder=0.3, prior=0.2, centre=0.25, width=0.5, **options)
    loss, logits = halting.loss(x, y)
    gamma, beta = options.values()
    scores, visited, remainder = np.zeros((4, 3, 64)), np.zeros(64), np.zeros(64)
    for cell, _ in cells(halting, x):
        who = cell.tokens.index.numpy()
        if over != "steps" or cell.depth == 2:
            score = 1 / (1 + np.exp(beta - gamma * cell.e[:, 0].numpy()))
            scores[cell.step, cell.depth, who] = score * cell.size.numpy()  # of all that the token stands for
        visited[who] += 1
        remainder[who] += np.where(cell.halts, cell.weight, 0)
    mean = scores.mean(-1)  # of a token that is not there, 0
    found = {"both": mean.reshape(-1), "blocks": mean.mean(0), "steps": mean[:, -1]}[over]
    found = (found / found.sum()).clip(0.01, 0.99)
    target = np.exp(-0.5 * (((np.arange(len(found)) + 0.5) / len(found) - 0.25) / 0.5) ** 2)
    target /= target.sum()
    divergence = (target * np.log(target / found)).sum()
    expected = torch.nn.functional.cross_entropy(logits, y) + 0.3 * (visited + remainder).mean() + 0.2 * divergence
    torch.testing.assert_close(loss, expected)
    assert 3 < visited.mean() < 12 and (merge or remainder.all())


def test_prior_by_hand():
    """Normalised, then clamped at both ends; where no token scores at all, finite still."""
    found = halting_distribution(torch.tensor([0.3, 0.15, 0.05, 0.0]).double())
    assert found.tolist() == pytest.approx([0.6, 0.3, 0.1, 0.01])
    assert halting_distribution(torch.tensor([0.0, 2.0])).tolist() == pytest.approx([0.01, 0.99])
    assert halting_distribution(torch.zeros(3)).tolist() == pytest.approx([0.01] * 3)
    scores = (torch.rand(5, dtype=torch.float64) + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(halting_distribution, scores, eps=1e-6, atol=1e-6, rtol=0)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("name", HALTING)
def test_gradients(name, over):
    halting = add_halting(make(name), over=over, **SOME).train()
    loss, _ = halting.loss(images(), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    for parameter, p in halting.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter


def test_ponder_makes_tokens_halt():
    torch.manual_seed(0)
    halting = add_halting(make("spikformer_tiny"), gamma=2.0, beta=6.0, ponder=0.5, prior=0.0).train()
    optimizer = torch.optim.AdamW(halting.parameters(), lr=3e-3)
    x, y = images(8), torch.arange(8) % 5
    before = float(halting.run(x)[1].mean())
    for _ in range(25):
        optimizer.zero_grad()
        halting.loss(x, y)[0].backward()
        optimizer.step()
    assert float(halting.run(x)[1].mean()) < 0.9 * before


@pytest.mark.parametrize("over", OVER)
def test_training_with_hardly_any_token(over):
    """Batch norm needs two tokens: where fewer would stay, they halt."""
    halting = add_halting(make("spikformer_tiny"), gamma=1.0, beta=1.0, over=over).train()
    for _ in range(3):
        loss, _ = halting.loss(images(2), torch.tensor([0, 1]))
        assert loss.isfinite()


def test_rows_and_back():
    active = torch.tensor([[True, False, True, True], [False, False, True, False], [True, True, True, True]])
    tokens, x = Gathered(active), torch.randn(1, 3, 4, 5)
    rows = tokens.rows(x)
    assert rows.shape == (1, 8, 1, 5) and tokens.image.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    for positions in (False, True):
        assert torch.equal(tokens.apart(tokens.together(rows, positions), positions), rows)
    placed = tokens.together(rows, True)
    assert torch.equal(placed[0][active], x[0][active]) and not placed[0][~active].any()
    compact = tokens.together(rows, False)
    assert torch.equal(compact[0, 0, :3], x[0, 0, [0, 2, 3]]) and torch.equal(compact[0, 1, 0], x[0, 1, 2])
    few = Gathered(active & torch.tensor([True, False, True, False]))
    assert few.together(few.rows(x), False).shape == (1, 3, 2, 5)


def test_checkpoint(tmp_path):
    halting, x = add_halting(make("msvit_tiny"), merge=0.95, front="average", **SOME), images()
    save_model(halting, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.halting == halting.halting and again.name == "msvit_tiny" and torch.equal(again(x), halting(x))


def test_settings_of_the_curve():
    halting, x = add_halting(make("spikformer_tiny"), **SOME), images()
    work = [float(halting.at(beta).run(x)[1].mean()) for beta in halting.settings()]
    assert work == sorted(work) and work[0] < work[-1] and halting.setting in halting.settings()
    assert halting.halting.beta == SOME["beta"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"front": "two"}, "unknown front 'two'; known: average, integrate, one"),
        ({"over": "tokens"}, "unknown over 'tokens'; did you mean blocks"),
        ({"over": "blocks", "merge": 0.9}, "merge=0.9 does not combine with over='blocks'.*return at the next step"),
        ({"epsilon": 0.0}, "epsilon=0.0 must be a number above 0 and below 1"),
        ({"merge": 1.5}, "merge=1.5 must be a number above 0 and at most 1"),
        ({"gamma": 0.0}, "gamma=0.0 must be a number above 0"),
        ({"width": 0.0}, "width=0.0 must be a number above 0"),
        ({"ponder": -1.0}, "ponder=-1.0 must be a number of at least 0"),
        ({"prior": -1.0}, "prior=-1.0 must be a number of at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        add_halting(create_model("spikformer_tiny"), **options)


def test_bad_models():
    for name in ("ge2mst_tiny",):
        with pytest.raises(ValueError, match="halting needs a model with time steps; ge2mst_tiny"):
            add_halting(create_model(name))
    converted, _ = convert(make("ge2mst_tiny"), images(1))
    with pytest.raises(ValueError, match="ge2mst_tiny has no common axis of time steps"):
        add_halting(converted)
    with pytest.raises(ValueError, match="halting is for encoders of .*; sdt_tiny is a SpikeDrivenTransformer"):
        add_halting(create_model("sdt_tiny"))
    with pytest.raises(ValueError, match="halting is for encoders of .*; ge2mst_tiny is a Ge2mST"):
        add_halting(make("ge2mst_tiny, lif"))
    with pytest.raises(
        ValueError, match="block 0 of spikformer_tiny has QKChannelAttention, whose tokens share neurons"
    ):
        add_halting(create_model("spikformer_tiny", mixer="qk_channel"))
    with pytest.raises(ValueError, match="does not combine with sml=True"):
        add_halting(create_model("stmixer_tiny", sml=True))
    leaks = create_model("qkformer_tiny", legacy_batch_leak=True)
    for method in (add_halting, allocate_time_steps, lambda model: add_early_exit(model, 0.9)):
        with pytest.raises(ValueError, match="does not combine with legacy_batch_leak=True"):
            method(leaks)
    model = create_model("spikformer_tiny")
    with pytest.raises(ValueError, match="halting does not combine with early_exit"):
        add_halting(add_early_exit(model, 0.9))
    with pytest.raises(ValueError, match="halting does not combine with halting"):
        add_halting(add_halting(model))
    with pytest.raises(ValueError, match="early exit needs logits of every step; spikformer_tiny with halting"):
        add_early_exit(add_halting(model), 0.9)


def test_bad_inputs():
    halting = add_halting(make("spikformer_tiny"))
    with pytest.raises(ValueError, match="spikformer_tiny with halting takes images, not frames"):
        halting(torch.stack([images()] * 4))
    with pytest.raises(ValueError, match="spikformer_tiny with halting gives logits once"):
        halting(images(), per_step=True)
    with pytest.raises(ValueError, match="does not stream"):
        halting.step(images())
    with pytest.raises(ValueError, match="masked=True is for evaluation"):
        add_halting(make("spikformer_tiny"), masked=True).train()(images())
