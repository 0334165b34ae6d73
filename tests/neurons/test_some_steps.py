"""A tensor of which some steps are known without computing them: whatever is done with it, it is that tensor."""

import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from spikevit.layers import max_pool
from spikevit.layers.projection import steps_apart
from spikevit.neurons import SomeSteps, dense

T, B, N, C = 4, 2, 6, 8
WEIGHT, BIAS = torch.randn(5, C).double(), torch.randn(5).double()
OTHER = torch.randn(T, B, N, C).double()
MIX = torch.randn(N, N).double()
VECTOR = torch.randn(C).double()


def some(live, rest=None, shape=(B, N, C)) -> SomeSteps:
    generator = torch.Generator().manual_seed(sum(1 << t for t in live))
    data = torch.randint(0, 3, (len(live), *shape), generator=generator).double()
    return SomeSteps(data, live, T, rest)


OPERATORS = {
    "linear": lambda x: F.linear(x, WEIGHT, BIAS),
    "linear without bias": lambda x: F.linear(x, WEIGHT),
    "flatten": lambda x: x.flatten(2, -1),
    "flatten tokens": lambda x: x.flatten(1, 2),
    "mean over tokens": lambda x: x.mean(2),
    "mean over time": lambda x: x.mean(0),
    "mean of all": lambda x: x.mean(),
    "sum": lambda x: x.sum(-1, keepdim=True),
    "sum of all": lambda x: x.sum(),
    "add a tensor": lambda x: x + OTHER,
    "add to a tensor": lambda x: OTHER + x,
    "add one step": lambda x: x + OTHER[:1],
    "add a vector": lambda x: x + VECTOR,
    "times a number": lambda x: x * 0.125,
    "times a tensor": lambda x: x * OTHER,
    "heads": lambda x: x.unflatten(-1, (2, -1)).transpose(2, 3),
    "product": lambda x: x @ x.transpose(-2, -1) * 0.5,
    "weights on the left": lambda x: MIX @ x,
    "view": lambda x: x.view(x.shape),
    "view as maps": lambda x: x.view(T, B, 2, 3, C),
    "a step": lambda x: x[1],
    "channels": lambda x: x[..., :3],
    "tokens": lambda x: x[:, :, 1:],
    "chunks": lambda x: x.chunk(2, -1)[1],
    "one by one": lambda x: x.unbind(2)[3],
    "moved": lambda x: x.movedim(2, 3),
    "moved time": lambda x: x.movedim(0, 2),
    "padded": lambda x: F.pad(x, (0, 1, 0, 2)),
    "joined": lambda x: torch.cat([x, x], -1),
    "joined with a tensor": lambda x: torch.cat([OTHER, x], -1),
    "joined in time": lambda x: torch.cat([x, x], 0),
    "exp": lambda x: x.exp(),
    "mT": lambda x: x.mT,
    # what meets time, in all the ways to say it
    "chunks of time": lambda x: x.chunk(2, 0)[1],
    "chunks of time, unsaid": lambda x: torch.chunk(x, 2)[0],
    "chunks by name": lambda x: x.chunk(2, dim=-1)[0],
    "one by one in time": lambda x: x.unbind()[2],
    "an axis in front": lambda x: x.unsqueeze(0),
    "an axis in front, from behind": lambda x: x.unsqueeze(-4 - 1),
    "an axis behind time": lambda x: x.unsqueeze(1),
    "an axis at the end": lambda x: torch.unsqueeze(x, dim=-1),
    "view of all": lambda x: x.view(8, -1),
    "view, steps first": lambda x: x.view(T, -1),
    "view in a row": lambda x: x.reshape(-1),
    "view by shape": lambda x: x.reshape((T * B, N, C)),
    "another type": lambda x: x.view(torch.int64),
    "flat by name": lambda x: x.flatten(start_dim=2),
    "flat to the third": lambda x: x.flatten(1, end_dim=2),
    "flat from": lambda x: x.flatten(1),
    "flat with time": lambda x: x.flatten(0, 1),
    "mean by name": lambda x: x.mean(dim=2),
    "mean of two": lambda x: x.mean((1, 2), keepdim=True),
    "mean of none": lambda x: x.mean(()),
    "sum in another type": lambda x: x.sum(2, dtype=torch.float32),
    "moved by name": lambda x: x.movedim(source=(1, 2), destination=(2, 1)),
    "turned by name": lambda x: x.transpose(dim0=0, dim1=1),
    "padded with ones": lambda x: F.pad(x, (0, 1), value=1.0),
    "padded in time": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0)),
    "padded with its border": lambda x: F.pad(x.flatten(1, 2), (1, 1), "replicate"),
    "stacked": lambda x: torch.stack([x, x]),
    "stacked within": lambda x: torch.stack((x, OTHER), dim=2),
    "joined by name": lambda x: torch.cat(tensors=[x, x], dim=2),
    # what Python writes as signs
    "minus": lambda x: x - OTHER,
    "from": lambda x: OTHER - x,
    "one minus": lambda x: 1 - x,
    "divided": lambda x: x / 4,
    "negative": lambda x: -x,
    "to the power": lambda x: x**2,
    "power of": lambda x: 2**x,
    "absolute": lambda x: abs(-x),
    "greater": lambda x: (x > 0.5).double(),
    "equal": lambda x: (x == 0).double(),
    "not equal": lambda x: (x != 1).double(),
    "of a step": lambda x: torch.tensor(float(x[1, 0, 0, 0])),
    "into a tensor": lambda x: _into(torch.Tensor.add_, x),
    "times, into a tensor": lambda x: _into(torch.Tensor.mul_, x),
    "plus is": lambda x: _into(operator.iadd, x),
    "scaled sum": lambda x: torch.add(x, OTHER, alpha=0.5),
    # what has another shape
    "times more axes": lambda x: x * torch.stack([OTHER] * 3),
    "plus more axes": lambda x: x + OTHER[None],
    "plus one token": lambda x: x + OTHER[:, :, :1],
    "one token plus all": lambda x: x[:, :, :1] + OTHER,
    "as a matrix": lambda x: x.flatten(1) @ torch.ones(B * N * C, 4, dtype=x.dtype),
    "as a matrix, right": lambda x: torch.ones(5, T, dtype=x.dtype) @ x.flatten(1),
    "two lists": lambda x: x[:, [0, 1], :, [2, 3]],
    "a list and a number": lambda x: x[:, 1, :, [2, 3, 4]],
    "one list": lambda x: x[:, :, [0, 2]],
}


def _into(change, x):
    """What is in the tensor afterwards, not what is returned."""
    tensor = OTHER.clone()
    change(tensor, x)
    return tensor


steps = st.sets(st.integers(0, T - 1)).map(lambda s: tuple(sorted(s)))


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=25, deadline=None)
@given(live=steps, rest=st.booleans())
def test_operators(name, live, rest):
    x = some(live, VECTOR if rest else None)
    expected, found = OPERATORS[name](x.dense()), OPERATORS[name](x)
    assert found.shape == expected.shape
    torch.testing.assert_close(dense(found), expected)


@settings(max_examples=60, deadline=None)
@given(a=steps, b=steps, rests=st.tuples(st.booleans(), st.booleans()))
def test_two_of_them(a, b, rests):
    x, y = (
        some(live, VECTOR * (i + 1) if rest else None) for i, (live, rest) in enumerate(zip((a, b), rests, strict=True))
    )
    for f in (torch.add, torch.mul, lambda x, y: x + y, lambda x, y: x * y, lambda x, y: x @ y.transpose(-2, -1)):
        torch.testing.assert_close(dense(f(x, y)), f(x.dense(), y.dense()))
    if not any(rests):
        assert (x * y).live == tuple(sorted({*a} & {*b}))
        both = x + y
        assert not isinstance(both, SomeSteps) or both.live == tuple(sorted({*a} | {*b}))


@settings(max_examples=40, deadline=None)
@given(live=steps, rest=st.booleans())
def test_convolution_and_pool(live, rest):
    x = some(live, VECTOR if rest else None, shape=(B, 4, 4, C))
    kernel, bias = torch.randn(3, C, 3, 3).double(), torch.randn(3).double()

    def convolve(maps):
        return F.conv2d(maps.permute(0, 3, 1, 2), kernel, bias, padding=1).permute(0, 2, 3, 1)

    torch.testing.assert_close(dense(steps_apart(convolve, x, rest=bias)), steps_apart(convolve, x.dense()))
    torch.testing.assert_close(dense(max_pool(x)), max_pool(x.dense()))


def test_only_the_live_steps_are_computed():
    seen = []
    x = some((1, 3))
    x.map(lambda d: seen.append(len(d)) or d)
    steps_apart(lambda d: seen.append(len(d)) or d, x)
    assert seen == [2, 2 * B]
    assert F.linear(x, WEIGHT, BIAS).data.shape[0] == 2 and torch.equal(F.linear(x, WEIGHT, BIAS).rest, BIAS)
    assert (x @ x.transpose(-2, -1)).live == (1, 3) and x.flatten(2).live == (1, 3)


def test_first_steps():
    assert torch.equal(SomeSteps.first(OTHER, 2).data, OTHER[:2]) and len(SomeSteps.first(OTHER, 2)) == T
    assert SomeSteps.first(some((0, 2, 3)), 3).live == (0, 2)
    assert SomeSteps.first(OTHER, 0).data.shape == (0, B, N, C)


def test_steps_that_are_not_there_are_not_written():
    with pytest.raises(TypeError, match="add_ would change a tensor in place .* take add"):
        some((1,)).add_(OTHER)
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(some((1,)))
    assert len({some((1,)), some((1,))}) == 2


def test_what_stays_apart():
    """Slower is right, but what treats steps alike needs no other."""
    x = some((1, 3))
    for f in (lambda x: x.chunk(2, dim=-1)[0], lambda x: x.unsqueeze(-1), lambda x: x.view(T, -1), lambda x: x[:, 1:]):
        assert f(x).live == (1, 3)


def test_unknown_attributes():
    with pytest.raises(AttributeError, match="frobnicate"):
        some((1,)).frobnicate()
