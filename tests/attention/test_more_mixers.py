"""Multi-scale attention, spike-driven attention and token mixing, against naive loops; the shape all share."""

import pytest
import torch
from torch import nn

from spikevit.attention import MIXERS, TokenMixing, make_mixer
from spikevit.attention.multiscale import TokenConv
from spikevit.neurons import NeuronConfig

T, B, N, C, HEADS = 3, 2, 6, 8, 2
NEURON = NeuronConfig()


def ready(name: str, **options):
    mixer = make_mixer(name, C, HEADS, tokens=N, grid=(2, 3), neuron=NEURON, **options).double().eval()
    for bn in (m for m in mixer.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.uniform_(bn.running_var, 0.05, 0.2)
        nn.init.uniform_(bn.bias, 0.2, 1.2)
    return mixer


def tokens() -> torch.Tensor:
    return torch.randint(0, 2, (T, B, N, C)).double()


def watched(mixer, x):
    """Output, the spikes of the projections, and what goes into the neurons of attention."""
    seen = {}
    handles = [
        mixer.proj_in.register_forward_hook(lambda m, a, out: seen.update(parts=out)),
        mixer.attn_lif.register_forward_hook(lambda m, a, out: seen.update(currents=a[0], mask=out)),
        mixer.proj_out.register_forward_pre_hook(lambda m, a: seen.update(mixed=a[0])),
    ]
    out = mixer(x)
    for handle in handles:
        handle.remove()
    return out, seen


@pytest.mark.parametrize("name", ["ms_token", "ms_channel"])
def test_multiscale_equals_loops(name):
    mixer, x = ready(name), tokens()
    _, seen = watched(mixer, x)
    q, k = seen["parts"].chunk(2, -1)
    p, d = mixer.p(x), C // HEADS
    assert q.any() and p.any() and 0 < seen["mask"].mean() < 1
    for t, b, n, h in torch.cartesian_prod(*(torch.arange(size) for size in (T, B, N, HEADS))).tolist():
        group = slice(h * d, (h + 1) * d)
        if name == "ms_token":
            assert seen["currents"][t, b, n, h] == q[t, b, n, group].sum() + p[t, b, n, group].sum()
        else:
            assert torch.equal(seen["currents"][t, b, n, h], q[t, b, n, group].sum() + p[t, b, n, group])
        assert torch.equal(seen["mixed"][t, b, n, group], seen["mask"][t, b, n, h] * k[t, b, n, group])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_token_conv_equals_loops(kernel, training):
    conv, x = TokenConv(C, kernel, neuron=NEURON).double().train(training), tokens()
    currents = torch.zeros(T, B, N, C, dtype=torch.float64)
    for n in range(N):
        for j in range(kernel):
            if 0 <= n + j - kernel // 2 < N:
                currents[:, :, n] += x[:, :, n + j - kernel // 2] @ conv.conv.weight[:, :, j].T
    norm = nn.BatchNorm1d(C).double().train(training)
    expected = conv.lif(norm(currents.flatten(0, -2)).view(currents.shape))
    assert torch.equal(conv(x), expected)


def test_sdsa_equals_loops():
    mixer, x = ready("sdsa", membrane=True), torch.randn(T, B, N, C, dtype=torch.float64) * 3
    _, seen = watched(mixer, x)
    q, k, v = seen["parts"].chunk(3, -1)
    for t, b, c in torch.cartesian_prod(*(torch.arange(size) for size in (T, B, C))).tolist():
        assert seen["currents"][t, b, 0, c] == sum(k[t, b, n, c] * v[t, b, n, c] for n in range(N))
        assert torch.equal(seen["mixed"][t, b, :, c], q[t, b, :, c] * seen["mask"][t, b, 0, c])
    assert seen["currents"].any()


def test_token_mixing_equals_loops():
    mixing, x = TokenMixing(N, HEADS).double(), tokens()
    y, d = mixing(x), C // HEADS
    for h in range(HEADS):
        for n in range(N):
            naive = sum(mixing.weight[h, n, m] * x[:, :, m, h * d : (h + 1) * d] for m in range(N))
            torch.testing.assert_close(y[:, :, n, h * d : (h + 1) * d], naive)
    with pytest.raises(ValueError, match="weights for 6 tokens, not 5"):
        mixing(x[:, :, :5])


@pytest.mark.parametrize("membrane", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_all_mixers_have_one_shape(name, membrane):
    """Tokens or maps in, the same shape out; spikes or membrane potentials, as the residual stream has them."""
    mixer = ready(name, membrane=membrane)
    x = torch.randn(T, B, N, C, dtype=torch.float64) * 3 if membrane else tokens()
    y = mixer(x)
    assert y.shape == x.shape
    assert torch.equal(mixer(x.unflatten(2, (2, 3))), y.unflatten(2, (2, 3)))
    binary = bool(((y == 0) | (y == 1)).all())
    assert binary != membrane


def test_unknown_mixer():
    with pytest.raises(ValueError, match="did you mean ssa or sdsa"):
        make_mixer("sssa", C, HEADS, neuron=NEURON)
    with pytest.raises(ValueError, match="needs tokens=N"):
        make_mixer("token_mixing", C, HEADS, neuron=NEURON)
    with pytest.raises(ValueError, match="membrane=True has none there"):
        make_mixer("ssa", C, HEADS, neuron=NEURON, membrane=True, legacy_batch_leak=True)
