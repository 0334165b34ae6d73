"""A residual stream of which one part is the same at every time step: linear maps multiply that part once.

W (X̄ + s) + b = (W X̄ + b) + W s, the bracket known after the first step. Where s is a sum of spikes, so is what is
left to multiply, whatever numbers X̄ holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Constant:
    """x (1, B, N, C), all tokens, the same at every step; and what linear maps made of it."""

    def __init__(self, x: Tensor):
        self.x = x
        self.known: dict[Any, tuple[Tensor, Tensor]] = {}  # products of all tokens, and which of them are computed

    def linear(self, layer: Any, weight: Tensor, bias: Tensor | None, active: Tensor) -> Tensor:
        """W x + b of that layer, right for tokens `active` (B, N): multiplied as each first comes, then known."""
        product, computed = self.known.get(layer, (None, torch.zeros_like(active)))
        new = (active & ~computed).flatten().nonzero().flatten()
        if len(new) == active.numel():
            product = F.linear(self.x, weight, bias)
        elif len(new) or product is None:
            rows = F.linear(self.x.flatten(0, 2)[new], weight, bias)
            product = rows.new_zeros(*self.x.shape[:-1], len(weight)) if product is None else product
            product = product.flatten(0, 2).index_copy(0, new, rows).view_as(product)
        self.known[layer] = product, computed | active
        return product


class Steady:
    """constant + rest (1, n, 1, C) of the tokens that are active, as rows: what blocks hand on in halting.

    It takes part in torch's operators. Sums add to the rest, linear maps multiply the two apart; anything else gets the
    sum (`dense`), so that the result is always that of the whole tensor.

    Args:
        constant: of all tokens. tokens: which are `active`, and `rows` of them (`layers.tokens.Gathered`).
        rest: what was added, None for nothing yet.
    """

    def __init__(self, constant: Constant, tokens: Any, rest: Any = None):
        self.constant, self.tokens, self.rest = constant, tokens, rest

    def dense(self) -> Tensor:
        """The sum."""
        rows = self.tokens.rows(self.constant.x)
        return rows if self.rest is None else rows + self.rest

    def linear(self, layer: Any, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """W (constant + rest) + b. layer: what these weights are known by, at this step and the others."""
        moving = None if self.rest is None else F.linear(self.rest, weight)
        rows = self.tokens.rows(self.constant.linear(layer, weight, bias, self.tokens.active))
        return rows if moving is None else rows + moving

    def only(self, keep: Tensor, tokens: Any) -> Steady:
        """The rows `keep` (a mask), which are those of `tokens`."""
        return Steady(self.constant, tokens, None if self.rest is None else self.rest[:, keep])

    @property
    def shape(self) -> torch.Size:
        """Of the rows."""
        return torch.Size((1, len(self.tokens), 1, self.constant.x.shape[-1]))

    def __len__(self) -> int:
        return 1

    def flatten(self, start: int = 0, end: int = -1) -> Any:
        """As of a tensor; of one axis alone, it is what it was."""
        return self if start % 4 == end % 4 else self.dense().flatten(start, end)

    def __getattr__(self, name: str) -> Any:
        """All else that a tensor has, of the sum."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.dense()[index]

    def __add__(self, other: Any) -> Any:
        if getattr(other, "shape", None) != self.shape:
            return self.dense() + other
        return Steady(self.constant, self.tokens, other if self.rest is None else self.rest + other)

    def __sub__(self, other: Any) -> Any:
        return self.dense() - other

    def __mul__(self, other: Any) -> Any:
        return self.dense() * other

    def __matmul__(self, other: Any) -> Any:
        return self.dense() @ other

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.linear and isinstance(args[1], nn.Parameter):  # which stays what it is from step to step
            return args[0].linear(args[1], args[1], *args[2:], **(kwargs or {}))
        return func(*(x.dense() if isinstance(x, Steady) else x for x in args), **(kwargs or {}))
