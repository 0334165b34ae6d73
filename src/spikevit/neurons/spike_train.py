"""Spikes of ExpG-IF neurons between their neuron and what receives them: a tensor seen from outside, steps inside.

A network that was written for tensors runs on spikes as it stands. Linear maps receive step by step, by additions and
doublings; products of two spike trains go over all pairs of bits; reshapes apply to every step; sums with currents
decode; everything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikevit.neurons.staircase import ExpG


class NotConvertible(ValueError):
    """An operation that spikes cannot carry without loss."""


class SpikeTrain:
    """steps (T, ...) of {0, 1} that stand for the value Δ Σ_t w_t s_t of shape (...), w_t of the code.

    What is linear without weights (average pool, sum) keeps the steps apart; they then hold other numbers than 0 and 1.

    Args:
        steps: (T, ...), in the order in which they fired.
        code: (n, G) and that order.
        quantum: Δ, of shape (), or one that broadcasts to the value's, such as (C,) for one per channel.
    """

    def __init__(self, steps: Tensor, code: ExpG, quantum: Tensor):
        self.steps, self.code = steps, code
        self.quantum = quantum.expand(steps.shape[1:]) if quantum.dim() else quantum

    @property
    def shape(self) -> torch.Size:
        """Of the value."""
        return self.steps.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """Of the steps."""
        return self.steps.dtype

    @property
    def device(self) -> torch.device:
        """Of the steps."""
        return self.steps.device

    def __len__(self) -> int:
        return len(self.steps[0])

    def size(self, dim: int | None = None) -> Any:
        """Of the value, as of a tensor."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Of the value, as of a tensor."""
        return len(self.shape)

    ndim = property(dim)

    def decode(self) -> Tensor:
        """The value (...)."""
        return horner(self.steps, self.code) * self.quantum

    def __getattr__(self, name: str) -> Any:
        """Methods of a tensor, if spikes can carry them."""
        method = getattr(Tensor, name, None)
        if name.startswith("__") or not callable(method):
            if name in ("mT", "T", "mH"):
                return self.transpose(-2, -1)
            raise AttributeError(name)
        return lambda *args, **kwargs: _dispatch(method, (self, *args), kwargs)

    def __getitem__(self, index: Any) -> SpikeTrain:
        return _dispatch(Tensor.__getitem__, (self, index), {})

    def __add__(self, other: Any) -> Tensor:
        return self.decode() + _plain(other)

    def __sub__(self, other: Any) -> Tensor:
        return self.decode() - _plain(other)

    def __rsub__(self, other: Any) -> Tensor:
        return _plain(other) - self.decode()

    def __mul__(self, other: Any) -> Any:
        return _dispatch(torch.mul, (self, other), {})

    def __truediv__(self, other: Any) -> Any:
        return _dispatch(torch.div, (self, other), {})

    def __rtruediv__(self, other: Any) -> Any:
        return _dispatch(torch.div, (other, self), {})

    def __neg__(self) -> Any:
        return _dispatch(torch.neg, (self,), {})

    def __matmul__(self, other: Any) -> Tensor:
        return _dispatch(torch.matmul, (self, other), {})

    def __rmatmul__(self, other: Any) -> Tensor:
        return _dispatch(torch.matmul, (other, self), {})

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def horner(received: Tensor, code: ExpG) -> Tensor:
    """Σ_t w_t y_t for y (T, ...), by doublings and additions, in y's dtype.

    By weight acc ← 2·acc + Σ_g y_gj, n − 1 doublings in all. By group acc_g ← 2·acc_g + y_gj, and the groups are added
    up at the end.
    """
    y = code.by_group(received)
    if code.order == "weight" and code.groups > 1:
        y = y.sum(0, keepdim=True, dtype=y.dtype)
    total = y[:, 0]
    for j in range(1, code.steps):
        total = 2 * total + y[:, j]
    return total.sum(0, dtype=total.dtype) if len(total) > 1 else total[0]


def _dispatch(func: Callable, args: tuple, kwargs: dict) -> Any:
    name = getattr(func, "__name__", "")
    if func in _RECEIVE:
        return _receive(func, *args, **kwargs)
    if func in _PRODUCTS:
        return _matmul(*args, **kwargs)
    if func in _SUMS or (func in _IN_PLACE and isinstance(args[0], Tensor)):
        return func(*map(_plain, args), **kwargs)
    if func in _SCALES:
        return _mul(*args)
    if func in (torch.div, torch.true_divide, Tensor.div, Tensor.__truediv__) and not kwargs:
        return _div(*args)
    if func in (torch.neg, Tensor.neg, Tensor.__neg__):
        return _mul(args[0], -1)
    if func in (torch.cat, torch.stack):
        return _join(func, *args, **kwargs)
    if name in DROPOUTS and not kwargs.get("training", True):
        return args[0]
    if name in MOVES or name in STEPWISE:
        return _stepwise(func, name, *args, **kwargs)
    raise NotConvertible(f"{name or func} is not defined on spikes")


def _stepwise(func: Callable, name: str, spikes: SpikeTrain, *args: Any, **kwargs: Any) -> Any:
    """A linear map without weights, of every step."""
    if not isinstance(spikes, SpikeTrain):
        raise NotConvertible(f"{name} with spikes in any but the first place is not defined")
    quantum: Any = spikes.quantum
    if quantum.dim() and name not in MOVES:
        raise NotConvertible(f"{name} of spikes needs one threshold for the layer, not one per channel")
    if name == "pad" and (kwargs.get("value") or (len(args) > 2 and args[2])):
        raise NotConvertible("pad of spikes with another value than 0 is not defined")
    if quantum.dim():
        quantum = func(quantum.contiguous() if name == "view" else quantum, *args, **kwargs)
    steps = torch.vmap(lambda s: func(s, *args, **kwargs))(spikes.steps)
    if not isinstance(steps, (tuple, list)):
        return SpikeTrain(steps, spikes.code, quantum.to(steps))
    quanta = quantum if isinstance(quantum, (tuple, list)) else [quantum] * len(steps)
    return tuple(SpikeTrain(s, spikes.code, q) for s, q in zip(steps, quanta, strict=True))


def _receive(func: Callable, x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    """A linear map of a spike train: f(Δ Σ_t w_t s_t) = Σ_t w_t (ΔW) s_t + b; Δ is part of the weights."""
    if not isinstance(x, SpikeTrain) or isinstance(weight, SpikeTrain) or isinstance(bias, SpikeTrain):
        raise NotConvertible("spikes cannot be weights")
    if func is F.linear:
        received = F.linear(x.steps, weight * _per_channel(x, -1))
        channels: tuple[int, ...] = (-1,)
    else:  # channels behind the batch
        if x.dim() != weight.dim():
            raise NotConvertible(f"{func.__name__} of spikes needs a batch in front of the channels")
        groups = kwargs.get("groups", args[3] if len(args) > 3 else 1)
        channels = (-1, *(1,) * (weight.dim() - 2))
        scale = _per_channel(x, 1)
        if scale.dim():  # of the inputs of each group
            scale = scale.view(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), *channels)
        received = func(x.steps.flatten(0, 1), weight * scale, None, *args, **kwargs).unflatten(0, x.steps.shape[:2])
    total = horner(received, x.code)
    return total if bias is None else total + bias.view(channels)


def _per_channel(x: SpikeTrain, axis: int) -> Tensor:
    """Δ as a number, or one for each channel on that axis."""
    if not x.quantum.dim():
        return x.quantum
    rows = x.quantum.movedim(axis, -1).flatten(0, -2)
    if (rows != rows[0]).any():
        raise NotConvertible("thresholds per channel must be those of the channels that the weights add up")
    return rows[0]


def _matmul(a: Any, b: Any) -> Tensor:
    """A product: of two spike trains ΔₐΔ_b Σᵢⱼ wᵢwⱼ aᵢ bⱼ, over all pairs of steps; of one and a tensor, its steps."""
    if a.dim() < 2 or b.dim() < 2:
        raise NotConvertible("a product of spikes and a vector is not defined; give it a second axis")
    rank = max(a.dim(), b.dim())
    if isinstance(a, SpikeTrain) and isinstance(b, SpikeTrain):
        pairs = torch.matmul(_steps(a, rank)[:, None], _steps(b, rank)[None])
        return horner(horner(pairs, a.code), b.code) * (_scalar(a) * _scalar(b))
    if isinstance(a, SpikeTrain):
        return horner(torch.matmul(_steps(a, rank), b), a.code) * _scalar(a)
    return horner(torch.matmul(a, _steps(b, rank)), b.code) * _scalar(b)


def _steps(x: SpikeTrain, rank: int) -> Tensor:
    """Steps (T, 1, …, 1, ...) of a value with `rank` axes, so that no axis of another operand meets T."""
    return x.steps[(slice(None), *(None,) * (rank - x.dim()))]


def _mul(a: Any, b: Any) -> SpikeTrain:
    """By a number; or a mask of one step with spikes: the mask lets them pass."""
    if not isinstance(a, SpikeTrain):
        a, b = b, a
    if isinstance(b, SpikeTrain):
        if len(a.steps) > 1:
            a, b = b, a
        if len(a.steps) > 1:
            raise NotConvertible("an elementwise product of two spike trains needs one of a single step, a mask")
        rank = max(a.dim(), b.dim())
        return SpikeTrain(_steps(a, rank) * _steps(b, rank), b.code, a.quantum * b.quantum)
    if isinstance(b, Tensor) and b.dim():
        raise NotConvertible("an elementwise product of spikes with a tensor multiplies")
    return SpikeTrain(a.steps, a.code, a.quantum * b)


def _div(a: Any, b: Any) -> SpikeTrain:
    """By a number."""
    if isinstance(b, SpikeTrain) or (isinstance(b, Tensor) and b.dim()):
        raise NotConvertible("div of spikes by a tensor, or of a tensor by spikes, is not linear")
    return SpikeTrain(a.steps, a.code, a.quantum / b)


def _join(func: Callable, parts: Any, dim: int = 0) -> Any:
    first = parts[0]
    if all(isinstance(p, SpikeTrain) and p.code == first.code and not p.quantum.dim() for p in parts) and all(
        torch.equal(p.quantum, first.quantum) for p in parts
    ):
        steps = func([p.steps for p in parts], dim if dim < 0 else dim + 1)
        return SpikeTrain(steps, first.code, first.quantum)
    return func([_plain(p) for p in parts], dim)


def _plain(x: Any) -> Any:
    return x.decode() if isinstance(x, SpikeTrain) else x


def _scalar(x: SpikeTrain) -> Tensor:
    if x.quantum.dim():
        raise NotConvertible("a product of activations needs one threshold for the layer, not one per channel")
    return x.quantum


_RECEIVE = {F.linear, F.conv1d, F.conv2d, F.conv3d}
_PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.bmm}
_SUMS = {
    *(torch.add, torch.sub, torch.subtract, torch.rsub, Tensor.add, Tensor.sub),
    *(Tensor.__add__, Tensor.__radd__, Tensor.__sub__, Tensor.__rsub__),
}
_IN_PLACE = {Tensor.__iadd__, Tensor.__isub__, Tensor.add_, Tensor.sub_}  # into a tensor
_SCALES = {torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__}
DROPOUTS = frozenset(["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"])

# Applied to every step; by name, as functions and methods are called alike. First what only chooses entries.
MOVES = frozenset(
    [
        "__getitem__",
        "chunk",
        "contiguous",
        "detach",
        "expand",
        "flatten",
        "movedim",
        "narrow",
        "permute",
        "reshape",
        "roll",
        "select",
        "split",
        "squeeze",
        "swapaxes",
        "to",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    ]
)
# Linear and without weights.
STEPWISE = frozenset(
    [
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "avg_pool1d",
        "avg_pool2d",
        "mean",
        "pad",
        "sum",
    ]
)
