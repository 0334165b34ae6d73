"""Where a tensor comes from: which operator made its values out of the images, or that it holds none of them.

A tensor that no image went into (a weight, a folded batch norm, a constant) has no origin: it is not data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class Origin(NamedTuple):
    """The operator that made a tensor ("image", "neuron", "add", …), and the module it ran in.

    steps: how many time steps lie side by side on the tensor's first axis, time outermost; 1 where nothing changes.
    """

    operator: str
    module: str = ""
    steps: int = 1


class Origins:
    """Origins by storage, so that views share theirs; keeps no tensor alive."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[StorageWeakRef, Origin]] = {}

    def __getitem__(self, x: Tensor) -> Origin | None:
        """None for what is not data."""
        known = self._of.get(_storage(x)._cdata)
        return known[1] if known else None  # a dead storage's address is not given away while its weak reference lives

    def __setitem__(self, x: Tensor, origin: Origin) -> None:
        storage = _storage(x)
        self._of[storage._cdata] = StorageWeakRef(storage), origin

    def first(self, tensors: Iterable[Tensor]) -> Origin | None:
        """The origin of the first tensor that has one."""
        return next((origin for x in tensors if (origin := self[x])), None)

    def forget(self) -> None:
        """Before another batch."""
        self._of.clear()


def _storage(x: Tensor) -> torch.UntypedStorage:
    """Where its values are; a sparse tensor keeps them in one of its own."""
    if x.is_sparse:
        x = x._values()
    elif x.layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc):
        x = x.values()
    return x.untyped_storage()
