"""Pickled batches of CIFAR, read as data: nothing that a pickle names is ever called, NumPy's own classes neither.

An array in a pickle is _reconstruct(ndarray, (0,), "b"), which makes an empty one, and the state that fills it, (1,
shape, dtype, fortran, bytes); its dtype is dtype("u1", …) with a state of its own. Here these names stand for `Array`
and `Kind`, which take what they are given for plain values, and bytes for nothing but uint8.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np


def read_plain(path: Path, most: int) -> Any:
    """What a pickle of at most that many bytes holds: numbers, bytes, lists, dicts, and an `Array` for each array.

    Raises:
        ValueError, pickle.UnpicklingError, …: a stream that is broken, or asks for more than that.
    """
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes; such a file has at most {most:,}")
    stream = path.read_bytes()
    for code, argument, _ in pickletools.genops(stream):
        if (
            code.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > size
        ):  # for which a table of that length would be made
            raise pickle.UnpicklingError(f"it numbers a value {argument}, more than it has bytes; refused")
    return PlainUnpickler(io.BytesIO(stream), encoding="bytes").load()


class Kind:
    """A dtype. The state that a pickle gives it (byte order, flags) is none that single bytes have."""

    code: Any = None

    def __init__(self, code: Any, *_: Any):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


class Array:
    """An array: `values`, uint8, once its state has been found to say so."""

    values: np.ndarray | None = None

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        match state:
            case (1, tuple(shape), Kind(code="u1" | b"u1"), bool() | 0 | 1 as fortran, bytes(raw)):
                if len(shape) != 2 or not all(type(n) is int and 0 <= n <= len(raw) for n in shape):
                    raise pickle.UnpicklingError(f"an array of {len(raw):,} bytes has no such shape; refused")
                if shape[0] * shape[1] != len(raw):
                    raise pickle.UnpicklingError(f"an array of {shape[0]} × {shape[1]} has {len(raw):,} bytes; refused")
                self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
            case _:
                raise pickle.UnpicklingError("it has an array that is not of uint8; refused")


NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy._core.multiarray", "_reconstruct"): Array,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
}


class PlainUnpickler(pickle.Unpickler):
    """Knows four names of NumPy, for which our own classes stand; refuses every other one."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle's global name stands for."""
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no such file needs; refused")
        return NAMES[module, name]
