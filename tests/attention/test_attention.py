"""Attention: equal to loops over heads, tokens and channels that nobody could call clever."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spikevit import create_model
from spikevit.attention import SSA, QKChannelAttention, QKTokenAttention, spike_attention
from spikevit.neurons import NeuronConfig, Stream, lif

T, B, N, C, HEADS = 3, 2, 6, 16, 2
KINDS = {"ssa": SSA, "qk_token": QKTokenAttention, "qk_channel": QKChannelAttention}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def ready(kind, training: bool = False, **options):
    """In float64, with batch norm as after training, so that all its neurons fire."""
    module = kind(C, HEADS, neuron=NeuronConfig(), **options).double()
    for bn in (m for m in module.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.uniform_(bn.running_mean, -0.3, 0.3)
        nn.init.uniform_(bn.running_var, 0.05, 0.2)
        nn.init.uniform_(bn.weight, 1, 3)
        nn.init.uniform_(bn.bias, 0, 2)
    return module.train(training)


def tokens(tokens: int = N) -> torch.Tensor:
    return torch.randint(0, 3, (T, B, tokens, C)).double()  # a residual stream: sums of spikes


def spikes(*shape, dtype=torch.float64) -> torch.Tensor:
    return (torch.rand(shape) < 0.4).to(dtype)


# --- the product ---------------------------------------------------------------------------------------------------

SHAPES = pytest.mark.parametrize(("n", "d"), [(7, 3), (3, 7), (4, 4), (1, 4)])


@SHAPES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_product_equals_a_triple_loop(n, d, dtype):
    q, k, v = (spikes(2, n, d, dtype=dtype) for _ in range(3))
    expected = torch.zeros(2, n, d, dtype=dtype)
    for head in range(2):
        for i in range(n):
            for j in range(n):
                for c in range(d):
                    expected[head, i] += q[head, i, c] * k[head, j, c] * v[head, j] * 0.125
    assert torch.equal(spike_attention(q, k, v, 0.125), expected), "exact: spikes, and a scale that is a power of two"


@SHAPES
def test_product_takes_the_cheaper_order(n, d):
    q, k, v = (spikes(2, n, d) for _ in range(3))
    with FlopCounterMode(display=False) as flops:
        spike_attention(q, k, v, 0.125)
    assert flops.get_total_flops() == 2 * 2 * 2 * n * d * min(n, d)


# --- modules, written again the long way ---------------------------------------------------------------------------


def separate(layer, parts: int) -> list:
    """x -> spikes of each part of a fused projection, with a Linear and a BatchNorm1d of its own; plain neurons."""
    functions = []
    for i in range(parts):
        width = layer.linear.out_features // parts
        rows = slice(i * width, (i + 1) * width)
        linear = nn.Linear(layer.linear.in_features, width, bias=layer.linear.bias is not None).double()
        bn = nn.BatchNorm1d(width).double().train(layer.bn.training)
        with torch.no_grad():
            for name, p in linear.named_parameters():
                p.copy_(layer.linear.get_parameter(name)[rows])
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(bn, name).copy_(getattr(layer.bn, name)[rows])

        def spiking(x, linear=linear, bn=bn, width=width):
            return lif(bn(linear(x).reshape(-1, width)).reshape(*x.shape[:-1], width))[0]

        functions.append(spiking)
    return functions


def fires(currents: list[float], threshold: float) -> list[float]:
    """One LIF neuron of τ = 2 with a hard reset, over T steps, in Python's numbers."""
    v, out = 0.0, []
    for x in currents:
        v += (x - v) / 2
        out.append(float(v >= threshold))
        v = 0.0 if out[-1] else v
    return out


@MODES
@pytest.mark.parametrize("qkv_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("n", [6, 12], ids=["N<=d", "N>d"])  # d = 8
def test_ssa_equals_separate_projections(n, qkv_bias, training):
    module, x = ready(SSA, training, bias=qkv_bias), tokens(n)
    q, k, v = (part(x) for part in separate(module.proj_in, 3))
    heads = []
    for h in range(HEADS):
        of = slice(h * C // HEADS, (h + 1) * C // HEADS)
        heads.append(q[..., of] @ k[..., of].mT @ v[..., of] * 0.125)
    attended = lif(torch.cat(heads, -1), threshold=0.5)[0]
    (proj,) = separate(module.proj_out, 1)
    expected = proj(attended)
    assert 0 < attended.mean() < 1 and 0 < expected.mean() < 1
    assert torch.equal(module(x), expected)


@MODES
def test_token_attention_equals_loops(training):
    module, x = ready(QKTokenAttention, training), tokens()
    with torch.no_grad():
        module.proj_in.bn.bias[:C] -= 2  # q seldom fires, for a single spike of a head passes its token
    q, k = (part(x) for part in separate(module.proj_in, 2))
    passed, masks = torch.zeros_like(k), []
    for b in range(B):
        for h in range(HEADS):
            channels = range(h * C // HEADS, (h + 1) * C // HEADS)
            for n in range(N):
                mask = fires([sum(q[t, b, n, c].item() for c in channels) for t in range(T)], 0.5)
                masks += mask
                for t in range(T):
                    for c in channels:
                        passed[t, b, n, c] = mask[t] * k[t, b, n, c]
    (proj,) = separate(module.proj_out, 1)
    assert 0 < sum(masks) < len(masks), "the mask must decide something"
    assert torch.equal(module(x), proj(passed))


@MODES
def test_channel_attention_equals_loops(training):
    module, x = ready(QKChannelAttention, training), tokens()
    with torch.no_grad():
        module.proj_in.bn.bias[:C] -= 3  # nor may a sum over all tokens always reach the threshold
    q, k = (part(x) for part in separate(module.proj_in, 2))
    passed, masks = torch.zeros_like(k), []
    for b in range(B):
        for c in range(C):
            mask = fires([sum(q[t, b, n, c].item() for n in range(N)) for t in range(T)], 0.5)
            masks += mask
            for t in range(T):
                for n in range(N):
                    passed[t, b, n, c] = mask[t] * k[t, b, n, c]
    (proj,) = separate(module.proj_out, 1)
    assert 0 < sum(masks) < len(masks), "the mask must decide something"
    assert torch.equal(module(x), proj(passed))


@EVERY_KIND
def test_tokens_and_maps_are_the_same(kind):
    module, x = ready(kind), tokens(6)
    as_maps = module(x.unflatten(2, (2, 3)))
    assert as_maps.shape == (T, B, 2, 3, C)
    assert torch.equal(as_maps.flatten(2, 3), module(x))


# --- refusals, and the defect that can be asked for ------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("heads", [5, 0, 24])
def test_heads_must_divide_the_width(kind, heads):
    with pytest.raises(
        ValueError, match=rf"num_heads={heads} does not divide the width 12; these do: \[1, 2, 3, 4, 6, 12\]"
    ):
        kind(12, heads, neuron=NeuronConfig())


def test_batch_leak_is_what_it_says():
    """The last neurons run through T·B steps as if they were time: each image starts where the one before it ended."""
    module, x = ready(SSA), tokens()
    seen = []
    module.proj_out.lif.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    repaired, currents = module(x), seen[0]
    expected = torch.zeros_like(currents)
    for n in range(N):
        for c in range(C):
            of_one = [currents[t, b, n, c].item() for t in range(T) for b in range(B)]
            expected[:, :, n, c] = torch.tensor(fires(of_one, 1.0)).view(T, B)
    assert not torch.equal(repaired, expected)
    alone = module(x[:, :1])
    module.legacy_batch_leak = True
    assert torch.equal(module(x), expected)
    assert torch.equal(module(x[:, :1]), alone), "an image alone has nobody to leak from"


def test_batch_leak_refuses_to_stream():
    with pytest.raises(ValueError, match="legacy_batch_leak=True .* cannot run step by step"):
        ready(SSA, legacy_batch_leak=True)(tokens()[:1], Stream(None))
    model = create_model("qkformer_tiny", legacy_batch_leak=True)
    with pytest.raises(ValueError, match="legacy_batch_leak=True"):
        model.step(torch.randn(1, 3, 32, 32))
