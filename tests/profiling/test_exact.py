"""`exact` against brute force: loops over every multiplication of tiny models, which share no code with the counter."""

import numba
import numpy as np
import pytest
import torch
from firing import firing
from torch.overrides import TorchFunctionMode

from spikevit import count, list_models
from spikevit.profiling.conventions import charge, exact

# --- every multiplication, one by one: how many have two entries ≠ 0, what those of one operand add up to, how many all


@numba.njit
def loop_matmul(a, b):
    active, by_a, by_b, total = 0, 0.0, 0.0, 0
    for batch in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(b.shape[2]):
                for k in range(a.shape[2]):
                    x, y = a[batch, i, k], b[batch, k, j]
                    total += 1
                    if x != 0 and y != 0:
                        active += 1
                        by_a += abs(x)
                        by_b += abs(y)
    return active, by_a, by_b, total


@numba.njit
def loop_conv(x, w, stride, pad_h, pad_w, groups):
    active, by_x, total = 0, 0.0, 0
    per_group = w.shape[0] // groups
    rows = (x.shape[2] + 2 * pad_h - w.shape[2]) // stride + 1
    columns = (x.shape[3] + 2 * pad_w - w.shape[3]) // stride + 1
    for image in range(x.shape[0]):
        for out in range(w.shape[0]):
            for row in range(rows):
                for column in range(columns):
                    for k in range(w.shape[1]):
                        c = out // per_group * w.shape[1] + k
                        for dy in range(w.shape[2]):
                            for dx in range(w.shape[3]):
                                i, j = row * stride + dy - pad_h, column * stride + dx - pad_w
                                if 0 <= i < x.shape[2] and 0 <= j < x.shape[3]:
                                    total += 1
                                    if x[image, c, i, j] != 0 and w[out, k, dy, dx] != 0:
                                        active += 1
                                        by_x += abs(x[image, c, i, j])
    return active, by_x, total


class Calls(TorchFunctionMode):
    """Keeps the operands of every product that the Python code of a model asks for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.__name__, kwargs or {}
        if name in ("linear", "conv1d", "conv2d"):
            names = ("stride", "padding", "dilation", "groups")
            self.found.append((name, *args[:2], dict(zip(names, args[3:], strict=False)) | kwargs))
        elif name in ("matmul", "__matmul__"):
            self.found.append(("matmul", *args, {}))
        else:
            assert name not in ("bmm", "mm", "einsum", "baddbmm", "conv3d", "mv"), f"{name}: this test must know it"
        return func(*args, **kwargs)


def array(x):
    return np.ascontiguousarray(x.detach().numpy())


def look(call):
    """Of one call: the data operands' values, (active, weighted with each of them, in bounds)."""
    name, a, b, options = call
    if name == "linear":  # a is data, b the weight
        active, weighted, _, total = loop_matmul(array(a).reshape(1, -1, a.shape[-1]), array(b.mT)[None])
        return [a], (active, [weighted], total)
    if name == "matmul":
        shape = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        whole = [array(m.expand(*shape, *m.shape[-2:])).reshape(-1, *m.shape[-2:]) for m in (a, b)]
        active, *weighted, total = loop_matmul(*whole)
        if isinstance(a, torch.nn.Parameter):  # token mixing
            return [b], (active, weighted[1:], total)
        return [a, b], (active, weighted, total)
    x, w = (a[:, :, None], b[:, :, None]) if name == "conv1d" else (a, b)
    pads = (0, *options["padding"]) if name == "conv1d" else options["padding"]
    stride, groups = options.get("stride", (1,))[0], options.get("groups", 1)
    active, weighted, total = loop_conv(array(x), array(w), stride, *pads, groups)
    return [a], (active, [weighted], total)


def once(call, images):
    """How many products one pass over all steps has, of entries that are not zero at some step."""
    name, *operands, options = call

    def any_step(x):
        if isinstance(x, torch.nn.Parameter) or (name != "matmul" and x is operands[1]):
            return x
        steps = x.unflatten(0, (-1, images)) if name.startswith("conv") else x  # (T, B, …)
        return steps.ne(0).any(0).to(x.dtype)

    return look((name, *map(any_step, operands), options))[1][0]


def class_of(tensors):
    """("spikes" | "codes" | "sums" | "real", unit) of all values of an operand."""
    values = np.unique(np.concatenate([array(x).ravel() for x in tensors]))
    values = values[values != 0]
    if len(np.unique(values.round(9))) <= 1:
        return "spikes", 1.0
    multiples = values / (unit := np.abs(values).min())
    if np.abs(multiples - multiples.round()).max() > 1e-6 or np.abs(multiples).max() > 256:
        return "real", 1.0
    codes = np.unique(multiples.round())
    if len(codes) > 2 and all(m > 0 and np.log2(m).is_integer() for m in codes):
        return "codes", unit
    return "sums", unit


def brute_force(model, batches):
    """(MACs, ACs) with integers added, with integers multiplied, (once, 0): of every product in order."""
    runs = []
    for x in batches:
        with Calls() as calls, torch.no_grad():
            model(x)
        runs.append(calls.found)
    results = []
    for same in zip(*runs, strict=True):
        operands, numbers = zip(*map(look, same), strict=True)
        classes = [class_of(tensors) for tensors in zip(*operands, strict=True)]
        active, total = sum(n[0] for n in numbers), sum(n[2] for n in numbers)
        names = [name for name, _ in classes]
        passes = sum(once(call, x.shape[-4]) for call, x in zip(same, batches, strict=True)), 0
        if "spikes" in names or "codes" in names:
            results.append(((0, active), (0, active), passes))
        elif "sums" in names:
            added = [sum(n[1][i] for n in numbers) / classes[i][1] for i in range(len(names)) if names[i] == "sums"]
            results.append(((0, min(added)), (active, 0), passes))
        else:
            results.append(((total, 0), (total, 0), passes))
    return results


# --- models ----------------------------------------------------------------------------------------------------------

ENCODER = {"embed_dim": 32, "num_heads": 2, "depth": 1, "mlp_ratio": 2.0, "time_steps": 2}
STAGES = {"embed_dim": 32, "num_heads": 2, "depths": (1, 1, 1), "mlp_ratio": 2.0, "time_steps": 2}


GE2MST = {"widths": (8, 16, 32), "head_width": 8, "mlp_ratio": 2.0, "time_steps": 2}


def small(name: str, **config):
    family = name.partition("_")[0]
    return name, {
        **{"qkformer": STAGES, "msvit": STAGES, "ge2mst": GE2MST}.get(family, ENCODER),
        "image_size": 8,
        **config,
    }


def lively(name: str, **config):
    """So small a model fires only with an effort."""
    model = firing(name, **config)
    for bn in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        bn.bias.data += 0.8
    return model


CASES = {name: small(name) for name in list_models("*_tiny")} | {
    "few tokens: N <= d": small("spikformer_tiny", num_heads=1, depth=2),
    "many tokens: N > d": small("spikformer_tiny", image_size=16, num_heads=4, depth=2, time_steps=3),
    "T = 1": small("spikformer_tiny", time_steps=1),
    "not square": small("spikformer_tiny", image_size=(8, 12), time_steps=3),
    "one channel": small("qkformer_tiny", in_channels=1),
    "ImageNet stem of Spikformer": small("spikformer_tiny", image_size=32, pools=(0, 1, 2, 3)),
    "ImageNet stem of Spikingformer": small("spikingformer_tiny", image_size=32, pools=(1, 2, 3, 4)),
    "ImageNet stem of QKFormer": small("qkformer_tiny", stem="imagenet", image_size=32),
    "qk_channel": small("qkformer_tiny", mixers=("qk_channel", "qk_channel", "ssa")),
    "ms_channel": small("msvit_tiny", mixers=("ms_channel", "ms_channel", "ssa"), image_size=(8, 12)),
    "SDSA in Spikformer": small("spikformer_tiny", mixer="sdsa"),
    "token mixing in Spikformer": small("spikformer_tiny", mixer="token_mixing", image_size=(8, 12)),
    "16-fold STMixer": small("stmixer_tiny", downsample_times=4, image_size=32),
    "Ge²mS-T with LIF": small("ge2mst_tiny", neuron={"kind": "lif"}),
    "Ge²mS-T of windows that do not divide": small("ge2mst_tiny", image_size=12, windows=((), (3,), (2, 0))),
    "pruned": small("spikformer_tiny", pruned=0.4),
    "pruned STMixer": small("stmixer_tiny", pruned=0.4),
}


def check(model, batches):
    counts = count(model, batches)
    *expected, passes = zip(*brute_force(model, batches), strict=True)
    assert counts.one_pass
    assert [(c.module, c.tally.once) for c in counts.operators] == [
        (c.module, n) for c, (n, _) in zip(counts.operators, passes, strict=True)
    ]
    for integers, results in zip(("add", "multiply"), expected, strict=True):
        ours = [charge(c, integers=integers) for c in counts.operators]
        found = [(c.module, c.operator, e.macs, e.acs) for c, e in zip(counts.operators, ours, strict=True)]
        for (module, operator, macs, acs), wanted in zip(found, results, strict=True):
            assert (macs, acs) == pytest.approx(wanted, rel=1e-9), (module, operator, integers)
        whole = exact(counts, integers=integers)
        sums = [sum(column) / counts.images for column in zip(*results, strict=True)]
        assert [whole.macs, whole.acs] == pytest.approx(sums, rel=1e-9)
    return counts


@pytest.mark.parametrize("case", CASES)
def test_every_multiplication(case):
    name, config = CASES[case]
    model = lively(name, **config)
    c = model.config
    batches = [torch.randn(n, c.in_channels, *c.image_size, dtype=torch.float64) for n in (2, 1)]
    counts = check(model, batches)
    assert counts.images == 3
    assert all(c.tally.active > 0 for c in counts.operators), [c.module for c in counts.operators if not c.tally.active]


@pytest.mark.parametrize("name", list_models("*_tiny"))
def test_frames(name):
    name, config = small(name)
    model = lively(name, **config)
    if not model.time_axis:
        pytest.skip("takes still images only")
    video = torch.randn(3, 2, 3, 8, 8, dtype=torch.float64)  # three steps, though the model has T = 2
    assert check(model, [video]).images == 2


def test_binary_and_pruned_images():
    """The first convolution, too, is additions where the image is spikes."""
    name, config = small("spikformer_tiny", pruned=0.3)
    x = (torch.rand(2, 3, 8, 8, dtype=torch.float64) < 0.4).double()
    counts = check(lively(name, **config), [x])
    assert charge(counts.operators[0]).macs == 0 < charge(counts.operators[0]).acs


def test_power_of_two_image():
    """Codes 1, 2, 4: an addition each and a shift for every output."""
    name, config = small("spikformer_tiny")
    x = torch.tensor([0.0, 1, 2, 4]).double()[torch.randint(4, (2, 3, 8, 8))]
    counts = check(lively(name, **config), [x])
    first = charge(counts.operators[0])
    assert first.macs == 0 and first.shifts == 2 * 8 * 8 * 4  # images · H · W · D/8
