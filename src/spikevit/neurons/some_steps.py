"""Time steps that are known without computing them: a tensor (T, ...) seen from outside, some of its steps inside.

What masks close emits zeros. Between a neuron and the next one, this carries the other steps alone through the
network's own forward: linear maps and products are computed for them, and elsewhere the result is a bias, or zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikevit.neurons.steady import Steady


class SomeSteps:
    """x (T, ..., C) that is `rest` but at the steps `live`: there it is data (len(live), ..., C).

    It takes part in torch's operators. What treats all steps alike runs on the data; anything else, on all steps
    (`dense`), so that the result is always that of the whole tensor.

    Args:
        data: x at the steps `live`. live: increasing. steps: T.
        rest: a vector (C,), or None for zeros.
        computed: of how many steps a neuron computed the membrane for it.
    """

    def __init__(
        self, data: Tensor, live: Sequence[int], steps: int, rest: Tensor | None = None, computed: int | None = None
    ):
        self.data, self.live, self.steps, self.rest = data, tuple(live), steps, rest
        self.computed = len(self.live) if computed is None else computed

    @classmethod
    def first(cls, x: Any, n: int) -> SomeSteps:
        """The first n steps of x alone; what is asked for at later ones is undefined."""
        if not isinstance(x, SomeSteps):
            return cls(x[:n], range(n), len(x))
        k = sum(t < n for t in x.live)
        return cls(x.data[:k], x.live[:k], x.steps, x.rest)

    @property
    def shape(self) -> torch.Size:
        """Of the whole tensor."""
        return torch.Size((self.steps, *self.data.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """Of the data."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Of the data."""
        return self.data.device

    def __len__(self) -> int:
        return self.steps

    def dim(self) -> int:
        """As of a tensor."""
        return self.data.dim()

    ndim = property(dim)

    def at(self, steps: Sequence[int]) -> Tensor:
        """x at those steps (increasing)."""
        steps = tuple(steps)
        if steps == self.live:
            return self.data
        fill = self.data.new_zeros(()) if self.rest is None else self.rest
        common = [t for t in self.live if t in steps]
        data = self.data if len(common) == len(self.live) else self.data[[self.live.index(t) for t in common]]
        if steps[: len(common)] == tuple(common):  # the usual case: the first steps are live
            return torch.cat([data, fill.expand(len(steps) - len(common), *data.shape[1:])])
        out = fill.expand(len(steps), *data.shape[1:]).clone()
        out[[steps.index(t) for t in common]] = data
        return out

    def dense(self) -> Tensor:
        """x, all steps of it."""
        return self.at(range(self.steps))

    def map(self, f: Callable[[Tensor], Tensor], rest: Tensor | None = None) -> SomeSteps:
        """f of the data, for an f that treats all steps alike and takes what it is elsewhere to `rest`."""
        return SomeSteps(f(self.data), self.live, self.steps, rest)

    def __getattr__(self, name: str) -> Any:
        """Methods of a tensor."""
        method = getattr(Tensor, name, None)
        if name.startswith("__") or not callable(method):
            if name == "mT":
                return self.transpose(-2, -1)
            raise AttributeError(name)
        return lambda *args, **kwargs: _dispatch(method, (self, *args), kwargs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple) and index[0] == slice(None) and self.rest is None:
            return self.map(lambda x: x[index])
        return self.dense()[index]

    def __add__(self, other: Any) -> Any:
        return _dispatch(torch.add, (self, other), {})

    def __mul__(self, other: Any) -> Any:
        return _dispatch(torch.mul, (self, other), {})

    def __matmul__(self, other: Any) -> Any:
        return _dispatch(torch.matmul, (self, other), {})

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def dense(x: Any) -> Tensor:
    """x as the tensor that it stands for: of all steps, and all parts of a sum."""
    return x.dense() if isinstance(x, (SomeSteps, Steady)) else x


def _dispatch(func: Callable, args: tuple, kwargs: dict) -> Any:
    name = getattr(func, "__name__", "").strip("_")
    if name == "linear":
        return _linear(*args, **kwargs)
    if name in ("add", "radd", "iadd") and not kwargs:
        return _add(*args)
    if name in ("mul", "rmul", "matmul", "rmatmul"):
        return _product(func, *args)
    if name == "cat":
        return _cat(*args, **kwargs)
    x = args[0]
    if isinstance(x, SomeSteps) and name in ALIKE and not _touches_time(name, x.dim(), args[1:], kwargs):
        if x.rest is None:
            return _alike(func, name, x, args[1:], kwargs)
        if name == "flatten" and args[2] % x.dim() < x.dim() - 1:
            return x.map(lambda d: func(d, *args[1:], **kwargs), x.rest)
        if name == "mean" and -1 not in _dims(args[1]) and x.dim() - 1 not in _dims(args[1]):
            return x.map(lambda d: func(d, *args[1:], **kwargs), x.rest)
    return func(*(dense(a) for a in args), **kwargs)


def _alike(func: Callable, name: str, x: SomeSteps, args: tuple, kwargs: dict) -> Any:
    """What moves or adds up entries within steps; zeros stay zeros."""
    if name in ("view", "reshape"):  # their first axis is time
        shape = args[0] if isinstance(args[0], (tuple, list)) else args
        args = (len(x.live), *shape[1:])
    out = func(x.data, *args, **kwargs)
    if isinstance(out, Tensor):
        return SomeSteps(out, x.live, x.steps)
    return tuple(SomeSteps(part, x.live, x.steps) for part in out)


def _touches_time(name: str, rank: int, args: tuple, kwargs: dict) -> bool:
    """Whether an operator does more than treat all steps alike."""
    if name in ("view", "reshape"):
        return False
    if name == "pad":
        return len(args[0]) >= 2 * rank
    if name in ("flatten", "mean", "sum") and not args and "dim" not in kwargs:
        return True
    dims = _dims(kwargs.get("dim", args[0] if args else 0))
    if name in ("transpose", "movedim"):
        dims = [*dims, *_dims(args[1])]
    return name not in ("unsqueeze", "chunk", "contiguous") and 0 in [d % rank for d in dims]


def _dims(dims: Any) -> list[int]:
    return [dims] if isinstance(dims, int) else list(dims)


def _linear(x: SomeSteps, weight: Tensor, bias: Tensor | None = None) -> SomeSteps:
    return x.map(lambda d: F.linear(d, weight, bias), bias if x.rest is None else F.linear(x.rest, weight, bias))


def _add(a: Any, b: Any) -> Any:
    """At the steps of either."""
    a, b = (b, a) if not isinstance(a, SomeSteps) else (a, b)
    if not isinstance(b, SomeSteps):
        if not isinstance(b, Tensor) or b.dim() != a.dim() or len(b) != a.steps:
            return a.dense() + b
        b = SomeSteps(b, range(a.steps), a.steps)
    union = sorted({*a.live, *b.live})
    long, short = (a, b) if len(a.live) >= len(b.live) else (b, a)
    if long.live == tuple(range(len(union))) and short.live == long.live[: len(short.live)]:  # the usual case
        out, behind = long.data[: len(short.live)] + short.data, long.data[len(short.live) :]
        if len(behind):
            out = torch.cat([out, behind if short.rest is None else behind + short.rest])
    else:
        out = a.at(union) + b.at(union)
    if len(union) == a.steps:
        return out
    rests = [rest for rest in (a.rest, b.rest) if rest is not None]
    return SomeSteps(out, union, a.steps, torch.stack(rests).sum(0) if rests else None)


def _product(func: Callable, a: Any, b: Any) -> Any:
    """At the steps that are live in both: elsewhere one factor is zero."""
    some = [x for x in (a, b) if isinstance(x, SomeSteps)]
    if any(x.rest is not None for x in some):
        return func(dense(a), dense(b))
    steps = some[0].steps
    live = sorted(set.intersection(*(set(x.live) for x in some)))

    def part(x: Any) -> Any:
        if isinstance(x, SomeSteps):
            return x.at(live)
        over_time = isinstance(x, Tensor) and x.dim() == some[0].dim() and len(x) == steps
        return x[live] if over_time else x

    return SomeSteps(func(part(a), part(b)), live, steps)


def _cat(parts: Sequence[Any], dim: int = 0) -> Any:
    some = [p for p in parts if isinstance(p, SomeSteps) and p.rest is None]
    alike = len(some) == len(parts) and len({p.live for p in some}) == 1
    if not alike or dim % some[0].dim() == 0:
        return torch.cat([dense(p) for p in parts], dim)
    return some[0].map(lambda _: torch.cat([p.data for p in some], dim))


# Operators within steps, by name: functions and methods are called alike.
ALIKE = frozenset(
    [
        "chunk",
        "contiguous",
        "flatten",
        "mean",
        "movedim",
        "pad",
        "reshape",
        "sum",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    ]
)
