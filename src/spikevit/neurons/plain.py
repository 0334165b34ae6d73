"""The leaky integrate-and-fire neuron as a pure function over (T, ...): the specification of every faster version."""

from __future__ import annotations

import torch
from torch import Tensor

from spikevit.neurons.surrogate import Sigmoid, Surrogate


class _Spike(torch.autograd.Function):
    """s = [u ≥ 0]; ds/du by the surrogate."""

    @staticmethod
    def forward(ctx, u: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (u,) = ctx.saved_tensors
        return ctx.surrogate.backward(grad, u), None


def charge(x: Tensor, v: Tensor | None, leak: float | Tensor, decay_input: bool, out: Tensor | None = None) -> Tensor:
    """h = leak·v + gain·x, with gain = 1 − leak if decay_input else 1; v = None is rest. Every version calls this."""
    if v is None:
        return torch.mul(x, 1 - leak if decay_input else 1.0, out=out)
    if decay_input:
        return torch.lerp(x, v, leak, out=out)
    if isinstance(leak, Tensor):
        return torch.add(x, leak * v, out=out)
    return torch.add(x, v, alpha=leak, out=out)


def lif(
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
) -> tuple[Tensor, Tensor]:
    """Spikes of leaky integrate-and-fire neurons, and the membrane they leave behind.

    For every step t, elementwise:

        charge  h_t = leak·v_{t−1} + gain·x_t        gain = 1 − leak if decay_input else 1
        fire    s_t = [h_t ≥ threshold]              a tie fires; ds/dh by the surrogate
        reset   v_t = (1 − s_t)·h_t  (hard)   or   h_t − threshold·s_t  (soft)

    With `detach_reset`, no gradient flows through s_t of the reset. leak = 1 − 1/τ gives SpikingJelly's
    LIFNode (decay_input on); leak = 1 without decayed input is IF. Input and membrane have no unit: the
    threshold is 1 by convention.

    Args:
        x: input currents, shape (T, ...), T ≥ 1.
        v: membrane before the first step, shape (...); None is rest, v = 0.
        in_place, goes_on: whether v may be overwritten, and whether the last membrane will be read: it may be None
            otherwise. For versions that gain from it.
        leak: what remains of the membrane after a step; a scalar tensor is learnable.

    Returns:
        Spikes in {0, 1}, of x's shape and dtype, and the membrane after the last step, shape (...).

    Source: Gerstner & Kistler 2002; SpikingJelly 0.0.0.0.12 MultiStepLIFNode for the discretisation.
    """
    spikes = []
    for x_t in x:
        h = charge(x_t, v, leak, decay_input)
        s = _Spike.apply(h - threshold, surrogate)
        r = s.detach() if detach_reset else s
        v = (1 - r) * h if reset == "hard" else h - threshold * r
        spikes.append(s)
    assert v is not None, "x has no time steps"
    return torch.stack(spikes), v
