"""How many multiplications of one product have no zero factor: sums over its operands, and no second product.

An entry that is not zero meets as many weights as its place allows; so counting costs a pass over the operands.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from spikevit.profiling.counts import Operand, Tally
from spikevit.profiling.operators import Product, dense_macs, spread_of
from spikevit.profiling.values import Values


def measure(product: Product, out: Tensor, data: list[int], operands: list[Operand]) -> Tally:
    """One call: how many of its multiplications have non-zero operands. data: which of the two tensors are data."""
    macs = dense_macs(product, out)
    tally = Tally(1, macs, macs, outputs=out.numel())
    nonzero, size, weighted = [0, 0], [0, 0], [0.0, 0.0]
    for n, i in enumerate(data):
        x, operand = product.operands[i], operands[n]
        size[n] = x.numel()
        if not x.is_meta:
            nonzero[n] = operand.values.add(x, spikes=operand.origin.operator == "neuron")
    if product.operator == "conv":
        tally.inbounds = product.operands[0].shape[:2].numel() * int(spread_of(product, out).sum())
    if not out.is_meta:
        tally.active, *weighted = active_products(product, out, data, operands)
    tally.nonzero, tally.size, tally.weighted = tuple(nonzero), tuple(size), tuple(weighted)  # type: ignore[assignment]
    return tally


def active_products(
    product: Product, out: Tensor, data: list[int], operands: list[Operand]
) -> tuple[int, float, float]:
    """Products in bounds of two non-zero entries; the same weighted with the first, the second data operand's size.

    A weight of zero is no connection: it counts for nothing. Without one, sums over the entries are enough.
    """
    looks = [_Look(x, operands[data.index(i)] if i in data else None) for i, x in enumerate(product.operands)]
    if product.operator == "conv":
        x, weight = looks
        if weight.full:
            meets = spread_of(product, out)
            return int((x.fired((0, 1)) * meets).sum()), float((x.sizes((0, 1)) * meets).sum()), 0.0
        fired, there = x.x.ne(0).double(), weight.x.ne(0).double()
        sums = [product.again(there)(x.x.abs().double()), product.again(weight.x.abs().double())(fired)]
        sizes = [float(sums[i].sum()) for i in data] + [0.0]
        return int(product.again(there)(fired).sum()), sizes[0], sizes[1]
    a, b = looks
    a_fired, b_fired = a.fired((-2,)), b.fired((-1,))
    by_size = {0: (a.sizes((-2,)) * b_fired).sum(), 1: (a_fired * b.sizes((-1,))).sum()}
    weighted = [float(by_size[i]) for i in data] + [0.0]
    return int((a_fired * b_fired).sum()), weighted[0], weighted[1]


def once_products(product: Product, out: Tensor, data: list[int], steps: list[int]) -> int | None:
    """Active products of one pass: each data operand is non-zero where it is at any of its `steps`.

    None: where operands have different numbers of steps, or their first axis is not that of time.
    """
    most = max(steps)
    found: list[Tensor] = []
    for i, x in enumerate(product.operands):
        batched = x.dim() > 2 and product.operator == "matmul"
        if i in data and steps[data.index(i)] == most:
            if len(x) % most or not (i == 0 or batched):
                return None
            x = x.unflatten(0, (most, -1)).ne(0).any(0).to(x.dtype)
        elif batched:  # the same at every step
            x = x[: len(x) // most]
        found.append(x)
    ones = [Operand(Values({"1": 1.0})) for _ in data]
    return active_products(replace(product, operands=(found[0], found[1])), out, data, ones)[0]


class _Look:
    """A tensor that goes into a product: sums over some axes of what is not zero. operand: what is known of data."""

    def __init__(self, x: Tensor, operand: Operand | None):
        self.x, self.values = x, operand.values if operand else None
        self.full = operand is None and int(x.count_nonzero()) == x.numel()

    def fired(self, over: tuple[int, ...]) -> Tensor:
        """How many entries are not zero (float64)."""
        if self.full:
            shape = [n for i, n in enumerate(self.x.shape) if i not in {d % self.x.dim() for d in over}]
            return torch.full(shape, float(prod(self.x.shape[d] for d in over)), device=self.x.device).double()
        single = self.values.single if self.values else None
        if single is None:
            return self.x.ne(0).sum(over).double()
        return (self._sum(self.x, over) / single).round_()  # spikes: their sum is their number, exactly

    def sizes(self, over: tuple[int, ...]) -> Tensor:
        """The sum of their absolute values (float64), where that is asked for: not of real values."""
        if self.values is None or self.values.distinct is None:
            return torch.zeros((), dtype=torch.float64, device=self.x.device)
        return self._sum(self.x if self.values.single else self.x.abs(), over).abs_()

    @staticmethod
    def _sum(x: Tensor, over: tuple[int, ...]) -> Tensor:
        many = prod(x.shape[d] for d in over) > 2**20  # float32 would round
        return x.sum(over, dtype=torch.float64 if many else torch.promote_types(x.dtype, torch.float32)).double()
