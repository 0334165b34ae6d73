"""The two kernels of `staircase`, compiled by numba: each goes over memory once, on as many threads as torch uses."""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

CHUNK = 2**15  # elements a thread takes at a time; a sum is over chunks, so that the number of threads changes no bit


@cache
def compiled():
    """numba, whose import takes a second and waits for the first use, and the loops over rows of channels."""
    try:
        numba = import_module("numba")
    except ImportError as error:
        raise ImportError("backend='numba' needs numba: pip install numba") from error
    import numpy as np

    jit = numba.njit(parallel=True, error_model="numpy", cache=True)  # not fastmath: torch's operations, torch's bits

    @jit
    def forward(x, quantum, levels, half, chunk, a, inside):
        zero, mark = half - half, inside.size > 0
        for n in numba.prange((len(x) + chunk - 1) // chunk):
            for i in range(n * chunk, min(len(x), (n + 1) * chunk)):
                for c in range(x.shape[1]):
                    q = x[i, c] / quantum[c]
                    u = zero if q < zero else (levels if q > levels else q)
                    a[i, c] = np.floor(u + half) * quantum[c]
                    if mark:
                        inside[i, c] = q == u

    @jit
    def backward(x, quantum, levels, half, chunk, grad, grad_x, total):
        zero = half - half
        for n in numba.prange((len(x) + chunk - 1) // chunk):
            part = np.zeros_like(quantum)
            for i in range(n * chunk, min(len(x), (n + 1) * chunk)):
                for c in range(x.shape[1]):
                    q, g = x[i, c] / quantum[c], grad[i, c]
                    u = zero if q < zero else (levels if q > levels else q)
                    grad_x[i, c] = g if q == u else zero
                    part[c] += g * (np.floor(u + half) - (zero if q > levels else u))
            total[n] = part

    return numba, forward, backward


def _arguments(x: Tensor, quantum: Tensor, levels: int):
    """What both loops take: rows of x, Δ of each column, L and 1/2 in x's precision, rows of a chunk."""
    if x.dtype != quantum.dtype:
        raise TypeError(f"backend='numba' takes float32 and float64, not {x.dtype}: use backend='fused'")
    numba = compiled()[0]
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    width = x.shape[-1] if quantum.dim() else math.gcd(x.numel(), 256)  # one threshold: any rows do
    rows = _rows(x, width)
    delta = quantum.expand(width).contiguous().numpy()
    return rows, delta, rows.dtype.type(levels), rows.dtype.type(0.5), max(1, CHUNK // width)


def _rows(x: Tensor, width: int):
    return x.contiguous().view(-1, width).numpy()


@torch.library.custom_op("spikevit::staircase", mutates_args=(), device_types="cpu")
def forward(x: Tensor, quantum: Tensor, levels: int, mark: bool) -> tuple[Tensor, Tensor]:
    """a; and [0 ≤ x/Δ ≤ L] where `mark` asks for it, else an empty tensor."""
    a, inside = _forward_like(x, quantum, levels, mark)
    rows, *constants = _arguments(x, quantum, levels)
    compiled()[1](rows, *constants, _rows(a, rows.shape[1]), _rows(inside, rows.shape[1]))
    return a, inside


@forward.register_fake
def _forward_like(x: Tensor, quantum: Tensor, levels: int, mark: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape if mark else (0,), dtype=torch.bool)


@torch.library.custom_op("spikevit::staircase_backward", mutates_args=(), device_types="cpu")
def backward(grad: Tensor, x: Tensor, quantum: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """grad·∂a/∂x; and L·Σ grad·∂a/∂θ over the elements that share a threshold."""
    grad_x = x.new_empty(x.shape)
    rows, *constants = _arguments(x, quantum, levels)
    width, chunk = rows.shape[1], constants[-1]
    total = quantum.new_empty(-(-len(rows) // chunk), width)
    compiled()[2](rows, *constants, _rows(grad, width), _rows(grad_x, width), total.numpy())
    total = total.sum(0, dtype=torch.float64)
    return grad_x, (total if quantum.dim() else total.sum()).to(quantum.dtype)


@backward.register_fake
def _backward_like(grad: Tensor, x: Tensor, quantum: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(quantum)
