"""Time steps that are known without computing them: a tensor (T, ...) seen from outside, some of its steps inside.

What masks close emits zeros. Between a neuron and the next one, this carries the other steps alone through the
network's own forward: linear maps and products are computed for them, and elsewhere the result is a bias, or zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
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
        within = isinstance(index, tuple) and isinstance(index[0], slice) and index[0] == slice(None)
        chosen = [i for i in index if not isinstance(i, (slice, type(...), type(None)))] if within else []
        plain = all(type(i) is int for i in chosen) or len(chosen) == 1  # several lists can move axes
        if within and plain and self.rest is None:
            return self.map(lambda x: x[index])
        return self.dense()[index]

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def dense(x: Any) -> Tensor:
    """x as the tensor that it stands for: of all steps, and all parts of a sum."""
    return x.dense() if isinstance(x, (SomeSteps, Steady)) else x


def _method(name: str) -> Callable:
    """A method of tensors, such as `-`, for `SomeSteps`."""

    def method(self: SomeSteps, *args: Any) -> Any:
        return _dispatch(getattr(Tensor, name), (self, *args), {})

    return method


for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul", "pow", "rpow"),
    *("neg", "abs", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "invert", "bool", "float", "int"),
):
    setattr(SomeSteps, f"__{_name}__", _method(f"__{_name}__"))
SomeSteps.__hash__ = object.__hash__  # type: ignore[method-assign]


def _dispatch(func: Callable, args: tuple, kwargs: dict) -> Any:
    name = getattr(func, "__name__", "")
    x: Any = args[0] if args else None
    if name.endswith("_") and not name.endswith("__") and isinstance(x, SomeSteps):
        raise TypeError(f"{name} would change a tensor in place of which some steps are not there; take {name[:-1]}")
    name = name.strip("_") if name.startswith("__") else name
    if name == "linear":
        return _linear(*args, **kwargs)
    if name in ("add", "radd") and len(args) == 2 and not kwargs:
        return _add(*args)
    if name in ("mul", "rmul", "matmul", "rmatmul") and not kwargs:
        return _product(func, *args)
    if name == "cat" and not kwargs.keys() - {"tensors", "dim"}:
        return _cat(*args, **kwargs)
    axes = _axes(name, x, args[1:], kwargs) if isinstance(x, SomeSteps) else None
    if axes is not None and 0 not in axes:
        if x.rest is None:
            return _alike(func, name, x, args[1:], kwargs)
        if name in ("flatten", "mean") and x.dim() - 1 not in axes:
            return x.map(lambda d: func(d, *args[1:], **kwargs), x.rest)
    return func(*map(_whole, args), **{key: _whole(value) for key, value in kwargs.items()})


def _whole(x: Any) -> Any:
    """`dense`, of lists too."""
    return type(x)(map(_whole, x)) if type(x) in (list, tuple) else dense(x)


def _alike(func: Callable, name: str, x: SomeSteps, args: tuple, kwargs: dict) -> Any:
    """What moves or adds up entries within steps; zeros stay zeros."""
    if name in ("view", "reshape"):
        args = (len(x.live), *_shape(x, args)[1:])
    out = func(x.data, *args, **kwargs)
    if isinstance(out, Tensor):
        return SomeSteps(out, x.live, x.steps)
    return tuple(SomeSteps(part, x.live, x.steps) for part in out)


def _axes(name: str, x: SomeSteps, args: tuple, kwargs: dict) -> list[int] | None:
    """Which axes an operator works on, of x or, where it adds one, of the result; None: time, perhaps, or not known."""
    try:
        if name in ("view", "reshape"):  # row by row: where the number of steps stays, each is what it was
            return [] if not kwargs and _shape(x, args)[0] == x.steps else None
        if name == "pad":
            return _padded(x.dim(), *args, **kwargs)
        found = [d for dims in WITHIN[name](*args, **kwargs) for d in _dims(dims)]
        return [d % (x.dim() + (name == "unsqueeze")) for d in found] if found or name == "contiguous" else None
    except (KeyError, TypeError):  # another operator, or called otherwise
        return None


def _padded(rank: int, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> list[int] | None:
    return [] if len(pad) < 2 * rank and mode == "constant" and not value else None


def _shape(x: SomeSteps, args: tuple) -> tuple[int, ...]:
    """What view and reshape are asked for, −1 filled in."""
    shape = args[0] if isinstance(args[0], (tuple, list)) else args
    known = prod(n for n in shape if n != -1)
    return tuple(x.shape.numel() // max(1, known) if n == -1 else n for n in shape)


def _dims(dims: Any) -> list[Any]:
    return list(dims) if isinstance(dims, (tuple, list)) else [dims]


def _linear(input: SomeSteps, weight: Tensor, bias: Tensor | None = None) -> SomeSteps:
    x = input
    return x.map(lambda d: F.linear(d, weight, bias), bias if x.rest is None else F.linear(x.rest, weight, bias))


def _add(a: Any, b: Any) -> Any:
    """At the steps of either."""
    a, b = (b, a) if not isinstance(a, SomeSteps) else (a, b)
    if not isinstance(b, (SomeSteps, Tensor)) or b.shape != a.shape:
        return a.dense() + dense(b)
    if isinstance(b, Tensor):
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
    steps, rank = some[0].steps, some[0].dim()
    others = [x.dim() for x in (a, b) if isinstance(x, Tensor)]
    least = 3 if "matmul" in func.__name__ else 1  # a matrix has its time where a product adds up
    aligned = all(x.dim() == rank and x.steps == steps for x in some) and all(dim <= rank for dim in others)
    if not aligned or rank < least or any(x.rest is not None for x in some):
        return func(dense(a), dense(b))
    live = sorted(set.intersection(*(set(x.live) for x in some)))

    def part(x: Any) -> Any:
        if isinstance(x, SomeSteps):
            return x.at(live)
        over_time = isinstance(x, Tensor) and x.dim() == some[0].dim() and len(x) == steps
        return x[live] if over_time else x

    return SomeSteps(func(part(a), part(b)), live, steps)


def _cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    some = [p for p in tensors if isinstance(p, SomeSteps) and p.rest is None]
    alike = len(some) == len(tensors) and len({(p.live, p.steps, p.dim()) for p in some}) == 1
    if not alike or dim % some[0].dim() == 0:
        return torch.cat([dense(p) for p in tensors], dim)
    return some[0].map(lambda _: torch.cat([p.data for p in some], dim))


# Operators within steps, by name, for functions and methods are called alike: which axes their arguments name.
WITHIN: dict[str, Callable[..., list[Any]]] = {
    "chunk": lambda chunks, dim=0: [dim],
    "contiguous": lambda: [],
    "flatten": lambda start_dim=0, end_dim=-1: [start_dim, end_dim],
    "mean": lambda dim, keepdim=False: [dim],
    "movedim": lambda source, destination: [source, destination],
    "sum": lambda dim, keepdim=False: [dim],
    "transpose": lambda dim0, dim1: [dim0, dim1],
    "unbind": lambda dim=0: [dim],
    "unflatten": lambda dim, sizes: [dim],
    "unsqueeze": lambda dim: [dim],
}
