"""Group-wise attention against loops over windows and tokens; what it sees, and what it does not."""

import math

import pytest
import torch
from torch import nn

from spikevit import create_model, record_spikes
from spikevit.attention import make_mixer
from spikevit.attention.groupwise import ACTIVATION, GroupwiseQK, GroupwiseSSA
from spikevit.neurons import ExpG, NeuronConfig, Staircase, StaircaseConfig

EXPG = StaircaseConfig(ExpG(3, 1), threshold=2.0, power_of_two=False)


def make(kind: str, dim: int, heads: int, *, neuron=EXPG, **options) -> nn.Module:
    """In float64, with batch norm under which neurons fire; padded tokens would, too, if they were neurons' input."""
    mixer = make_mixer(kind, dim, heads, neuron=neuron, **{"membrane": True, **options}).double().eval()
    for bn in (m for m in mixer.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.uniform_(bn.running_var, 0.05, 0.3)
        nn.init.uniform_(bn.bias, 0.3, 1.2)
    return mixer


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64) + 0.4


def affine(unit, x: torch.Tensor) -> torch.Tensor:
    """BN(W x + b) of one vector, with running statistics."""
    y = unit.linear.weight @ x + (0 if unit.linear.bias is None else unit.linear.bias)
    return (y - unit.bn.running_mean) / (unit.bn.running_var + unit.bn.eps).sqrt() * unit.bn.weight + unit.bn.bias


def fires(neuron: Staircase, x: torch.Tensor) -> torch.Tensor:
    quantum = neuron.threshold / neuron.code.levels
    return (x / quantum + 0.5).floor().clamp(0, neuron.code.levels) * quantum


def windows_of(height: int, width: int, side: int):
    """Lists of the tokens (y, x) of every window; at the end of the grid they are smaller."""
    h, w = side or height, side or width
    for top in range(0, height, h):
        for left in range(0, width, w):
            yield [(y, x) for y in range(top, min(top + h, height)) for x in range(left, min(left + w, width))], h * w


def naive(mixer, image: torch.Tensor, kind: str) -> torch.Tensor:
    """Head by head, window by window, token by token of one image (H, W, C); sums over keys are loops, too."""
    height, width, dim = image.shape
    parts, scales = len(mixer.parts), len(mixer.windows)
    d, heads = dim // mixer.heads, mixer.heads // scales  # of a head; heads of a scale
    spikes = {
        (y, x): fires(mixer.proj_in.lif, affine(mixer.proj_in, fires(mixer.lif, image[y, x])))
        for y in range(height)
        for x in range(width)
    }
    mixed = torch.zeros_like(image)
    for s, side in enumerate(mixer.windows):
        for head in range(heads):
            at = (s * heads + head) * d
            part = [{t: v[i * dim + at : i * dim + at + d] for t, v in spikes.items()} for i in range(parts)]
            for tokens, size in windows_of(height, width, side):
                for t in tokens:
                    out = torch.zeros(d, dtype=image.dtype)
                    if kind == "gw_ssa":
                        shift = mixer.shift
                        if shift is None:
                            shift = round(math.log2(size * d * ACTIVATION**3))
                        q, k, v = part
                        for u in tokens:
                            out += (q[t] * k[u]).sum() * v[u] / 2**shift
                    else:
                        q, k = part
                        out = fires(mixer.attn_lif[s], sum(q[u] for u in tokens)) * k[t]
                    mixed[t][at : at + d] = out
    if kind == "gw_ssa":
        mixed = fires(mixer.attn_lif, mixed)
    return torch.stack([torch.stack([affine(mixer.proj_out, v) for v in row]) for row in mixed])


# (H, W), width, heads, windows: whole grids, several scales and heads, grids that do not divide, M > d and M <= d
CASES = {
    "one window": ((4, 4), 8, 2, (0,)),
    "four windows": ((4, 4), 8, 2, (2,)),
    "two scales": ((4, 4), 8, 2, (2, 0)),
    "three scales of two heads": ((6, 6), 24, 6, (2, 3, 0)),
    "not square": ((2, 6), 8, 2, (2, 0)),
    "does not divide": ((5, 5), 8, 2, (2, 3)),
    "not square, does not divide": ((3, 7), 12, 4, (2, 0)),
    "one token": ((3, 3), 4, 2, (1,)),
    "wide heads, M <= d": ((3, 3), 24, 2, (2, 3)),
    "narrow heads, M > d": ((5, 4), 6, 3, (4,)),
}


@pytest.mark.parametrize("kind", ["gw_ssa", "gw_qk"])
@pytest.mark.parametrize("case", CASES)
def test_equals_loops(kind, case):
    grid, dim, heads, windows = CASES[case]
    mixer = make(kind, dim, heads, windows=windows)
    x = maps(1, 2, *grid, dim)
    out = mixer(x)
    wanted = torch.stack([naive(mixer, image, kind) for image in x[0]])[None]
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-9)
    assert out.std() > 0.1  # something was attended to


def test_both_orders_of_products():
    """The cases above hold windows of both kinds."""
    kinds = set()
    for grid, dim, heads, windows in CASES.values():
        for side in windows:
            kinds.add((side**2 or grid[0] * grid[1]) > dim // heads)
    assert kinds == {True, False}


def test_shift():
    mixer = make("gw_ssa", 8, 2, windows=(2, 0), shift=5)
    x = maps(1, 1, 4, 4, 8)
    torch.testing.assert_close(mixer(x)[0], naive(mixer, x[0, 0], "gw_ssa")[None], rtol=0, atol=1e-9)
    default = make("gw_ssa", 8, 2, windows=(2, 0))
    default.load_state_dict(mixer.state_dict())
    assert not torch.equal(default(x), mixer(x))


@pytest.mark.parametrize("case", CASES)
def test_default_shift_keeps_unit_scale(case):
    """O of operands clip(x, 0, θ), x ~ N(0, 1), lies between 1/3 and 3 on average."""
    grid, dim, heads, windows = CASES[case]
    mixer = make("gw_ssa", dim, heads, windows=windows)
    for i, side in enumerate(windows):
        tokens = side**2 or grid[0] * grid[1]
        parts = torch.randn(1, 500, 3, 1, tokens, dim // heads).clamp(0, 2)
        assert 1 / 3 < float(mixer.attend(i, parts, None).mean()) < 3


# --- locality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gw_ssa", "gw_qk"])
@pytest.mark.parametrize("grid", [(4, 4), (5, 7)])
def test_a_window_sees_nothing_else(kind, grid):
    mixer = make(kind, 8, 2, windows=(2,))
    x = maps(1, 1, *grid, 8)
    before, changes = mixer(x), 0
    for y in range(grid[0]):
        for column in range(grid[1]):
            changed = x.clone()
            changed[0, 0, y, column] = 3 - changed[0, 0, y, column]
            differs = (mixer(changed) != before).any(-1)[0, 0]
            inside = torch.zeros(grid, dtype=torch.bool)
            inside[y // 2 * 2 : y // 2 * 2 + 2, column // 2 * 2 : column // 2 * 2 + 2] = True
            assert not (differs & ~inside).any(), (y, column)
            changes += int(differs.sum())
    assert changes > grid[0] * grid[1]  # a token that changes is seen by itself and by others


def inputs_of(neuron: nn.Module, mixer: nn.Module, *images: torch.Tensor) -> list[torch.Tensor]:
    seen = []
    with_hook = neuron.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for x in images:
        mixer(x)
    with_hook.remove()
    return seen


def test_a_scale_has_its_own_channels():
    """Of windows (2, 0) the first half of the channels looks nearby, the second everywhere."""
    x = maps(1, 1, 4, 4, 8)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1.5
    mixer = make("gw_ssa", 8, 2, windows=(2, 0))
    before, after = inputs_of(mixer.attn_lif, mixer, x, changed)
    differs = (before != after)[0, 0]
    assert not differs[2:, :, :4].any() and not differs[:2, 2:, :4].any()
    assert differs[:2, :2, :4].any() and differs[2:, :, 4:].any()

    mixer = make("gw_qk", 8, 2, windows=(2, 0))
    before, after = inputs_of(mixer.attn_lif[0], mixer, x, changed)  # (1, 1, H/2, W/2, 1 head, 1, d)
    assert before.shape == (1, 1, 2, 2, 1, 1, 4)
    differs = (before != after)[0, 0]
    assert differs[0, 0].any() and not differs[1].any() and not differs[0, 1].any()
    before, after = inputs_of(mixer.attn_lif[1], mixer, x, changed)
    assert before.shape == (1, 1, 1, 1, 1, 1, 4) and (before != after).any()


@pytest.mark.parametrize("kind", ["gw_ssa", "gw_qk"])
def test_padded_tokens_neither_fire_nor_attend(kind):
    """Of a 5 × 5 grid in windows of 3 and a 6 × 6 grid whose last row and column are silent by force."""
    mixer = make(kind, 8, 2, windows=(3,))
    x = maps(1, 2, 5, 5, 8)
    calls = {name: [] for name in ("lif", "proj_in.lif", "proj_out")}
    for name, found in calls.items():
        mixer.get_submodule(name).register_forward_pre_hook(
            lambda _, args, found=found: found.append(args[0].shape[2:4])
        )
    out = mixer(x)
    assert out.shape == x.shape
    assert all(found == [(5, 5)] for found in calls.values()), calls  # neurons and weights never see a padded token

    def silence(_module, _args, spikes):
        if spikes.shape[2] == 6:
            spikes = spikes.clone()
            spikes[:, :, 5:] = 0
            spikes[:, :, :, 5:] = 0
        return spikes

    mixer.proj_in.lif.register_forward_hook(silence)
    larger = nn.functional.pad(x, (0, 0, 0, 1, 0, 1))
    torch.testing.assert_close(mixer(larger)[:, :, :5, :5], out, rtol=0, atol=1e-12)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GroupwiseSSA, GroupwiseQK])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": (8,), "grid": (4, 4)}, r"windows=\(8,\) are larger than the grid of 4 × 4 tokens"),
        ({"windows": (2, 5), "grid": (4, 4)}, r"windows=\(2, 5\) are larger than the grid of 4 × 4 tokens"),
        ({"windows": (2, 3, 0)}, r"windows=\(2, 3, 0\) are 3 scales, which do not divide num_heads=4"),
        ({"windows": ()}, r"windows=\(\) must be sides in tokens, 0 for the whole grid"),
        ({"windows": (-1,)}, r"windows=\(-1,\) must be sides in tokens"),
        ({"windows": (2.0,)}, r"windows=\(2.0,\) must be sides in tokens"),
        ({"windows": (True,)}, r"windows=\(True,\) must be sides in tokens"),
    ],
)
def test_wrong_windows(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(16, 4, neuron=EXPG, **options)


@pytest.mark.parametrize("shift", [1.5, 2.0, "3", True])
def test_shift_is_whole(shift):
    with pytest.raises(ValueError, match=f"shift={shift!r} must be a whole number"):
        GroupwiseSSA(16, 4, neuron=EXPG, shift=shift)


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="num_heads=3 does not divide the width 16"):
        GroupwiseSSA(16, 3, neuron=EXPG)


@pytest.mark.parametrize("grid", [None, (4, 5)])
def test_tokens_need_their_grid(grid):
    mixer = make("gw_ssa", 8, 2, windows=(2,), grid=grid)
    with pytest.raises(ValueError, match=r"windows need the grid of the 16 tokens, not .*set image_size"):
        mixer(maps(1, 1, 16, 8))


# --- in models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gw_ssa", "gw_qk"])
@pytest.mark.parametrize("membrane", [True, False])
def test_tokens_are_maps(kind, membrane):
    mixer = make(kind, 8, 2, windows=(2, 0), grid=(4, 6), membrane=membrane)
    x = maps(1, 2, 4, 6, 8)
    assert torch.equal(mixer(x.flatten(2, 3)), mixer(x).flatten(2, 3))


@pytest.mark.parametrize("kind", ["gw_ssa", "gw_qk"])
@pytest.mark.parametrize("name", ["spikformer_tiny", "spikingformer_tiny", "qkformer_tiny"])
def test_in_other_models(kind, name):
    """With leaky neurons and a time axis, on tokens or maps: fires, learns, and a stream is the sequence."""
    config = {"mixers": (kind, kind, "ssa")} if name.startswith("qk") else {"mixer": kind}
    model = create_model(name, image_size=16, time_steps=3, **config).double()
    model(torch.randn(2, 3, 16, 16, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for bn in (m for m in model.eval().modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.uniform_(bn.running_var, 0.02, 0.1)
        nn.init.uniform_(bn.bias, 0.2, 1.2)
    frames = torch.randn(3, 2, 3, 16, 16, dtype=torch.float64)
    whole, state = model(frames, per_step=True), None
    for x_t, logits in zip(frames, whole, strict=True):
        logits_t, state = model.step(x_t, state)
        torch.testing.assert_close(logits_t, logits, rtol=0, atol=1e-9)
    attention = {n: s for n, s in record_spikes(model, frames).items() if ".attn." in n and "attn_lif" in n}
    assert attention and all(s.mean() > 0 for s in attention.values())


def test_time_steps_do_not_see_each_other():
    """Every step is a window of its own."""
    mixer = make("gw_ssa", 8, 2, windows=(2, 0), neuron=NeuronConfig(kind="lif"))
    mixer.lif, mixer.proj_in.lif, mixer.attn_lif = (nn.ReLU6() for _ in range(3))  # no state
    for relu in (mixer.lif, mixer.proj_in.lif, mixer.attn_lif):
        relu.forward = lambda x, stream=None: x.clamp(0, 1)
    x = maps(3, 2, 4, 4, 8)
    torch.testing.assert_close(mixer(x), torch.cat([mixer(step[None]) for step in x]), rtol=0, atol=1e-12)
