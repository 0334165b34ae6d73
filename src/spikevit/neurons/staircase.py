"""The staircase: what an ExpG-IF(n, G) neuron emits, as a function of its input and without a time axis.

Reconstruction: the paper's text was not available (Hao et al., Ge2mS-T, arXiv 2604.08894).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from spikevit.errors import unknown
from spikevit.neurons import staircase_numba

ORDERS = ("weight", "group")  # in which steps can fire
SMALLEST = 2.0**-20  # a threshold below this counts as this; its gradient still passes, so that it can come back
BLOCK = 2**18  # elements of which a few working tensors fit the caches of two cores


@dataclass(frozen=True)
class ExpG:
    """Grouped exponential code: `groups` G groups of `steps` n steps, which weigh 2^(n−1), …, 2, 1 quanta.

    T = n·G time steps, L = G·(2^n − 1) levels. n = 1 is rate coding, G = 1 is the binary numeral.

    order: in which the steps fire. "weight": all G steps of weight 2^(n−1) first, then all of 2^(n−2), …, which takes
    the fewest spikes for every code and n − 1 doublings to receive. "group": one group after the other, as in files of
    before; G·(n − 1) doublings. For n = 1 or G = 1 both are the same, and read "weight".

    Source: reconstruction.
    """

    steps: int
    groups: int = 1
    order: str = "weight"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise unknown("order", self.order, ORDERS)
        for name, value in (("steps", self.steps), ("groups", self.groups)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"ExpG: {name}={value!r} must be a whole number of at least 1")
        if self.steps > 16 or self.levels > 65535:
            raise ValueError(
                f"ExpG: steps={self.steps}, groups={self.groups} make groups·(2^steps − 1) levels, more than the 65535 "
                "that 16 bits hold"
            )
        if 1 in (self.steps, self.groups):
            object.__setattr__(self, "order", "weight")

    def __repr__(self) -> str:
        order = "" if self.order == "weight" else f", order={self.order!r}"
        return f"ExpG(steps={self.steps}, groups={self.groups}{order})"

    @classmethod
    def of(cls, time_steps: int) -> ExpG:
        """The code of T time steps: n = min(T, 4), G = T/n. L = 1, 3, 15, 30, 60, 240 for T = 1, 2, 4, 8, 16, 64."""
        if not isinstance(time_steps, int) or isinstance(time_steps, bool) or time_steps < 1:
            raise ValueError(f"time_steps={time_steps!r} must be a whole number of at least 1")
        steps = min(time_steps, 4)
        if time_steps % steps:
            below = time_steps - time_steps % steps
            raise ValueError(
                f"time_steps={time_steps} above 4 must be a multiple of 4, such as {below} or {below + 4}; "
                "for other groups give ExpG(steps, groups)"
            )
        return cls(steps, time_steps // steps)

    @classmethod
    def from_plain(cls, steps: int, groups: int, order: str = "group") -> ExpG:
        """The code of spikes that a file names: (n, G), which fire by group, or (n, G, order)."""
        return cls(steps, groups, order)

    @property
    def plain(self) -> tuple[int, int] | tuple[int, int, str]:
        """The code of spikes as files name it: (n, G), or (n, G, "weight") where the order is not that by group."""
        same = 1 in (self.steps, self.groups)
        return (self.steps, self.groups) if same or self.order == "group" else (self.steps, self.groups, self.order)

    @property
    def time_steps(self) -> int:
        """T = n·G."""
        return self.steps * self.groups

    @property
    def group_levels(self) -> int:
        """2^n − 1, the levels of one group."""
        return 2**self.steps - 1

    @property
    def levels(self) -> int:
        """L = G·(2^n − 1)."""
        return self.groups * self.group_levels

    @property
    def bits(self) -> int:
        """Bits that hold a code: ⌈log2(L + 1)⌉."""
        return self.levels.bit_length()

    @property
    def dtype(self) -> torch.dtype:
        """The smallest integers that hold 0 … L and that torch computes with."""
        return torch.uint8 if self.bits <= 8 else torch.int16 if self.bits <= 15 else torch.int32

    @property
    def weights(self) -> tuple[int, ...]:
        """What a spike of each of the T steps stands for, in quanta, in the order in which they fire."""
        numeral = tuple(2**j for j in reversed(range(self.steps)))
        return numeral * self.groups if self.order == "group" else tuple(w for w in numeral for _ in range(self.groups))

    def by_group(self, x: Tensor) -> Tensor:
        """A view (G, n, ...) of what has an entry for each step in firing order (T, ...)."""
        if self.order == "group":
            return x.unflatten(0, (self.groups, self.steps))
        return x.unflatten(0, (self.steps, self.groups)).transpose(0, 1)


def spike_pattern(k: Tensor, code: ExpG) -> Tensor:
    """The spikes of codes k (...), bool (T, ...), in closed form: of each weight those of the first m_w groups."""
    fired = [torch.stack([m > g for g in range(code.groups)]) for m in _fired(k, code)]  # n of (G, ...)
    return torch.cat(fired) if code.order == "weight" else torch.stack(fired, 1).flatten(0, 1)


def spike_count(k: Tensor, code: ExpG) -> Tensor:
    """How many spikes code k takes, c(k) = Σ_w m_w over the weights w = 2^(n−1), …, 2, 1: int32 of k's shape.

    By weight m_w = min(G, ⌊r_w/w⌋), where r_w is what heavier steps leave of k: no choice of steps takes fewer. By
    group the sum is n·⌊k/(2^n − 1)⌋ + popcount(k mod (2^n − 1)).
    """
    return reduce(torch.add, _fired(k, code))


def _fired(k: Tensor, code: ExpG) -> Iterator[Tensor]:
    """m_w: how many of the G steps of weight w = 2^(n−1), …, 2, 1 fire, int32; they are those of the first groups.

    By group they are those of all groups that k fills, and of the next one where the rest has that binary digit.
    """
    left = k.to(torch.int32)
    if code.order == "group":
        full = torch.div(left, code.group_levels, rounding_mode="floor")
        left = left - code.group_levels * full
        for j in reversed(range(code.steps)):
            yield full + ((left >> j) & 1)
        return
    for j in reversed(range(code.steps)):
        fired = (left >> j).clamp(max=code.groups)
        left = left - (fired << j)
        yield fired


def expected_count(u: Tensor, code: ExpG) -> Tensor:
    """c̄(u): c(k) interpolated linearly between neighbouring codes, for u (...) in [0, L]; flat outside.

    It is the expected number of spikes of u under uniform dither. The gradient is the slope of the segment; at a
    whole u, of the one to the right, at L of the last one.
    """
    u = u.clamp(0, code.levels)
    k = u.detach().floor().clamp(max=code.levels - 1).int()
    below = spike_count(k, code)
    slope = (spike_count(k + 1, code) - below).to(u.dtype)
    return below + (u - k) * slope


def in_force(threshold: Tensor, code: ExpG, power_of_two: bool = False) -> Tensor:
    """The threshold as the neurons use it, without gradient and in float32 at least.

    That is max(θ, 2^−20), and with `power_of_two` L·2^e, where e = round(log2(θ/L)).
    """
    theta = threshold.detach().to(_wide(threshold)).clamp(min=SMALLEST)
    if power_of_two:
        quantum = theta / code.levels
        mantissa, _ = torch.frexp(quantum)  # in [1/2, 1), quantum / mantissa is a power of two: no rounding anywhere
        theta = code.levels * torch.where(mantissa < math.sqrt(0.5), 0.5, 1.0) * (quantum / mantissa)
    return theta


def staircase_plain(x: Tensor, threshold: Tensor, code: ExpG, power_of_two: bool = False) -> Tensor:
    """`staircase` as autograd differentiates it: the specification of the faster versions."""
    theta = in_force(threshold, code, power_of_two).to(_wide(x))
    theta = theta + (threshold - threshold.detach()).to(theta.dtype) * _gain(x, threshold, code)
    quantum = theta / code.levels
    u = (x.to(quantum.dtype) / quantum).clamp(0, code.levels)
    k = (u.detach() + 0.5).floor() + (u - u.detach())
    return (quantum * k).to(x.dtype)


def staircase(
    x: Tensor, threshold: Tensor, code: ExpG, *, power_of_two: bool = False, backend: str = "fused"
) -> Tensor:
    """What ExpG-IF neurons decode to: x rounded to L + 1 levels from 0 to the threshold θ.

        Δ = θ / L        k = clip(⌊x/Δ + 1/2⌋, 0, L)        a = Δ·k

    Gradients are straight-through: ∂a/∂x = 1 where 0 ≤ x/Δ ≤ L, else 0; ∂a/∂θ = (k − x/Δ)/L there, 1 above and 0
    below, scaled by 1/√(N·L), where N elements of x share the threshold (LSQ, Esser et al., ICLR 2020; with n = 1,
    QCFS, Bu et al., ICLR 2022). Half-precision inputs are computed in float32.

    Args:
        x: weighted input of the neurons, shape (..., C).
        threshold: θ > 0, shape (), or (C,) for one per channel. Below 2^−20 it counts as 2^−20.
        code: steps and groups of the neurons' spikes; only L enters.
        power_of_two: whether θ is rounded, straight-through, so that Δ is a power of two.
        backend: "fused" (one node of the graph), "numba" (the same, each way one compiled pass over memory; on the
            CPU), or "plain". All give the same bits.

    Returns:
        a, of x's shape and dtype. Kept for backward: x, or one byte per element where θ does not learn.

    Source: reconstruction: the paper's text was not available (Hao et al., Ge2mS-T, arXiv 2604.08894).
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if threshold.dim() > 1 or (threshold.dim() and threshold.shape != x.shape[-1:]):
        raise ValueError(
            f"threshold of shape {tuple(threshold.shape)} must have shape () or, for one per channel of x "
            f"{tuple(x.shape)}, {tuple(x.shape[-1:])}"
        )
    if backend == "plain":
        return staircase_plain(x, threshold, code, power_of_two)
    quantum = in_force(threshold, code, power_of_two).to(_wide(x)) / code.levels
    if torch.is_grad_enabled() and (x.requires_grad or threshold.requires_grad):
        return _Staircase.apply(x, threshold, quantum, code, backend)
    return KERNELS[backend][0](x, quantum, code.levels, False)[0]


def codes(x: Tensor, threshold: Tensor, code: ExpG, power_of_two: bool = False) -> Tensor:
    """The codes k of `staircase`: integers of x's shape, of `code.dtype`."""
    quantum = in_force(threshold, code, power_of_two).to(_wide(x)) / code.levels
    return x.detach().to(quantum.dtype).div(quantum).clamp_(0, code.levels).add_(0.5).to(code.dtype)  # truncates


class _Staircase(torch.autograd.Function):
    """`staircase` as one node of the graph."""

    @staticmethod
    def forward(ctx, x, threshold, quantum, code, backend):
        learns = ctx.needs_input_grad[1]
        a, inside = KERNELS[backend][0](x, quantum, code.levels, not learns)
        ctx.save_for_backward(*((x, quantum) if learns else (inside,)))
        ctx.constants = learns, code.levels, backend, _gain(x, threshold, code), threshold.dtype
        return a

    @staticmethod
    def backward(ctx, grad):
        learns, levels, backend, gain, dtype = ctx.constants
        if not learns:
            (inside,) = ctx.saved_tensors
            return grad * inside, *(None,) * 4
        grad_x, grad_theta = KERNELS[backend][1](grad, *ctx.saved_tensors, levels)
        return grad_x, (grad_theta * (gain / levels)).to(dtype), *(None,) * 3


def _forward(x: Tensor, quantum: Tensor, levels: int, mark: bool) -> tuple[Tensor, Tensor]:
    """a; and [0 ≤ x/Δ ≤ L] where `mark` asks for it, else an empty tensor."""
    u = x.to(quantum.dtype) / quantum
    inside = u == u.clamp(0, levels) if mark else x.new_empty(0, dtype=torch.bool)
    if torch.compiler.is_compiling():  # which fuses this by itself; torch 2.11 loses in-place updates here
        return ((u.clamp(0, levels) + 0.5).floor() * quantum).to(x.dtype), inside
    return u.clamp_(0, levels).add_(0.5).floor_().mul_(quantum).to(x.dtype), inside


def _backward(grad: Tensor, x: Tensor, quantum: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """grad·∂a/∂x, and L·Σ grad·∂a/∂θ over the elements that share a threshold."""
    dtype, grad, x = grad.dtype, grad.to(quantum.dtype), x.to(quantum.dtype)
    if torch.compiler.is_compiling():
        u = (x / quantum).clamp(0, levels)
        inside = (u == x / quantum).to(u.dtype)
        error = ((u + 0.5).floor() - u * inside) * grad
        return (grad * inside).to(dtype), error.flatten(0, -2).sum(0) if quantum.dim() else error.sum()
    grad_x, total = torch.empty_like(grad), torch.zeros_like(quantum)
    for grad_b, x_b, grad_x_b in _blocks(grad, x, grad_x):
        inside = x_b / quantum
        u = inside.clamp(0, levels)
        inside.eq_(u)  # 1 or 0
        torch.mul(grad_b, inside, out=grad_x_b)
        error = (u + 0.5).floor_().addcmul_(u, inside, value=-1)  # k − x/Δ inside, L above, 0 below
        if quantum.dim():
            total += error.mul_(grad_b).reshape(-1, len(quantum)).sum(0)
        else:
            total += error.flatten().dot(grad_b.flatten())
    return grad_x.to(dtype), total


def _blocks(*tensors: Tensor):
    """The same rows of all tensors, as many at a time as a CPU's caches hold: half the time of whole tensors."""
    x = tensors[0]
    if not (x.device.type == "cpu" and x.numel() > BLOCK and x.dim() and all(t.is_contiguous() for t in tensors)):
        return [tensors]
    width = x.shape[-1]
    return zip(*(t.view(-1, width).split(max(1, BLOCK // width)) for t in tensors), strict=True)


def _wide(x: Tensor) -> torch.dtype:
    """What x is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _gain(x: Tensor, threshold: Tensor, code: ExpG) -> float:
    """1/√(N·L)."""
    return 1 / math.sqrt(max(1, x.numel() // threshold.numel()) * code.levels)


KERNELS: dict[str, tuple[Callable, Callable]] = {
    "fused": (_forward, _backward),
    "numba": (staircase_numba.forward, staircase_numba.backward),
}
BACKENDS = ("plain", *KERNELS)
