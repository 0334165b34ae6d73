"""Operation counts: equal to formulas and to direct counting; and energy by the papers' convention."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikevit import count, create_model, record_spikes
from spikevit.profiling.conventions import Energy, paper
from spikevit.profiling.count import Operand, OperatorCount

T, B, SIDE = 4, 2, 16


def firing(name: str = "spikformer_tiny", **config):
    """In evaluation mode, with batch norm as after training, so that neurons fire."""
    model = create_model(name, image_size=SIDE, **config).double().eval()
    for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.uniform_(bn.running_var, 0.02, 0.1)
        nn.init.uniform_(bn.bias, -0.2, 0.6)
    return model


def images(batch: int = B) -> torch.Tensor:
    return torch.randn(batch, 3, SIDE, SIDE, dtype=torch.float64)


def spikes(*shape) -> torch.Tensor:
    return (torch.rand(shape) < 0.3).float()


class Plain(nn.Module):
    """A user's model: some layers, and what it does with them."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        self.layers = nn.ModuleDict(layers)

    def forward(self, x):
        return self.run(x, **self.layers)


def counted(model, x) -> dict:
    """(module, operator) -> (calls, macs, [(nonzero, size) of each operand])."""
    return {
        (c.module, c.operator): (c.calls, c.macs, [(o.nonzero, o.size) for o in c.operands]) for c in count(model, x)
    }


def entries(*tensors) -> list[tuple[int, int]]:
    return [(int((x != 0).sum()), x.numel()) for x in tensors]


# --- multiply-accumulates --------------------------------------------------------------------------------------------


def spikformer_macs(c, side: int, batch: int) -> dict[str, int]:
    """What Spikformer's equations cost for a batch of still images, by module, with the stem's first image once."""
    d, steps = c.embed_dim, c.time_steps * batch
    widths, macs = [c.in_channels, d // 8, d // 4, d // 2, d], {}
    for i in range(4):
        macs[f"patch_embed.proj.{i}"] = (steps if i else batch) * side**2 * 9 * widths[i] * widths[i + 1]
        side //= 2 if i in c.pools else 1
    n, per_head = side**2, d // c.num_heads
    macs["patch_embed.rpe"] = steps * n * 9 * d * d
    for i in range(c.depth):
        macs |= {
            f"blocks.{i}.attn.proj_in": steps * n * d * 3 * d,
            f"blocks.{i}.attn, first": steps * c.num_heads * n * per_head * min(n, per_head),
            f"blocks.{i}.attn": steps * c.num_heads * n * per_head * min(n, per_head),
            f"blocks.{i}.attn.proj_out": steps * n * d * d,
            f"blocks.{i}.mlp.fc1": steps * n * d * 4 * d,
            f"blocks.{i}.mlp.fc2": steps * n * 4 * d * d,
        }
    return macs | {"head": steps * d * c.num_classes}


@pytest.mark.parametrize("heads", [2, 8], ids=["N<=d", "N>d"])  # N = 16, d = 32 or 8
def test_spikformer_equals_its_formula(heads):
    model = firing(num_heads=heads)
    counts = count(model, images())
    expected = [(name.partition(",")[0], macs) for name, macs in spikformer_macs(model.config, SIDE, B).items()]
    assert [(c.module, c.macs) for c in counts] == expected
    kinds = {c.module.rpartition(".")[0] or c.module: c.operator for c in counts}
    assert (kinds["patch_embed.proj"], kinds["blocks.0"], kinds["blocks.0.mlp"]) == ("conv", "matmul", "linear")


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5), (3, 2, 7, 5)], ids=str)
def test_linear(shape, bias):
    x = spikes(*shape)
    rows = x.numel() // 5
    model = Plain(lambda x, fc: fc(x), fc=nn.Linear(5, 6, bias=bias))
    assert counted(model, [x]) == {("layers.fc", "linear"): (1, rows * 5 * 6, entries(x))}
    weight = torch.randn(6, 5)
    functional = Plain(lambda x: F.linear(x, weight, torch.ones(6) if bias else None))
    assert counted(functional, [x]) == {("", "linear"): (1, rows * 5 * 6, entries(x))}


@pytest.mark.parametrize("options", [dict(), dict(groups=2), dict(stride=2), dict(groups=4, stride=2, padding=0)])
def test_convolution(options):
    x = spikes(2, 4, 9, 9)
    conv = nn.Conv2d(4, 8, 3, **dict(padding=1) | options)
    _, _, height, width = conv(x).shape
    macs = 2 * height * width * 8 * (4 // conv.groups) * 9
    model = Plain(lambda x, conv: conv(x), conv=conv)
    assert counted(model, x) == {("layers.conv", "conv"): (1, macs, entries(x))}


def test_transposed_convolution():
    """Each entry of the input meets every weight of its channel once, whatever the stride."""
    x = spikes(2, 4, 5, 5)
    model = Plain(lambda x, conv: conv(x), conv=nn.ConvTranspose2d(4, 6, 3, stride=2))
    assert counted(model, x) == {("layers.conv", "conv"): (1, 2 * 4 * 5 * 5 * 6 * 9, entries(x))}


@pytest.mark.parametrize(
    "product",
    [
        lambda a, b: torch.bmm(a, b.mT),
        lambda a, b: a @ b.mT,
        lambda a, b: torch.baddbmm(torch.ones(1), a, b.mT),
        lambda a, b: torch.einsum("hnd,hmd->hnm", a, b),
    ],
    ids=["bmm", "matmul", "baddbmm", "einsum"],
)
def test_product_of_activations(product):
    a, b = spikes(3, 7, 5), spikes(3, 6, 5)
    model = Plain(lambda x: product(x[:, :7], x[:, 7:]))
    assert counted(model, [torch.cat([a, b], 1)]) == {("", "matmul"): (1, 3 * 7 * 6 * 5, entries(a, b))}


# --- operands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spikformer_tiny", "qkformer_tiny"])
def test_operands_of_layers_equal_direct_counting(name):
    model, x = firing(name), images()
    seen = {}
    for module_name, module in model.named_modules():
        if hasattr(module, "bn") or module_name == "head":
            module.register_forward_pre_hook(lambda _, args, n=module_name: seen.update({n: args[0]}))
    model(x)
    counts = {c.module: c for c in count(model, x) if c.operator != "matmul"}
    assert counts.keys() == seen.keys()
    for module_name, c in counts.items():
        went_in = seen[module_name]
        if module_name in ("patch_embed.proj.0", "patch_embed.0.proj.0"):  # still images, convolved once
            went_in = went_in[0]
        assert [(o.nonzero, o.size) for o in c.operands] == entries(went_in), module_name
        assert c.operands[0].rate > 0, module_name


def test_operands_of_attention_equal_direct_counting():
    model, x = firing(num_heads=8), images()  # N = 16 > d = 8: kᵀ v first
    first, second = (c for c in count(model, x) if c.module == "blocks.0.attn")
    qkv = record_spikes(model, x)["blocks.0.attn.proj_in.lif"].unflatten(-1, (3, 8, 8)).permute(3, 0, 1, 4, 2, 5)
    q, k, v = qkv
    (nk, size), (nv, _), (nq, _), (nkv, size_kv) = entries(k, v, q, k.mT @ v)
    assert first.calls == second.calls == 1
    assert [(o.nonzero, o.size) for o in first.operands] == [(nk, size), (nv, size)]
    assert [(o.nonzero, o.size) for o in second.operands] == [(nq, size), (nkv, size_kv)]


# --- what is executed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spikformer_tiny", "qkformer_tiny"])
def test_still_images_are_convolved_once(name):
    model, x = firing(name), images()
    still, frames = count(model, x), count(model, x.expand(T, *x.shape).contiguous())
    assert frames[0].macs == T * still[0].macs
    assert frames[0].operands[0].size == T * still[0].operands[0].size == T * x.numel()
    assert frames[1:] == still[1:]


def test_batches_add_up():
    model, x = firing(), images(5)
    whole = count(model, x)
    parts = count(model, iter([x[:2], x[2:4], x[4:]]))
    for a, b in zip(whole, parts, strict=True):
        assert (a.module, a.operator, a.macs, a.operands) == (b.module, b.operator, b.macs, b.operands)
        assert b.calls == 3 * a.calls


@pytest.mark.parametrize("training", [True, False])
def test_modules_are_the_innermost_that_run(training):
    model = firing().train(training)
    modules = dict(model.named_modules())
    names = [c.module for c in count(model, images())]
    layer = ".linear" if training else ""  # in evaluation it is folded with its norm
    assert "blocks.0.attn" in names and f"blocks.0.attn.proj_in{layer}" in names
    products = [f"blocks.{i}.attn" for i in range(2)]  # two products each
    assert all(name in modules for name in names)
    assert sorted(names) == sorted([*set(names), *products])


def test_nothing_stays_behind():
    model, x = firing(), images()
    count(model, x)
    assert model(x).requires_grad
    with pytest.raises(ValueError, match="5 channels"):
        count(model, torch.randn(2, 5, SIDE, SIDE))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- energy ----------------------------------------------------------------------------------------------------------

MADE_UP = [
    OperatorCount("stem.0", "conv", 1, 1000, [Operand(10, 10)]),
    OperatorCount("blocks.0.fc", "linear", 1, 2000, [Operand(1, 4)]),
    OperatorCount("blocks.0.attn", "matmul", 2, 500, [Operand(3, 10), Operand(1, 10)]),
    OperatorCount("blocks.1.attn", "matmul", 2, 300, [Operand(1, 5), Operand(4, 5)]),
    OperatorCount("header", "linear", 1, 80, [Operand(1, 2)]),
    OperatorCount("head", "linear", 1, 7777, [Operand(1, 1)]),
    OperatorCount("head.norm", "linear", 1, 8888, [Operand(1, 1)]),
]


def test_paper_by_hand():
    energy = paper(MADE_UP, images=2)
    assert energy.macs == 1000 / 2
    assert energy.sops == pytest.approx((2000 / 4 + 500 * 0.1 + 300 * 0.2 + 80 / 2) / 2)  # the sparser of a product
    assert energy.mj == pytest.approx((4.6 * 500 + 0.9 * 325) / 1e9)  # 1 mJ = 1e9 pJ


def test_paper_charges_the_stem_at_every_step():
    once, often = paper(MADE_UP, images=2), paper(MADE_UP, images=2, stem_repeats=4)
    assert often == Energy(macs=4 * once.macs, sops=once.sops)


def test_paper_head_is_free():
    without = [c for c in MADE_UP if c.module.split(".")[0] != "head"]
    assert paper(MADE_UP, images=2) == paper(without, images=2)
    named = paper(MADE_UP, images=2, head="header")
    assert named.sops == pytest.approx((2000 / 4 + 500 * 0.1 + 300 * 0.2 + 7777 + 8888) / 2)


def test_paper_of_still_images_is_that_of_frames():
    """With the stem charged at every step it does not matter whether it was executed once."""
    model, x = firing(), images()
    still = paper(count(model, x), images=B, stem_repeats=T)
    frames = paper(count(model, x.expand(T, *x.shape).contiguous()), images=B)
    assert still == frames


def test_rate_of_nothing():
    assert Operand().rate == 0.0
