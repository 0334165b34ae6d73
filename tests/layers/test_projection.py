"""Projections: equal to torch's layers in NCHW, folded in evaluation, and a still image is computed once."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spikevit.layers import ConvBN, LinearBN, SpikingConv, SpikingLinear, max_pool
from spikevit.neurons import NeuronConfig, lif

T, B, H, W, C, D = 3, 2, 6, 8, 4, 5
MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
CONVS = {
    "3x3": dict(kernel=3),
    "1x1": dict(kernel=1),
    "stride 2": dict(kernel=1, stride=2),
}


def ready(layer, training: bool):
    """In float64, with statistics and affine of batch norm as after training."""
    layer.double().train(training)
    for values in (layer.bn.running_mean, layer.bn.bias):
        nn.init.uniform_(values, -1, 1)
    for values in (layer.bn.running_var, layer.bn.weight):
        nn.init.uniform_(values, 0.5, 2)
    return layer


def maps(*shape) -> torch.Tensor:
    return torch.randn(*(shape or (T, B, H, W, C)), dtype=torch.float64)


def norm_like(kind, bn) -> nn.Module:
    """A batch norm of torch's, of another shape, with the same state."""
    other = kind(bn.num_features).double().train(bn.training)
    other.load_state_dict(bn.state_dict())
    return other


def reference(conv, bn, x):
    """Convolution and batch norm as anyone writes them, in NCHW; back as (T, B, H, W, C)."""
    nchw = x.flatten(0, 1).movedim(-1, 1).contiguous(memory_format=torch.contiguous_format)
    return bn(conv(nchw)).movedim(1, -1).unflatten(0, x.shape[:2])


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@MODES
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_layer_then_norm(bias, training):
    layer, x = ready(LinearBN(C, D, bias=bias), training), maps(T, B, 7, C)
    assert (layer.linear.bias is not None) == bias
    bn = norm_like(nn.BatchNorm1d, layer.bn)
    expected = bn(layer.linear(x).reshape(-1, D)).reshape(T, B, 7, D)
    close(layer(x), expected)
    close(layer.bn.running_mean, bn.running_mean)
    close(layer.bn.running_var, bn.running_var)


@MODES
@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
def test_conv_equals_layer_then_norm(options, training):
    layer, x = ready(ConvBN(C, D, **options), training), maps()
    bn = norm_like(nn.BatchNorm2d, layer.bn)
    close(layer(x), reference(layer.conv, bn, x))
    close(layer.bn.running_mean, bn.running_mean)
    close(layer.bn.running_var, bn.running_var)
    assert layer.bn.num_batches_tracked == bn.num_batches_tracked


def run(layer, image, x):
    """Output, gradients of the image and of every parameter, and buffers afterwards."""
    image.grad = None
    layer.zero_grad()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()  # each step weighs differently
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return {"y": y.detach(), "image": image.grad} | gradients | dict(layer.named_buffers())


@MODES
@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearBN(C, D),
        lambda: ConvBN(C, D),
        lambda: ConvBN(C, D, kernel=1, stride=2),
        lambda: SpikingConv(C, D, pool="membrane", neuron=NeuronConfig()),
        lambda: SpikingConv(C, D, pool="spikes", neuron=NeuronConfig()),
    ],
    ids=["linear", "conv", "strided", "membrane", "spikes"],
)
def test_still_image_equals_its_repetition(make, training):
    image = maps(B, H, W, C).requires_grad_()
    seen_once, seen_often = ready(make(), training), make().double().train(training)
    seen_often.load_state_dict(seen_once.state_dict())
    still = image.expand(T, *image.shape)
    assert still.stride(0) == 0
    ours = run(seen_once, image, still)
    theirs = run(seen_often, image, still.contiguous())
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("momentum, batches, share", [(0.1, 0, 0.1), (0.3, 5, 0.3), (None, 0, 1.0), (None, 3, 0.25)])
def test_running_variance_counts_every_step(momentum, batches, share):
    """Bessel's factor is that of T·B·H·W values: 12 values seen three times are 36. None is the mean over batches."""
    layer = ready(ConvBN(C, D, kernel=1), True)
    layer.bn.momentum, layer.bn.num_batches_tracked[...] = momentum, batches
    still = maps(B, 2, 3, C).expand(T, B, 2, 3, C)
    values = reference(layer.conv, nn.Identity(), still).reshape(-1, D)
    assert len(values) == 36
    expected = (1 - share) * layer.bn.running_var + share * values.var(0, correction=1)
    layer(still)
    close(layer.bn.running_var, expected.detach())


class Calls(TorchDispatchMode):
    """Batch sizes of the convolutions and pools that are executed."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("convolution", "max_pool2d_with_indices"):
            self.batches.append(len(args[0]))
        return func(*args, **(kwargs or {}))


@MODES
def test_still_image_is_computed_once(training):
    layer, image = ready(SpikingConv(C, D, pool="membrane", neuron=NeuronConfig()), training), maps(B, H, W, C)
    still = image.expand(T, *image.shape)
    for x, batch in ((still, B), (still.contiguous(), T * B), (still[:1], B)):
        with Calls() as calls:
            layer(x)
        assert calls.batches == [batch, batch], "one convolution, one pool"


@MODES
def test_still_image_stays_a_view(training):
    still = maps(B, H, W, C).expand(T, B, H, W, C)
    for y in (ready(ConvBN(C, D), training)(still), max_pool(still)):
        assert y.shape[0] == T and y.stride(0) == 0


@MODES
@pytest.mark.parametrize("pool", ["membrane", "spikes", None])
def test_pool_positions(pool, training):
    layer, x = ready(SpikingConv(C, D, pool=pool, neuron=NeuronConfig()), training), maps() * 2
    bn, pool2d = norm_like(nn.BatchNorm2d, layer.bn), nn.MaxPool2d(3, 2, 1)

    def pooled(z):
        return pool2d(z.flatten(0, 1).movedim(-1, 1)).movedim(1, -1).unflatten(0, z.shape[:2])

    z = reference(layer.conv, bn, x)
    expected = {
        "membrane": lambda: lif(pooled(z))[0],
        "spikes": lambda: pooled(lif(z)[0]),
        None: lambda: lif(z)[0],
    }[pool]()
    spikes = layer(x)
    assert spikes.shape == (T, B, *((H // 2, W // 2) if pool else (H, W)), D)
    assert torch.equal(spikes, expected)
    assert 0 < spikes.mean() < 1


def test_pool_positions_differ():
    """Otherwise the test above would not tell them apart."""
    layer, x = ready(SpikingConv(C, D, pool="membrane", neuron=NeuronConfig()), False), maps() * 2
    membrane = layer(x)
    layer.pool = "spikes"
    assert not torch.equal(layer(x), membrane)


@MODES
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_memory_is_channels_last(channels, training):
    """Time first, features last, without a copy: what comes out lies in memory as its shape says."""
    x = maps(T, B, H, W, channels)
    for y in (
        ready(LinearBN(channels, D), training)(x),
        ready(ConvBN(channels, D), training)(x),
        ready(ConvBN(channels, D, kernel=1, stride=2), training)(x),
        ready(SpikingConv(channels, D, pool="spikes", neuron=NeuronConfig()), training)(x),
        max_pool(x),
    ):
        assert y.is_contiguous(), y.stride()


def test_threshold_is_the_neurons():
    layer, x = ready(SpikingLinear(C, D, neuron=NeuronConfig(), threshold=0.5), False), maps(T, B, 7, C)
    assert torch.equal(layer(x), lif(LinearBN.forward(layer, x), threshold=0.5)[0])
    assert not torch.equal(layer(x), lif(LinearBN.forward(layer, x))[0])
