"""The folded copy: the same spikes and logits from plain linear maps and convolutions, which hooks see."""

import pytest
import torch
from torch import nn

from spikevit import create_model, list_models, record_spikes
from spikevit.layers import ConvBN, SpikingConv, SpikingLinear
from spikevit.layers.fold import fold_batch_norm
from spikevit.neurons import NeuronConfig

T, B, SIDE = 4, 2, 16
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def ready(model: nn.Module) -> nn.Module:
    """In float64 and evaluation, with statistics and affine of batch norm as after training."""
    for bn in (m for m in model.modules() if isinstance(m, NORMS)):
        nn.init.uniform_(bn.running_mean, -0.1, 0.1)
        nn.init.uniform_(bn.running_var, 0.02, 0.1)
        nn.init.uniform_(bn.weight, 0.8, 1.2)
        nn.init.uniform_(bn.bias, -0.2, 0.6)
    return model.double().eval()


def images() -> torch.Tensor:
    return torch.randn(B, 3, SIDE, SIDE, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, LAYERS)}


CASES = {name: {} for name in list_models("*_tiny")} | {
    "msvit_tiny, channel": dict(mixers=("ms_channel", "ms_channel", "ssa")),
    "qkformer_tiny, leak": dict(legacy_batch_leak=True),
    "stmixer_tiny, sml": dict(sml=True),
}


@pytest.mark.parametrize("case", CASES)
def test_model(case):
    model = ready(create_model(case.partition(",")[0], image_size=SIDE, **CASES[case]))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    copy = fold_batch_norm(model.train()).eval()
    assert all(m.training for m in model.modules()), "the model stays in its mode"
    model.eval()
    assert type(copy) is type(model) and copy.config == model.config
    assert not any(isinstance(m, NORMS) for m in copy.modules())
    seen = []
    for name, layer in layers(copy).items():
        layer.register_forward_hook(lambda _m, _args, _y, n=name: seen.append(n))
    x = images()
    ours, theirs = record_spikes(copy, x), record_spikes(model, x)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name
        assert 0 < (theirs[name] != 0).double().mean() < 1, name
    assert sorted(seen) == sorted(n for n in layers(model) if not n.startswith("sml.")), (
        "each layer once, by its module"
    )
    with torch.no_grad():
        close(copy(x), model(x))
        if case == "stmixer_tiny, sml":
            for a, b in zip(copy.all_logits(x), model.all_logits(x), strict=True):
                close(a, b)
    after = model.state_dict()
    assert all(torch.equal(after[name], x) for name, x in before.items()), "the model is as it was"


@pytest.mark.parametrize("name", [name for name in list_models("*_tiny") if create_model(name).streaming])
def test_stream(name):
    copy, x, state = fold_batch_norm(ready(create_model(name, image_size=SIDE))), images(), None
    with torch.no_grad():
        expected = copy(x, per_step=True)
        for t in range(T):
            logits, state = copy.step(x, state)
            close(logits, expected[t])


@pytest.mark.parametrize("bias", [True, False])
def test_linear_gets_one_weight_and_bias(bias):
    layer = ready(SpikingLinear(4, 5, bias=bias, neuron=NeuronConfig()))
    copy = fold_batch_norm(layer)
    assert {name: p.shape for name, p in copy.named_parameters()} == {"linear.weight": (5, 4), "linear.bias": (5,)}
    assert not dict(copy.named_buffers()) and not copy.training and layer.bn is not None
    x = torch.randn(7, 4, dtype=torch.float64)
    close(copy.linear(x), layer.bn(layer.linear(x)))


@pytest.mark.parametrize(
    "make", [lambda: ConvBN(3, 5), lambda: SpikingConv(3, 5, pool="membrane", neuron=NeuronConfig())]
)
def test_still_image_is_computed_once(make):
    copy, batches = fold_batch_norm(ready(make())), []
    copy.conv.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    still = torch.randn(B, 6, 8, 3, dtype=torch.float64).expand(T, B, 6, 8, 3)
    once, often = copy(still), copy(still.contiguous())
    assert batches == [B, T * B]
    assert torch.equal(once, often)
    if isinstance(copy, ConvBN) and not isinstance(copy, SpikingConv):
        assert once.stride(0) == 0


def test_training_mode_brings_no_norm_back():
    copy, x = fold_batch_norm(ready(create_model("qkformer_tiny", image_size=SIDE))), images()
    with torch.no_grad():
        expected = copy(x)
    logits = copy.train()(x)
    close(logits.detach(), expected)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in copy.parameters())


def test_folding_twice_changes_nothing():
    once = fold_batch_norm(ready(create_model("sdt_tiny", image_size=SIDE)))
    twice = fold_batch_norm(once).state_dict()
    assert all(torch.equal(x, twice[name]) for name, x in once.state_dict().items())
