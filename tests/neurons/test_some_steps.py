"""A tensor of which some steps are known without computing them: whatever is done with it, it is that tensor."""

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
}
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


def test_unknown_attributes():
    with pytest.raises(AttributeError, match="frobnicate"):
        some((1,)).frobnicate()
