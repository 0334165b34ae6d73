"""Spikes as operands: every operation on them is the operation on the value they stand for, or is refused."""

import copy
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spikevit.neurons import ExpG, ExpGIF, NotConvertible, SpikeTrain
from spikevit.neurons.spike_train import DROPOUTS, MOVES, STEPWISE, horner

CODES = [ExpG(1, 1), ExpG(3, 1), ExpG(1, 3), ExpG(2, 2), ExpG(4, 2), ExpG(2, 2, "group"), ExpG(4, 2, "group")]
codes = pytest.mark.parametrize("code", CODES, ids=lambda code: f"{code.steps}x{code.groups}-{code.order}")


TWO_TWO = ExpG(2, 2)


def train(*shape: int, code: ExpG = TWO_TWO, quantum: float | Tensor = 0.25) -> SpikeTrain:
    """Of random spikes, in float64."""
    steps = torch.randint(0, 2, (code.time_steps, *shape)).double()
    return SpikeTrain(steps, code, torch.as_tensor(quantum, dtype=torch.float64))


def value(x):
    """What it stands for, from the definition Δ Σ_t w_t s_t."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(value, x))
    if not isinstance(x, SpikeTrain):
        return x
    weights = 2.0 ** torch.arange(x.code.steps - 1, -1, -1).double()
    weights = weights.repeat(x.code.groups) if x.code.order == "group" else weights.repeat_interleave(x.code.groups)
    return x.quantum * torch.tensordot(weights, x.steps, 1)


def same(out, wanted) -> None:
    for ours, theirs in zip(*((o,) if not isinstance(o, tuple) else o for o in (out, wanted)), strict=True):
        ours = value(ours)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


# --- the value -------------------------------------------------------------------------------------------------------


@codes
def test_decode(code):
    x = train(3, 4, code=code)
    same(x.decode(), value(x))
    assert torch.equal(horner(x.steps, code) * 0.25, value(x))
    assert x.decode().max() <= code.levels * 0.25


def test_it_looks_like_a_tensor():
    x = train(3, 4, 5)
    assert x.shape == torch.Size([3, 4, 5]) and x.size() == x.shape and x.size(-1) == 5
    assert x.dim() == x.ndim == 3 and len(x) == 3 and x.dtype == torch.float64 and x.device.type == "cpu"
    assert isinstance(x.mT, SpikeTrain) and x.mT.shape == (3, 5, 4)
    copied = copy.deepcopy(x)
    assert torch.equal(copied.steps, x.steps) and copied.code == x.code
    with pytest.raises(AttributeError):
        x.nothing  # noqa: B018


def test_neurons_make_trains():
    neuron = ExpGIF(3.0, ExpG(2, 1))
    x = neuron(torch.tensor([[-1.0, 0.4, 1.2, 1.8, 9.0]]))
    assert isinstance(x, SpikeTrain) and x.decode().tolist() == [[0, 0, 1, 2, 3]]
    again = neuron(x)  # a train is an input, too
    assert again.decode().tolist() == [[0, 0, 1, 2, 3]]


# --- step by step ----------------------------------------------------------------------------------------------------

# By name: on x of shape (4, 6, 8), as a method or a function.
STEPWISE_CALLS = {
    "__getitem__": [lambda x: x[1], lambda x: x[:, 2:4], lambda x: x[..., -1], lambda x: x[:, None]],
    "adaptive_avg_pool1d": [lambda x: F.adaptive_avg_pool1d(x, 2), nn.AdaptiveAvgPool1d(4)],
    "adaptive_avg_pool2d": [lambda x: F.adaptive_avg_pool2d(x, 2), nn.AdaptiveAvgPool2d((3, 1))],
    "avg_pool1d": [lambda x: F.avg_pool1d(x, 2), nn.AvgPool1d(2)],
    "avg_pool2d": [
        lambda x: F.avg_pool2d(x, 2),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(2, ceil_mode=True),
    ],
    "chunk": [lambda x: x.chunk(2), lambda x: x.chunk(4, dim=-1), lambda x: torch.chunk(x, 2, 1)],
    "contiguous": [lambda x: x.mT.contiguous()],
    "detach": [lambda x: x.detach()],
    "expand": [lambda x: x[:, :1].expand(4, 6, 8), lambda x: x.expand(2, -1, -1, -1)],
    "flatten": [lambda x: x.flatten(), lambda x: x.flatten(1), lambda x: torch.flatten(x, 0, 1), nn.Flatten()],
    "mean": [
        lambda x: x.mean(),
        lambda x: x.mean(1),
        lambda x: x.mean((-1, 0), keepdim=True),
        lambda x: torch.mean(x, 2),
    ],
    "movedim": [lambda x: x.movedim(0, 2), lambda x: torch.movedim(x, 0, -1)],
    "narrow": [lambda x: x.narrow(1, 2, 3)],
    "pad": [
        lambda x: F.pad(x, (1, 2)),
        lambda x: F.pad(x, (0, 1, 2, 0)),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    ],
    "permute": [lambda x: x.permute(2, 0, 1), lambda x: torch.permute(x, (1, 0, 2))],
    "reshape": [lambda x: x.reshape(8, -1), lambda x: torch.reshape(x, (2, 2, 48))],
    "roll": [lambda x: x.roll(1, 0), lambda x: torch.roll(x, (1, 2), (1, 2))],
    "select": [lambda x: x.select(1, 3)],
    "split": [lambda x: x.split(2), lambda x: x.split([1, 5], dim=1), lambda x: torch.split(x, 3, 2)],
    "squeeze": [lambda x: x[:1].squeeze(0), lambda x: x[:, :1].squeeze()],
    "sum": [lambda x: x.sum(), lambda x: x.sum(-2, keepdim=True), lambda x: torch.sum(x, (0, 1))],
    "swapaxes": [lambda x: x.swapaxes(0, 2)],
    "to": [lambda x: x.to(torch.float64), lambda x: x.to("cpu")],
    "transpose": [lambda x: x.transpose(0, -1), lambda x: torch.transpose(x, 1, 2), lambda x: x.mT],
    "unbind": [lambda x: x.unbind(1), lambda x: torch.unbind(x, -1)],
    "unflatten": [lambda x: x.unflatten(-1, (2, 4)), nn.Unflatten(1, (3, 2))],
    "unsqueeze": [lambda x: x.unsqueeze(1), lambda x: torch.unsqueeze(x, -1)],
    "view": [lambda x: x.view(4, 48), lambda x: x.view(2, 2, 6, 8)],
}


def test_every_operation_that_goes_step_by_step_is_tested():
    assert STEPWISE_CALLS.keys() == STEPWISE | MOVES and not STEPWISE & MOVES


@codes
@pytest.mark.parametrize("name", sorted(STEPWISE_CALLS))
def test_stepwise(name, code):
    x = train(4, 6, 8, code=code)
    for f in STEPWISE_CALLS[name]:
        out = f(x)
        for part in out if isinstance(out, tuple) else (out,):
            assert isinstance(part, SpikeTrain) and part.code == code
        same(out, f(value(x)))


@pytest.mark.parametrize("name", sorted(MOVES))
def test_moves_keep_spikes(name):
    x = train(4, 6, 8)
    for f in STEPWISE_CALLS[name]:
        out = f(x)
        for part in out if isinstance(out, tuple) else (out,):
            assert set(part.steps.unique().tolist()) <= {0.0, 1.0}


def test_another_dtype():
    x = train(3, 4, quantum=torch.tensor([0.1, 0.2, 0.3, 0.4])).to(torch.float32)
    assert x.dtype == x.quantum.dtype == x.decode().dtype == torch.float32
    assert F.linear(x, torch.randn(2, 4)).dtype == torch.float32
    assert train(3, 4).to(torch.float32).quantum.dtype == torch.float32


# --- received by weights ---------------------------------------------------------------------------------------------


@codes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 5, 6)])
def test_linear(code, bias, shape):
    x, layer = train(*shape, code=code), nn.Linear(6, 4, bias=bias).double()
    out = layer(x)
    assert isinstance(out, Tensor)
    same(out, layer(value(x)))


CONVOLUTIONS = [
    (nn.Conv1d, (6, 9), {"kernel_size": 3}),
    (nn.Conv1d, (6, 9), {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 3, "bias": False}),
    (nn.Conv2d, (6, 7, 5), {"kernel_size": 3, "padding": 1}),
    (nn.Conv2d, (6, 7, 5), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1)}),
    (nn.Conv2d, (6, 7, 5), {"kernel_size": 3, "groups": 2, "bias": False}),
    (nn.Conv2d, (6, 7, 5), {"kernel_size": 3, "groups": 6, "padding": 2, "dilation": 2}),
    (nn.Conv2d, (6, 7, 5), {"kernel_size": 3, "padding": "same"}),
    (nn.Conv2d, (6, 7, 5), {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}),
    (nn.Conv3d, (6, 4, 5, 3), {"kernel_size": 2, "groups": 2}),
]


@codes
@pytest.mark.parametrize(("kind", "shape", "options"), CONVOLUTIONS)
def test_convolutions(code, kind, shape, options):
    x, layer = train(2, *shape, code=code), kind(6, 12, **options).double()
    out = layer(x)
    assert isinstance(out, Tensor)
    same(out, layer(value(x)))


def test_functional_convolution():
    x, weight = train(2, 6, 7, 5), torch.randn(4, 3, 3, 3).double()
    for f in (lambda x: F.conv2d(x, weight, None, 2, 1, 1, 2), lambda x: F.conv2d(x, weight, groups=2, padding=1)):
        same(f(x), f(value(x)))


class Operands(TorchFunctionMode):
    """Keeps the first operand of every product of tensors."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if any(isinstance(x, SpikeTrain) for x in args):
            with self:
                return SpikeTrain.__torch_function__(func, types, args, kwargs)
        if getattr(func, "__name__", "") in ("linear", "conv2d", "matmul"):
            self.found.append(args[:2])
        return func(*args, **(kwargs or {}))


def test_products_see_nothing_but_spikes():
    """No decoded value, and no threshold, is multiplied with a weight."""
    x, maps, y = train(5, 6, quantum=0.3), train(2, 6, 4, 4, quantum=0.3), train(6, 5, quantum=0.3)
    with Operands() as seen:
        F.linear(x, torch.randn(3, 6).double())
        F.conv2d(maps, torch.randn(3, 6, 2, 2).double())
        x @ torch.randn(6, 2).double()
        x @ y
    operands = [a for a, _ in seen.found] + [seen.found[-1][1]]
    assert len(operands) == 5
    assert all(set(a.unique().tolist()) == {0.0, 1.0} for a in operands)
    assert [a.shape for a in operands[:2]] == [(4, 5, 6), (8, 6, 4, 4)]


# --- thresholds per channel ------------------------------------------------------------------------------------------

QUANTA = torch.tensor([0.1, 0.7, 0.4, 1.3, 0.2, 0.9]).double()


@codes
def test_per_channel_linear(code):
    x = train(2, 3, 6, code=code, quantum=QUANTA)
    layer = nn.Linear(6, 4).double()
    same(x.decode(), value(x))
    same(layer(x), layer(value(x)))
    same(layer(x[:, 1]), layer(value(x)[:, 1]))
    same(layer(x.flatten(0, 1)), layer(value(x).flatten(0, 1)))


@codes
@pytest.mark.parametrize(("kind", "shape", "options"), CONVOLUTIONS)
def test_per_channel_convolutions(code, kind, shape, options):
    if options.get("padding_mode"):
        return  # padding needs one threshold
    x = train(2, *shape[1:], 6, code=code, quantum=QUANTA).movedim(-1, 1)
    layer = kind(6, 12, **options).double()
    same(layer(x), layer(value(x)))


@pytest.mark.parametrize("name", sorted(MOVES))
def test_per_channel_moves(name):
    x = train(4, 6, 8, quantum=torch.linspace(0.1, 0.8, 8).double())
    for f in STEPWISE_CALLS[name]:
        same(f(x), f(value(x)))


def test_per_channel_where_it_does_not_fit():
    x = train(2, 6, 6, quantum=QUANTA)
    layer = nn.Linear(6, 4).double()
    for f, what in (
        (lambda: layer(x.mT), "thresholds per channel must be those of the channels"),
        (lambda: x @ x.mT, "needs one threshold for the layer"),
        (lambda: torch.randn(6, 2).double().T @ x, "needs one threshold for the layer"),
        (lambda: x.mean(1), "mean of spikes needs one threshold for the layer"),
        (lambda: F.pad(x, (1, 1)), "pad of spikes needs one threshold for the layer"),
    ):
        with pytest.raises(NotConvertible, match=what):
            f()
    same(torch.cat([x, x], -1), torch.cat([value(x)] * 2, -1))
    same(x + 1, value(x) + 1)
    same(x * 3, value(x) * 3)


# --- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", CODES[1:4], ids=str)
@pytest.mark.parametrize("b", CODES, ids=str)
def test_product_of_two_trains_goes_over_all_pairs_of_steps(a, b):
    """The sum over equal steps would be another number."""
    x, y = train(2, 5, 6, code=a, quantum=0.5), train(2, 6, 3, code=b, quantum=3.0)
    for f in (operator.matmul, torch.matmul, torch.bmm, lambda x, y: x.matmul(y), lambda x, y: x.bmm(y)):
        out = f(x, y)
        assert isinstance(out, Tensor)
        same(out, f(value(x), value(y)))


RANKS = [((5, 6), (6, 3)), ((4, 5, 6), (6, 3)), ((5, 6), (4, 6, 3)), ((2, 1, 5, 6), (4, 6, 3)), ((4, 5, 6), (4, 6, 3))]


@pytest.mark.parametrize(("left", "right"), RANKS)
def test_products_broadcast_as_those_of_values(left, right):
    """Also where a batch is as long as the train."""
    code = ExpG(2, 2)  # T = 4
    x, y = train(*left, code=code), train(*right, code=code, quantum=2.0)
    same(x @ y, value(x) @ value(y))
    same(x @ value(y), value(x) @ value(y))
    same(value(x) @ y, value(x) @ value(y))


@codes
def test_product_with_a_tensor_on_either_side(code):
    x, w = train(2, 5, 6, code=code), torch.randn(2, 6, 5).double()
    for f in (operator.matmul, torch.matmul, torch.bmm):
        same(f(x, w), f(value(x), w))
        same(f(w, x), f(w, value(x)))


def test_products_with_vectors_are_refused():
    x, v = train(5, 6), train(6)
    for f in (lambda: x @ v, lambda: x @ torch.ones(6).double(), lambda: torch.ones(5).double() @ x):
        with pytest.raises(NotConvertible, match="a product of spikes and a vector"):
            f()


def test_a_mask_lets_spikes_pass():
    x, mask = train(2, 5, 6, quantum=0.5), train(2, 1, 6, code=ExpG(1, 1), quantum=1.0)
    for out in (x * mask, mask * x, torch.mul(x, mask), x.mul(mask)):
        assert isinstance(out, SpikeTrain) and out.code == x.code and set(out.steps.unique().tolist()) <= {0.0, 1.0}
        same(out, value(x) * value(mask))
    wide = train(6, code=ExpG(1, 1))
    same(x * wide, value(x) * value(wide))
    with pytest.raises(NotConvertible, match="an elementwise product of two spike trains needs one of a single step"):
        x * x


def test_a_mask_of_more_axes():
    x, mask = train(4, 6), train(3, 1, 6, code=ExpG(1, 1))
    same(x * mask, value(x) * value(mask))


# --- sums and scales -------------------------------------------------------------------------------------------------

SUMS = {
    "+": operator.add,
    "-": operator.sub,
    "add": torch.add,
    "add twice": lambda a, b: torch.add(a, b, alpha=2),
    "sub": torch.sub,
    "rsub": torch.rsub,
    "method": lambda a, b: a.add(b),
    "method sub": lambda a, b: a.sub(b),
}


@codes
@pytest.mark.parametrize("name", SUMS)
def test_sums_decode(name, code):
    x, y, t, f = (
        train(2, 6, code=code),
        train(2, 6, code=ExpG(3, 1), quantum=0.5),
        torch.randn(2, 6).double(),
        SUMS[name],
    )
    for a, b in ((x, y), (x, t), (t, x), (x, 2.0)):
        out = f(a, b)
        assert isinstance(out, Tensor)
        same(out, f(value(a), value(b)))
    same(1.5 + x, 1.5 + value(x))
    same(1.5 - x, 1.5 - value(x))
    same(sum([x, x, t]), value(x) * 2 + t)


def test_sums_in_place():
    """Into a tensor; a train that is added to becomes a tensor, and what else holds it does not change."""
    x, t = train(2, 6), torch.randn(2, 6).double()
    total = t.clone()
    same_storage = total
    total += x
    assert total is same_storage
    same(total, t + value(x))
    total -= x
    same(total, t)
    same(total.add_(x), t + value(x))
    kept = y = train(2, 6)
    before = value(y)
    y += t
    same(y, before + t)
    same(kept, before)
    with pytest.raises(NotConvertible, match="add_ is not defined on spikes"):
        kept.add_(t)


SCALES = {
    "*": lambda x: x * 3,
    "number *": lambda x: 0.125 * x,
    "tensor": lambda x: x * torch.tensor(2.0).double(),
    "mul": lambda x: torch.mul(x, 0.5),
    "/": lambda x: x / 4,
    "div": lambda x: torch.div(x, 4),
    "method": lambda x: x.div(8),
    "-": operator.neg,
    "neg": torch.neg,
}


@pytest.mark.parametrize("name", SCALES)
def test_scales_keep_spikes(name):
    x = train(2, 6)
    out = SCALES[name](x)
    assert isinstance(out, SpikeTrain) and torch.equal(out.steps, x.steps)
    same(out, SCALES[name](value(x)))


@pytest.mark.parametrize("f", [torch.cat, torch.stack])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat(f, dim):
    x, y = train(2, 6), train(2, 6)
    out = f([x, y], dim)
    assert isinstance(out, SpikeTrain)
    same(out, f([value(x), value(y)], dim))
    others = [train(2, 6, quantum=0.5), train(2, 6, code=ExpG(4, 1)), torch.randn(2, 6).double()]
    for other in others:  # another threshold, another code, currents: decoded
        out = f([x, other], dim=dim)
        assert isinstance(out, Tensor)
        same(out, f([value(x), value(other)], dim))
        same(f([other, x], dim=dim), f([value(other), value(x)], dim))


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Identity])
def test_dropout_in_evaluation_lets_spikes_pass(kind):
    x = train(2, 3, 4, 4)
    assert kind().eval()(x) is x
    assert len(DROPOUTS) == 6


# --- refused ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "relu": [F.relu, torch.relu, nn.ReLU(), nn.ReLU(inplace=True), lambda x: x.relu()],
    "softmax": [lambda x: x.softmax(-1), lambda x: F.softmax(x, -1), nn.Softmax(-1)],
    "exp": [torch.exp, lambda x: x.exp()],
    "max": [torch.max, lambda x: x.max(), lambda x: x.max(-1)],
    "argmax": [lambda x: x.argmax(-1)],
    "gelu": [F.gelu, nn.GELU()],
    "sigmoid": [torch.sigmoid, nn.Sigmoid()],
    "layer_norm": [lambda x: F.layer_norm(x, (6,)), nn.LayerNorm(6).double()],
    "batch_norm": [nn.BatchNorm1d(6).double().eval()],
    "max_pool1d": [nn.MaxPool1d(2)],
    "max_pool2d": [lambda x: F.max_pool2d(x[None], 2)],
    "conv_transpose1d": [lambda x: F.conv_transpose1d(x, torch.ones(2, 3, 1).double())],
    "einsum": [lambda x: torch.einsum("bn,cn->bc", x, x)],
    "sqrt": [torch.sqrt],
    "abs": [torch.abs],
    "round": [torch.round],
    "pow": [lambda x: torch.pow(x, 2)],
    "clamp": [lambda x: x.clamp(0, 1)],
    "sort": [torch.sort],
    "where": [lambda x: torch.where(torch.ones(2, 6) > 0, x, 0.0)],
    "dropout": [nn.Dropout(0.5).train()],
    "prod": [torch.prod],
    "var": [torch.var],
    "norm": [lambda x: x.norm()],
    "scaled_dot_product_attention": [lambda x: F.scaled_dot_product_attention(x, x, x)],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    for f in REFUSED[name]:
        with pytest.raises(NotConvertible, match=f"{name}(_with_indices)? .*is not defined on spikes") as refusal:
            f(train(2, 6))
        assert isinstance(refusal.value, ValueError)


def test_spikes_are_no_weights():
    x, t = train(3, 6), torch.randn(2, 6).double()
    for f in (lambda: F.linear(t, x), lambda: F.linear(x, x), lambda: F.linear(t, torch.ones(3, 6).double(), x[:, 0])):
        with pytest.raises(NotConvertible, match="spikes cannot be weights"):
            f()
    with pytest.raises(NotConvertible, match="needs a batch"):
        F.conv1d(x, torch.ones(2, 3, 1).double())


@pytest.mark.parametrize(
    "f",
    [
        lambda x, t: x * t,
        lambda x, t: t * x,
        lambda x, t: torch.mul(t, x),
        lambda x, t: x / t,
        lambda x, t: t / x,
        lambda x, t: x / x,
        lambda x, t: 2 / x,
    ],
)
def test_products_entry_by_entry_are_refused(f):
    with pytest.raises(NotConvertible, match="multiplies|is not linear|single step"):
        f(train(2, 6), torch.randn(2, 6).double())


@pytest.mark.parametrize("f", [abs, lambda x: x**2, lambda x: x > 0, lambda x: x.__setitem__(0, 1), float, int])
def test_python_operators_that_are_missing(f):
    with pytest.raises((TypeError, AttributeError)):
        f(train(1))


def test_padding_with_other_than_silence_is_refused():
    x = train(2, 6)
    for f in (lambda: F.pad(x, (1, 1), value=1.0), lambda: F.pad(x, (1, 1), "constant", 0.5)):
        with pytest.raises(NotConvertible, match="pad of spikes with another value than 0"):
            f()
    same(F.pad(x, (1, 1), value=0.0), F.pad(value(x), (1, 1)))
