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
    """steps (T, ...) of {0, 1} that stand for the value Δ Σ_t w_t s_t of shape (...), w_t = 2^(n−j) for step j of n.

    What is linear without weights (average pool, sum) keeps the steps apart; they then hold other numbers than 0 and 1.

    Args:
        steps: (T, ...), first group first, its largest weight first.
        code: (n, G).
        quantum: Δ, a number or a tensor of shape () or (C,).
    """

    def __init__(self, steps: Tensor, code: ExpG, quantum: Tensor):
        self.steps, self.code, self.quantum = steps, code, quantum

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

    def __truediv__(self, other: float) -> Any:
        return _dispatch(torch.mul, (self, 1 / other), {})

    def __matmul__(self, other: Any) -> Tensor:
        return _dispatch(torch.matmul, (self, other), {})

    def __rmatmul__(self, other: Any) -> Tensor:
        return _dispatch(torch.matmul, (other, self), {})

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def horner(received: Tensor, code: ExpG) -> Tensor:
    """Σ_t w_t y_t for y (T, ...): in a group acc ← 2·acc + y_t, one doubling a step; the groups are added up."""
    groups = received.unflatten(0, (code.groups, code.steps))
    total = groups[:, 0]
    for j in range(1, code.steps):
        total = 2 * total + groups[:, j]
    return total.sum(0)


def _dispatch(func: Callable, args: tuple, kwargs: dict) -> Any:
    if func in _RECEIVE:
        return _receive(func, *args, **kwargs)
    if func in _PRODUCTS:
        return _matmul(*args, **kwargs)
    if func in _SUMS:
        return func(*map(_plain, args), **kwargs)
    if func in (torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__, Tensor.__rmul__):
        return _mul(*args)
    if func in (torch.cat, torch.stack):
        return _join(func, *args, **kwargs)
    if getattr(func, "__name__", "") in STEPWISE:
        spikes = args[0]
        steps = torch.vmap(lambda s: func(s, *args[1:], **kwargs))(spikes.steps)
        if isinstance(steps, (tuple, list)):
            return tuple(SpikeTrain(s, spikes.code, spikes.quantum) for s in steps)
        return SpikeTrain(steps, spikes.code, spikes.quantum)
    raise NotConvertible(f"{getattr(func, '__name__', func)} is not defined on spikes")


def _receive(func: Callable, x: SpikeTrain, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any):
    """A linear map of a spike train: f(Δ Σ_t w_t s_t) = Σ_t w_t (ΔW) s_t + b; Δ is part of the weights."""
    if isinstance(weight, SpikeTrain):
        raise NotConvertible("spikes cannot be weights")
    if func is F.linear:
        received = F.linear(x.steps, weight * x.quantum)
        channels = (-1,)
    else:  # channels behind the batch
        scale = x.quantum if x.quantum.dim() == 0 else x.quantum.view(-1, *(1,) * (weight.dim() - 2))
        received = func(x.steps.flatten(0, 1), weight * scale, None, *args, **kwargs)
        received = received.unflatten(0, x.steps.shape[:2])
        channels = (-1, *(1,) * (weight.dim() - 2))
    total = horner(received, x.code)
    return total if bias is None else total + bias.view(channels)


def _matmul(a: Any, b: Any) -> Tensor:
    """A product: of two spike trains ΔₐΔ_b Σᵢⱼ wᵢwⱼ aᵢ bⱼ, over all pairs of steps; of one and a tensor, its steps."""
    if isinstance(a, SpikeTrain) and isinstance(b, SpikeTrain):
        pairs = torch.matmul(a.steps[:, None], b.steps[None])
        return horner(horner(pairs, a.code), b.code) * (_scalar(a) * _scalar(b))
    if isinstance(a, SpikeTrain):
        return horner(torch.matmul(a.steps, b), a.code) * _scalar(a)
    return horner(torch.matmul(a, b.steps), b.code) * _scalar(b)


def _mul(a: Any, b: Any) -> SpikeTrain:
    """By a number; or a mask of one step with spikes: the mask lets them pass."""
    if not isinstance(a, SpikeTrain):
        a, b = b, a
    if isinstance(b, SpikeTrain):
        if len(a.steps) > 1:
            a, b = b, a
        if len(a.steps) > 1:
            raise NotConvertible("an elementwise product of two spike trains needs one of a single step, a mask")
        return SpikeTrain(a.steps * b.steps, b.code, a.quantum * b.quantum)
    if isinstance(b, Tensor) and b.dim():
        raise NotConvertible("an elementwise product of spikes with a tensor multiplies")
    return SpikeTrain(a.steps, a.code, a.quantum * b)


def _join(func: Callable, parts: Any, dim: int = 0) -> Any:
    first = parts[0]
    if all(isinstance(p, SpikeTrain) and p.code == first.code and torch.equal(p.quantum, first.quantum) for p in parts):
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
_SUMS = {torch.add, torch.sub, Tensor.add, Tensor.sub, Tensor.__add__, Tensor.__radd__, Tensor.__sub__, Tensor.__rsub__}

# Linear and without weights: applied to every step. By name, as functions and methods are called alike.
STEPWISE = frozenset(
    [
        "__getitem__",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "avg_pool1d",
        "avg_pool2d",
        "chunk",
        "contiguous",
        "detach",
        "expand",
        "flatten",
        "mean",
        "movedim",
        "narrow",
        "pad",
        "permute",
        "reshape",
        "roll",
        "select",
        "split",
        "squeeze",
        "sum",
        "swapaxes",
        "to",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    ]
)
