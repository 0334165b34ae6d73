"""`lif` as one node of the graph: the same spikes and gradients as the plain version, keeping only membranes."""

from __future__ import annotations

import torch
from torch import Tensor

from spikevit.neurons.plain import charge
from spikevit.neurons.surrogate import Sigmoid, Surrogate


class _FusedLIF(torch.autograd.Function):
    """`lif` as one node of the graph. Kept for backward: h (T, ...), the spikes, and x where the leak is learnt."""

    @staticmethod
    def forward(ctx, x, v, leak, decay_input, threshold, reset, detach_reset, surrogate):
        h, spikes, v_end = _run(x, v, leak, decay_input, threshold, reset, keep=True)
        ctx.learns_leak = isinstance(leak, Tensor)
        ctx.save_for_backward(h, spikes, v, *((leak, x) if ctx.learns_leak else ()))
        ctx.constants = (None if ctx.learns_leak else leak), decay_input, threshold, reset, detach_reset, surrogate
        ctx.set_materialize_grads(False)
        return spikes, v_end

    @staticmethod
    def backward(ctx, grad_spikes, grad_v):
        leak, decay_input, threshold, reset, detach_reset, surrogate = ctx.constants
        h, spikes, v_start, *learnt = ctx.saved_tensors
        if ctx.learns_leak:
            leak, x = learnt
            grad_leak = torch.zeros_like(leak)
        grad_x = torch.empty_like(h)
        gain = 1 - leak if decay_input else 1.0
        same = not ctx.learns_leak and gain == leak  # as for τ = 2: what x gets is what v gets
        carry = grad_v  # what the steps behind t want of v_t
        for t in range(len(h) - 1, -1, -1):
            grad_s = grad_spikes[t] if grad_spikes is not None else torch.zeros_like(h[t])
            if carry is not None and not detach_reset:
                grad_s = grad_s - carry * (h[t] if reset == "hard" else threshold)
            grad_h = surrogate.backward(grad_s, h[t] - threshold)
            if carry is not None:
                grad_h += carry
                if reset == "hard":
                    grad_h.addcmul_(carry, spikes[t], value=-1)
            torch.mul(grad_h, gain, out=grad_x[t])
            if ctx.learns_leak:
                v = _fire(h[t - 1], threshold, reset)[1] if t else v_start
                grad_leak += (grad_h * _slope(x[t], v, decay_input)).sum()
            carry = grad_x[t] if same else grad_h.mul_(leak)
        return (
            grad_x,
            carry.clone() if ctx.needs_input_grad[1] else None,
            grad_leak if ctx.learns_leak else None,
            *(None,) * 5,
        )


def _slope(x: Tensor, v: Tensor | None, decay_input: bool) -> Tensor:
    """dh/dleak."""
    v = torch.zeros_like(x) if v is None else v
    return v - x if decay_input else v


def _fire(h: Tensor, threshold: float, reset: str, s: Tensor | None = None, v: Tensor | None = None):
    """Spikes and membrane after the reset, into `s` and `v` where they are given."""
    s = torch.ge(h, threshold, out=torch.empty_like(h) if s is None else s)
    if reset == "hard":
        return s, torch.addcmul(h, h, s, value=-1, out=v)
    return s, torch.sub(h, s, alpha=threshold, out=v)


def _run(x, v, leak, decay_input, threshold, reset, keep, in_place=False, goes_on=True):
    """Forward without autograd, three passes over memory a step: h of all steps (where kept), spikes, last v.

    The last v is None, and one pass less, unless it goes on.
    """
    spikes = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    h = torch.empty_like(spikes) if keep else None
    v_next = v if in_place and v is not None else torch.empty_like(spikes[0])
    for t in range(len(x)):
        h_t = charge(x[t], v, leak, decay_input, out=v_next if h is None else h[t])
        if t == len(x) - 1 and not goes_on:
            torch.ge(h_t, threshold, out=spikes[t])
            return h, spikes, None
        _, v = _fire(h_t, threshold, reset, spikes[t], v_next)
    return h, spikes, v


def fused_lif(
    x: Tensor,
    v: Tensor | None = None,
    *,
    leak: float | Tensor = 0.5,
    decay_input: bool = True,
    threshold: float = 1.0,
    reset: str = "hard",
    detach_reset: bool = True,
    surrogate: Surrogate = Sigmoid(),
    in_place: bool = False,
    goes_on: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """`lif`, in a quarter of its memory and time: see there. The last membrane is None without `goes_on`."""
    learns = any(isinstance(a, Tensor) and a.requires_grad for a in (x, v, leak))
    if not (torch.is_grad_enabled() and learns):
        _, spikes, v = _run(x, v, leak, decay_input, threshold, reset, False, in_place, goes_on)
        return spikes, v
    return _FusedLIF.apply(x, v, leak, decay_input, threshold, reset, detach_reset, surrogate)
