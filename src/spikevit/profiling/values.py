"""What kind of numbers an operand holds: spikes, power-of-two codes, small whole numbers, or real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

LIMIT = 256  # more distinct non-zero values than this, or a larger whole number, are real numbers
TOLERANCE = 1e-4  # of a multiple of the unit: a mean over 49 tokens is a whole number of 49ths but for rounding

BINARY, POWER_OF_TWO, INTEGER, REAL, UNKNOWN = "binary", "power-of-two", "integer", "real", "unknown"


class Kind(NamedTuple):
    """Class of an operand. unit: the constant scale factored out; top: the largest value in units of it.

    "binary": 0 and one other value; "power-of-two": at least three of unit · 1, 2, 4, …; "integer": whole multiples
    of unit, of either sign; "real": anything else; "unknown": nothing but zeros was seen.
    """

    name: str
    unit: float = 1.0
    top: int = 1


@dataclass
class Values:
    """The distinct values that were not zero, by their first six digits, over all calls; None: too many."""

    distinct: dict[str, float] | None = field(default_factory=dict)

    def add(self, x: Tensor, *, spikes: bool = False) -> int:
        """Looks at one more tensor; returns how many of its entries are not zero. `spikes`: known to be 0 and 1.

        Few passes over memory and no sorting: counting costs less than two forwards.

        Raises:
            FloatingPointError: entries that are NaN or infinite.
        """
        x = x if x.is_floating_point() else x.double()
        nonzero = int(x.count_nonzero())
        if spikes and nonzero:
            self._put(x.new_ones(1))
        if spikes or not nonzero:
            return nonzero
        low, high = x.aminmax()
        if not torch.isfinite(torch.stack([low, high])).all():
            raise FloatingPointError("its input has entries that are not finite (NaN or infinite)")
        if self.distinct is not None:
            self._classify(x, nonzero, low, high)
        return nonzero

    def _classify(self, x: Tensor, nonzero: int, low: Tensor, high: Tensor) -> None:
        extreme = high if low >= 0 else low
        if int((x == extreme).count_nonzero()) == nonzero:  # the usual case: one value beside zero
            return self._put(extreme)
        some = x.flatten()[:: max(1, x.numel() // 4096)]
        some = some[some != 0].unique()
        unit = some.abs().min() if len(some) else torch.maximum(low.abs(), high.abs())
        if len(some) > LIMIT or torch.maximum(high, -low) > LIMIT * unit:
            self.distinct = None
            return
        codes = x.div(unit).round_()
        if torch.sub(x, codes, alpha=float(unit)).abs_().max() <= TOLERANCE * unit:  # multiples of it: bins
            least = int(codes.min())
            bins = codes.sub_(least).flatten().to(torch.int32).bincount()
            self._put((bins.nonzero().flatten().double() + least) * unit.double())
        else:
            self._put(x.unique())

    @property
    def single(self) -> float | None:
        """The one value beside zero, where there was just one."""
        return next(iter(self.distinct.values())) if self.distinct and len(self.distinct) == 1 else None

    def _put(self, values: Tensor) -> None:
        if self.distinct is None:
            return
        for v in values.flatten().tolist():
            if v:
                self.distinct.setdefault(f"{v:.6g}", v)
        if len(self.distinct) > LIMIT:
            self.distinct = None

    @property
    def kind(self) -> Kind:
        """The class of all that was seen."""
        if self.distinct is None:
            return Kind(REAL)
        if not self.distinct:
            return Kind(UNKNOWN)
        unit = min(self.distinct.values(), key=abs)
        if len(self.distinct) == 1:
            return Kind(BINARY, unit)
        unit = abs(unit)
        codes = [v / unit for v in self.distinct.values()]
        whole = [round(c) for c in codes]
        top = max(map(abs, whole))
        if top > LIMIT or any(abs(c - w) > TOLERANCE * top for c, w in zip(codes, whole, strict=True)):
            return Kind(REAL)
        if len(whole) > 2 and all(w > 0 and w & (w - 1) == 0 for w in whole):
            return Kind(POWER_OF_TWO, unit, top)
        return Kind(INTEGER, unit, top)
