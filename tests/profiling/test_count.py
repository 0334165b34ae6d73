"""Operation counts: equal to formulas and to direct counting, of our models and of anybody's; nothing stays behind."""

import warnings
from dataclasses import fields
from math import prod

import pytest
import torch
import torch.nn.functional as F
from firing import SIDE, firing, images
from torch import nn

from spikevit import count, create_model, list_models, record_spikes
from spikevit.models.registry import model_entry
from spikevit.profiling.conventions import exact, paper
from spikevit.profiling.count import count_shapes
from spikevit.profiling.counts import Tally

T, B = 4, 2


def spikes(*shape) -> torch.Tensor:
    return (torch.rand(shape) < 0.3).float()


class Plain(nn.Module):
    """A user's model: some layers, and what it does with them."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        self.layers = nn.ModuleDict(layers)

    def forward(self, *x):
        return self.run(*x, **self.layers)


def counted(model, x) -> dict:
    """(module, operator) -> (calls, macs, [(nonzero, size) of each operand])."""
    return {
        (c.module, c.operator): (
            c.calls,
            c.macs,
            list(zip(c.tally.nonzero, c.tally.size, strict=True))[: len(c.operands)],
        )
        for c in count(model, x).operators
    }


def entries(*tensors) -> list[tuple[int, int]]:
    return [(int((x != 0).sum()), x.numel()) for x in tensors]


def products(model, x) -> list[tuple[str, str, int, int]]:
    """(module, operator, data operands, macs) of each; and nothing was left uncounted."""
    counts = count(model, x)
    assert counts.uncounted == []
    return [(c.module, c.operator, len(c.operands), c.macs) for c in counts.operators]


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
    assert [(c.module, c.macs) for c in counts.operators] == expected
    assert counts.macs == sum(macs for _, macs in expected) and counts.images == B and counts.time_steps == T
    kinds = {c.module.rpartition(".")[0] or c.module: c.operator for c in counts.operators}
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


CONVOLUTIONS = {
    "padded": (nn.Conv2d(4, 8, 3, padding=1), (9, 9)),
    "grouped": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (9, 9)),
    "depthwise, strided": (nn.Conv2d(4, 8, 3, stride=2, groups=4), (9, 9)),
    "dilated": (nn.Conv2d(4, 8, 3, dilation=2, padding=2), (9, 7)),
    "strided, uneven": (nn.Conv2d(4, 8, (3, 5), stride=(2, 3), padding=(2, 1)), (8, 9)),
    "1d": (nn.Conv1d(4, 6, 5, padding=2), (11,)),
    "3d": (nn.Conv3d(4, 3, 3, padding=1, stride=2), (4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (5, 5)),
    "transposed, cropped": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        (5, 4),
    ),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 4, stride=3, padding=2), (5,)),
}


@pytest.mark.parametrize("pruned", [False, True], ids=["full", "pruned"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, pruned):
    """In bounds, and both ≠ 0: as the same convolution of ones and zeros adds up to."""
    layer, shape = CONVOLUTIONS[name]
    x, weight = spikes(2, 4, *shape), layer.weight.data.clone()
    try:
        if pruned:
            layer.weight.data *= torch.rand_like(weight) < 0.5
        (c,) = count(Plain(lambda x, conv: conv(x), conv=layer), x).operators
        out = layer(x)
        ones = Plain(lambda x: layer._conv_forward(x, layer.weight.ne(0).float(), None))
        if layer.transposed:
            options = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
            function = getattr(F, f"conv_transpose{len(shape)}d")
            ones = Plain(lambda x: function(x, layer.weight.ne(0).float(), None, *options))
        taps = prod(layer.kernel_size)
        macs = x.numel() * layer.weight.shape[1] * taps if layer.transposed else out.numel() * 4 // layer.groups * taps
        assert (c.module, c.operator, c.calls, c.macs) == ("layers.conv", "conv", 1, macs)
        assert c.tally.active == ones(x).sum() and c.tally.outputs == out.numel()
        assert c.tally.inbounds <= macs and (pruned or c.tally.inbounds == ones(torch.ones_like(x)).sum())
        assert (c.tally.nonzero[0], c.tally.size[0]) == entries(x)[0]
    finally:
        layer.weight.data = weight


PRODUCTS = {
    "bmm": lambda a, b: torch.bmm(a, b.mT),
    "matmul": lambda a, b: a @ b.mT,
    "baddbmm": lambda a, b: torch.baddbmm(torch.ones(1), a, b.mT, beta=0.5, alpha=2),
    "einsum": lambda a, b: torch.einsum("hnd,hmd->hnm", a, b),
    "vmap": lambda a, b: torch.vmap(lambda a, b: a @ b.mT)(a, b),
    "attention alone": lambda a, b: F.linear(a, b[0]) if a.dim() == 2 else torch.matmul(a, b.mT),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_of_activations(name):
    a, b = spikes(3, 7, 5), spikes(3, 6, 5)
    model = Plain(lambda x: PRODUCTS[name](x[:, :7], x[:, 7:]))
    assert counted(model, [torch.cat([a, b], 1)]) == {("", "matmul"): (1, 3 * 7 * 6 * 5, entries(a, b))}


# --- anybody's models ------------------------------------------------------------------------------------------------

WEIGHT = torch.randn(6, 8)
FROZEN = nn.Linear(8, 6).requires_grad_(False)

OTHERS = {
    "mv": (lambda x: x[0] @ torch.ones(8), "linear", 1, 5 * 8),
    "weights from the left": (lambda x: torch.ones(3, 5) @ x, "linear", 1, 2 * 3 * 5 * 8),
    "weights from the left of a vector": (lambda x: WEIGHT @ x[0, 0], "linear", 1, 6 * 8),
    "dot": (lambda x: x[0, 0] @ x[0, 1], "matmul", 2, 8),
    "einsum of a weight": (lambda x: torch.einsum("bnd,od->bno", x, WEIGHT), "linear", 1, 2 * 5 * 8 * 6),
    "tensordot": (lambda x: torch.tensordot(x, WEIGHT, dims=([2], [1])), "linear", 1, 2 * 5 * 8 * 6),
    "addmm with a factor": (
        lambda x: torch.addmm(torch.ones(5, 6), x[0], WEIGHT.t(), beta=0.5),
        "linear",
        1,
        5 * 8 * 6,
    ),
    "expanded, frozen": (lambda x: FROZEN(x[:, :1].expand(2, 7, 8)), "linear", 1, 2 * 7 * 8 * 6),
    "expanded, turned": (lambda x: F.linear(x[:1].expand(4, 5, 8).mT.mT, WEIGHT), "linear", 1, 4 * 5 * 8 * 6),
    "vmap": (lambda x: torch.vmap(lambda row: WEIGHT @ row)(x[0]), "linear", 1, 5 * 8 * 6),
}


@pytest.mark.parametrize("name", OTHERS)
def test_products_of_any_kind(name):
    run, operator, data, macs = OTHERS[name]
    assert products(Plain(run), torch.randn(2, 5, 8)) == [("", operator, data, macs)]


ATTENTION = [("matmul", 2, 2 * 5 * 5 * 8), ("matmul", 2, 2 * 5 * 5 * 8)]


@pytest.mark.parametrize("causal", [False, True])
def test_scaled_dot_product_attention(causal):
    """Fused kernels would hide its products. A causal one still computes what it then hides."""
    model = Plain(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=causal))
    assert products(model, torch.randn(2, 5, 8)) == [("", *product) for product in ATTENTION]
    second = count(model, torch.randn(2, 5, 8)).operators[1]
    assert second.rate(0) == (15 / 25 if causal else 1)
    assert "softmax" in second.operands[0].origin.operator


@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention(need_weights):
    mha = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    model = Plain(lambda x, mha: mha(x, x, x, need_weights=need_weights)[0], mha=mha)
    expected = [("linear", 1, 2 * 5 * 8 * 24), *ATTENTION, ("linear", 1, 2 * 5 * 8 * 8)]
    assert products(model, torch.randn(2, 5, 8)) == [("layers.mha", *product) for product in expected]


def test_transformer_encoder_layer():
    """In evaluation, where torch would take its fast path."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    one = [("self_attn", "linear", 1, 2 * 5 * 8 * 24), *(("self_attn", *product) for product in ATTENTION)]
    one += [("self_attn", "linear", 1, 640), ("linear1", "linear", 1, 1280), ("linear2", "linear", 1, 1280)]
    expected = [(f"layers.{i}.{module}", *rest) for i in range(2) for module, *rest in one]
    assert products(encoder, torch.randn(2, 5, 8)) == expected


def test_pruned_weights_are_no_connections():
    x, fc = spikes(7, 5), nn.Linear(5, 6)
    fc.weight.data[:, 2:4] = 0
    fc.weight.data[1] = 0
    (c,) = count(fc, x).operators
    assert c.tally.active == 5 * int(x[:, [0, 1, 4]].sum()) and c.tally.inbounds == c.macs == 7 * 5 * 6


def test_convolution_by_activations():
    """Dynamic weights of 1 and 2 on real maps: whole numbers, counted."""
    x, kernels = torch.rand(1, 1, 4, 4) + 0.5, torch.tensor([[1.0, 2.0], [0.0, 1.0]])[None, None]
    model = Plain(lambda x, kernels: F.conv2d(x, kernels))
    counts = count(model, [(x, kernels)])
    (c,) = counts.operators
    assert [o.kind.name for o in c.operands] == ["real", "integer"] and c.tally.active == 9 * 3
    assert exact(counts).acs == 9 * 4 and exact(counts, integers="multiply").macs == 9 * 3


def test_summand_is_no_operand():
    """Data are added to a product of weights: nothing that is known to be data is multiplied."""
    counts = count(Plain(lambda x: torch.addmm(x, torch.ones(5, 3), torch.ones(3, 8))), torch.randn(5, 8))
    assert counts.operators == [] and [o.operator for o in counts.uncounted] == ["addmm"]


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_any_grad_mode(grad):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with grad():
        assert [p[:2] for p in products(model, torch.randn(2, 5, 8))] == [("0", "linear"), ("2", "linear")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """In numbers beyond what such a sum could hold."""
    x = torch.ones(3000, 8, dtype=dtype)
    x[0, 0] = 60000
    x[1, 1] = 50000
    (c,) = count(nn.Linear(8, 4).to(dtype), x).operators
    assert c.tally.active == 3000 * 8 * 4


# --- what it cannot count --------------------------------------------------------------------------------------------


@torch.library.custom_op("spikevit_test::mix", mutates_args=())
def mix(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT


def _kept(x, fc):
    return fc(mix(x))


UNKNOWN = {
    "custom operator": (lambda x: mix(x), "spikevit_test::mix"),
    "fft": (lambda x: torch.fft.fft2(x).real, "_fft_c2c"),
    "cdist": (lambda x: torch.cdist(x, x), "_cdist_forward"),
    "bilinear": (lambda x: F.bilinear(x, x, torch.ones(3, 8, 8)), "_trilinear"),
    "product into a tensor": (lambda x: torch.mm(x[0], WEIGHT.t(), out=torch.empty(5, 6)), "mm"),
    "sparse weights": (lambda x: torch.eye(5).to_sparse_csr() @ x[0], "mm"),
    "sparse activations": (lambda x: x[0].to_sparse() @ WEIGHT.t(), "mm"),
    "complex product": (lambda x: torch.complex(x, x) @ torch.complex(x, x).mT, "bmm"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_counted_is_listed(name):
    run, operator = UNKNOWN[name]
    unknown = Plain(run)
    model = Plain(lambda x, fc, unknown: unknown(fc(x)), fc=nn.Linear(8, 8), unknown=unknown)
    counts = count(model, [torch.randn(2, 5, 8)] * 3)
    assert [c.module for c in counts.operators] == ["layers.fc"]
    found = {(o.module, o.operator): o.calls for o in counts.uncounted}
    assert found[("layers.unknown", operator)] == 3
    assert ("layers.unknown", operator) not in {(o.module, o.operator) for o in counts.elementwise}


def test_what_follows_an_unknown_operator_is_data():
    model = Plain(_kept, fc=nn.Linear(5, 3))
    (c,) = count(model, torch.randn(2, 5, 8)).operators
    assert c.module == "layers.fc" and c.operands[0].origin.operator == "spikevit_test::mix"


def test_unknown_operators_on_no_data_do_not_matter():
    assert count(Plain(lambda x: x @ mix(torch.ones(8, 8))), torch.randn(2, 5, 8)).uncounted == []


def test_batch_norm_folds_into_what_is_in_front():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6), nn.Flatten())
    model += nn.Sequential(nn.Linear(54, 3), nn.BatchNorm1d(3))
    for mode in (True, False):
        counts = count(model.train(mode), torch.randn(2, 4, 5, 5))
        norms = [(o.module, o.remark, o.elements) for o in counts.elementwise if o.operator == "batch norm"]
        assert norms == [("1", "folds", 108), ("3", "cannot fold", 108), ("6", "folds", 6)]


# --- operands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spikformer_tiny", "qkformer_tiny"])
def test_operands_of_layers_equal_direct_counting(name):
    model, x = firing(name), images()
    seen = {}
    for module_name, module in model.named_modules():
        if hasattr(module, "bn") or module_name == "head":
            module.register_forward_pre_hook(lambda _, args, n=module_name: seen.update({n: args[0]}))
    model(x)
    counts = {c.module: c for c in count(model, x).operators if c.operator != "matmul"}
    assert counts.keys() == seen.keys()
    for module_name, c in counts.items():
        went_in = seen[module_name]
        if module_name in ("patch_embed.proj.0", "patch_embed.0.proj.0"):  # still images, convolved once
            went_in = went_in[0]
        assert (c.tally.nonzero[0], c.tally.size[0]) == entries(went_in)[0], module_name
        assert c.rate() > 0 and c.stem == (c.operator == "conv" and went_in.dim() == 4), module_name


def test_operands_of_attention_equal_direct_counting():
    model, x = firing(num_heads=8), images()  # N = 16 > d = 8: kᵀ v first
    first, second = (c for c in count(model, x).operators if c.module == "blocks.0.attn")
    qkv = record_spikes(model, x)["blocks.0.attn.proj_in.lif"].unflatten(-1, (3, 8, 8)).permute(3, 0, 1, 4, 2, 5)
    q, k, v = qkv
    (nk, size), (nv, _), (nq, _), (nkv, size_kv) = entries(k, v, q, k.mT @ v)
    assert first.calls == second.calls == 1
    assert (first.tally.nonzero, first.tally.size) == ((nk, nv), (size, size))
    assert (second.tally.nonzero, second.tally.size) == ((nq, nkv), (size, size_kv))


@pytest.mark.parametrize(
    "name", [name for name in list_models("*_tiny") if model_entry(name).config.neuron.kind != "expg"]
)
def test_neurons_equal_direct_counting(name):
    model, x = firing(name), images()
    found = {n.module: (n.spikes, n.updates) for n in count(model, x).neurons}
    assert found == {module: entries(s)[0] for module, s in record_spikes(model, x).items()}


# --- what is executed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spikformer_tiny", "qkformer_tiny"])
def test_still_images_are_convolved_once(name):
    model, x = firing(name), images()
    still, frames = count(model, x), count(model, x.expand(T, *x.shape).contiguous())
    assert (still.frames, frames.frames, still.images, frames.images) == (False, True, B, B)
    assert frames.operators[0].macs == T * still.operators[0].macs
    assert frames.operators[0].tally.size[0] == T * still.operators[0].tally.size[0] == T * x.numel()
    assert frames.operators[1:] == still.operators[1:]
    assert paper(frames).mj == paper(still).mj, "the stem at every step, executed or not"


def test_batches_add_up():
    model, x = firing(), images(5)
    whole = count(model, x)
    parts = count(model, iter([x[:2], x[2:4], x[4:]]))
    assert parts.images == whole.images == 5
    for a, b in zip(whole.operators, parts.operators, strict=True):
        assert (a.module, a.operator) == (b.module, b.operator)
        assert [o.kind for o in a.operands] == [o.kind for o in b.operands]
        for f in fields(Tally):
            expected = getattr(a.tally, f.name)
            assert getattr(b.tally, f.name) == (3 if f.name == "calls" else pytest.approx(expected)), f.name
    assert [vars(n) for n in parts.neurons] == [vars(n) for n in whole.neurons]


def test_single_batches_add_up():
    counts = count(firing(), images(5).split(2))
    single = list(counts.per_batch())
    assert [batch.images for batch in single] == [2, 2, 1]
    for i, c in enumerate(counts.operators):
        total = Tally()
        for batch in single:
            total += batch.operators[i].tally
            assert batch.operators[i].operands is c.operands
        assert total == c.tally
    for i, n in enumerate(counts.neurons):
        assert sum(batch.neurons[i].spikes for batch in single) == n.spikes
        assert sum(batch.neurons[i].updates for batch in single) == n.updates


def test_what_ran_is_charged():
    """A model that skips a layer for some batches, and one that leaves early."""

    def run(x, first, second, head):
        x = first(x)
        return head(second(x) if x.shape[0] > 1 else x)

    model = Plain(run, first=nn.Linear(8, 8), second=nn.Linear(8, 8), head=nn.Linear(8, 2))
    counts = count(model, [torch.randn(n, 8) for n in (1, 3, 1, 2)])
    found = {c.module: (c.calls, c.macs) for c in counts.operators}
    assert found == {"layers.first": (4, 7 * 64), "layers.head": (4, 7 * 16), "layers.second": (2, 5 * 64)}
    assert [len(batch.operators) for batch in counts.per_batch()] == [2, 3, 2, 3]
    assert [exact(batch).macs for batch in counts.per_batch()] == [80, 144, 80, 144]


def test_a_shared_module_adds_up():
    model = Plain(lambda x, fc: fc(fc(x)), fc=nn.Linear(8, 8))
    assert [(c.module, c.calls, c.macs) for c in count(model, torch.randn(3, 8)).operators] == [("layers.fc", 2, 384)]


@pytest.mark.parametrize("training", [True, False])
def test_modules_are_the_innermost_that_run(training):
    model = firing().train(training)
    modules = dict(model.named_modules())
    names = [c.module for c in count(model, images()).operators]
    assert "blocks.0.attn" in names and "blocks.0.attn.proj_in" in names  # in evaluation, folded with its norm
    two_products = [f"blocks.{i}.attn" for i in range(2)]
    assert all(name in modules for name in names)
    assert sorted(names) == sorted([*set(names), *two_products])
    assert model.training == training


@pytest.mark.parametrize("name", list_models("*_tiny"))
def test_shapes_alone(name):
    """On the meta device: the same operators, dense and in bounds, as a run."""
    run = count(firing(name), images(1))
    with torch.device("meta"):
        alone = count_shapes(create_model(name, image_size=SIDE).eval())
    assert alone.uncounted == run.uncounted == [] and alone.time_steps == run.time_steps
    for a, b in zip(run.operators, alone.operators, strict=True):
        assert (a.module, a.operator, a.macs, a.tally.inbounds, a.tally.outputs, a.tally.size) == (
            *(b.module, b.operator, b.macs, b.tally.inbounds, b.tally.outputs, b.tally.size),
        )
        assert a.stem == b.stem and a.folded_norm == b.folded_norm and b.tally.active == 0
    assert [(n.module, n.updates) for n in alone.neurons] == [(n.module, n.updates) for n in run.neurons]


def test_shapes_of_values_are_refused():
    with pytest.raises(ValueError, match=r"a model on cpu has values: make it under torch.device\('meta'\)"):
        count_shapes(firing())


# --- what goes in, what stays ----------------------------------------------------------------------------------------


def test_several_arguments():
    model = Plain(lambda q, k, scale: q @ k.mT * scale)
    counts = count(model, [(torch.randn(2, 5, 8), torch.randn(2, 5, 8), 0.5), [spikes(1, 5, 8), spikes(1, 5, 8), 1.0]])
    assert counts.images == 3 and counts.macs == 3 * 5 * 5 * 8


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "data holds no images"),
        (iter(()), "data holds no images"),
        (torch.randn(0, 8), r"at least one image; got \(0, 8\)"),
        ([torch.randn(2, 8), torch.randn(0, 8)], r"at least one image; got \(0, 8\)"),
        ([{"x": torch.randn(2, 8)}], "images must be a tensor; got dict"),
        ([()], "got nothing"),
        ([(torch.randn(2, 8), torch.zeros(2))], r"Linear does not take \(2, 8\), \(2,\): .*a batch may be a tuple"),
    ],
)
def test_bad_input(batches, message):
    with pytest.raises(ValueError, match=message):
        count(nn.Linear(8, 2), batches)


class Pair(nn.Module):
    def forward(self, q, k):
        return q @ k.mT


def test_a_model_that_needs_more():
    with pytest.raises(ValueError, match=r"Pair does not take \(2, 8\): missing a required argument: 'k'; a batch may"):
        count(Pair(), torch.randn(2, 8))


def test_an_error_of_the_model_stays_its_own():
    """A TypeError from inside says nothing about what the model takes."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'k'") as raised:
        count(Plain(lambda q, k: q @ k.mT), torch.randn(2, 8))
    assert raised.traceback[-1].name == "forward" and raised.value.__cause__ is None


def test_labels_are_left_out():
    """Of ours, and of any model that takes one argument; floats are no labels."""
    model, x, labels = firing(), images(), torch.tensor([0, 1])
    assert count(model, [(x, labels)]).operators == count(model, x).operators
    assert count(nn.Linear(8, 2), [(torch.ones(2, 8), labels)]).images == 2
    with pytest.raises(ValueError, match=r"spikformer_tiny takes images, or \(images, labels\); got .*, \(2,\)"):
        count(model, [(x, labels.double())])


def test_labels_of_other_images():
    """A clip (T, C, H, W) with one label, and frames (B, T, C, H, W) with B labels."""
    for x, labels in ((images(4), 1), (torch.stack([images(T)] * 3), 3)):
        message = rf"{labels} labels of 4 images .*: images are \(B, C, H, W\), recordings \(T, B, C, H, W\)"
        with pytest.raises(ValueError, match=message):
            count(firing(), [(x, torch.zeros(labels, dtype=torch.long))])


def test_batch_in_front_of_time_is_warned_of():
    x = torch.stack([images(2)] * T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count(firing(), x).images == 2 and count(firing(), x[:3]).time_steps == 3
    with pytest.warns(UserWarning, match=r"\(2, 4, 3, 16, 16\) are taken for 2 time steps of 4 images"):
        assert count(firing(), x.transpose(0, 1)).images == 4
    foreign = Plain(lambda x, fc: fc(x.flatten(2)).mean(0), fc=nn.Linear(3 * 16 * 16, 2).double())
    with pytest.warns(UserWarning, match=r"counts as 4 images, but Plain gives 2 outputs: .* too small by 4 to 2"):
        count(foreign, x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite(bad):
    x = torch.ones(2, 1, 4, 4)
    x[1, 0, 0, 0] = bad
    layers = {"pool": nn.MaxPool2d(2), "conv": nn.Conv2d(1, 2, 3)}
    for name, operator in (("pool", "max pool"), ("conv", "conv")):
        model = Plain(lambda x, **layer: next(iter(layer.values()))(x), **{name: layers[name]})
        with pytest.raises(
            ValueError, match=rf"{operator} of layers.{name}: its input has entries that are not finite"
        ):
            count(model, x)


def test_nothing_stays_behind():
    model, x = firing(), images()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    for fast in (True, False):
        torch.backends.mha.set_fastpath_enabled(fast)
        try:
            count(model, x)
            assert model(x).requires_grad and torch.is_grad_enabled()
            with pytest.raises(ValueError, match="5 channels"):
                count(model, torch.randn(2, 5, SIDE, SIDE))
            assert torch.backends.mha.get_fastpath_enabled() == fast and torch.is_grad_enabled()
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_counting_changes_nothing():
    model, x = firing(), images()
    seen = []
    model.register_forward_hook(lambda *args: seen.append(args[2]))
    count(model, x)
    assert torch.equal(seen[0], model(x))
