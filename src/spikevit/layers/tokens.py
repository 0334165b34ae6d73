"""Tokens of which some have halted: the others gathered as rows, or all of them with a mask. Both compute the same.

Linear maps, norms and neurons take each token by itself and run on rows as they stand. What looks across tokens asks
for them `together` and hands its result back `apart`; in an ordinary run both do nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from spikevit.neurons import Stream, dense


class Gathered:
    """Active tokens as rows (1, n, 1, C): n samples of one token each, ordered by image, then by position.

    Args:
        active: mask (B, N).
    """

    def __init__(self, active: Tensor):
        self.active = active
        self.index = active.flatten().nonzero().flatten()  # of the rows, in (B · N)
        self.image = self.index // active.shape[1]

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, x: Tensor) -> Tensor:
        """Of all tokens (1, B, N, C) those that are active, as rows."""
        flat = x.flatten(0, 2)
        return (flat if len(flat) == len(self) else flat[self.index])[None, :, None]

    def without(self, leave: Tensor) -> Gathered:
        """The tokens but for the rows `leave` (a mask)."""
        return Gathered(self.active.flatten().index_fill(0, self.index[leave], False).view_as(self.active))

    def together(self, rows: Tensor, positions: bool) -> Tensor:
        """(1, B, K, C): each image's rows in front and zeros behind them; with positions, K = N, each at its place."""
        batch, tokens = self.active.shape
        place, most = (self.index, tokens) if positions else self._compact
        if len(self) == batch * most:  # no image has fewer
            return rows.view(1, batch, most, -1)
        out = rows.new_zeros(batch * most, rows.shape[-1]).index_copy(0, place, rows.flatten(0, 2))
        return out.view(1, batch, most, -1)

    def apart(self, x: Tensor, positions: bool) -> Tensor:
        """The inverse: rows of (1, B, K, C)."""
        flat = x.flatten(0, 2)
        if len(flat) > len(self):
            flat = flat[self.index if positions else self._compact[0]]
        return flat[None, :, None]

    @cached_property
    def _compact(self) -> tuple[Tensor, int]:
        """Places of the rows where each image's are side by side, and how many places an image has."""
        numbers = self.active.sum(1)
        most = int(numbers.max())
        rank = (self.active.cumsum(1) - 1).flatten()[self.index]
        return self.image * most + rank, most

    def mask(self, spikes: Any) -> Any:
        """Rows are active, all of them."""
        return spikes


class Masked:
    """All tokens (1, B, N, C), spikes of those that have halted set to zero: what `Gathered` must equal."""

    def __init__(self, active: Tensor):
        self.active = active

    def together(self, x: Tensor, positions: bool) -> Tensor:
        """They are."""
        return x

    def apart(self, x: Tensor, positions: bool) -> Tensor:
        """They stay together."""
        return x

    def mask(self, x: Any) -> Any:
        """x (1, B, N, ...) where tokens are active, 0 elsewhere."""
        x = dense(x)
        return x * self.active.to(x.dtype).view(1, *self.active.shape, *(1,) * (x.dim() - 3))


def together(x: Any, stream: Stream | None, positions: bool = False) -> Any:
    """Tokens side by side, for what looks across them. positions: at their places, zeros where one has halted."""
    if stream is None or stream.tokens is None:
        return x
    return stream.tokens.together(dense(x), positions)


def apart(x: Any, stream: Stream | None, positions: bool = False) -> Any:
    """Back from `together`, of the same `positions`."""
    return x if stream is None or stream.tokens is None else stream.tokens.apart(x, positions)


__all__ = ["Gathered", "Masked", "apart", "together"]
