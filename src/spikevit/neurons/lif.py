"""Leaky integrate-and-fire neurons: pure functions over (T, ...) and thin modules above them.

`lif` is the specification: a loop over time that autograd differentiates. `fused_lif` is the same function,
spike for spike and gradient for gradient, with one backward pass that keeps nothing but the membranes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikevit.errors import unknown
from spikevit.neurons.state import Stream
from spikevit.neurons.surrogate import Sigmoid, Surrogate

RESETS = ("hard", "soft")


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


def _charge(x: Tensor, v: Tensor | None, leak: float | Tensor, decay_input: bool, out: Tensor | None = None) -> Tensor:
    """h = leak·v + gain·x, with gain = 1 − leak if decay_input else 1; v = None is rest. Both versions call this."""
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
        leak: what remains of the membrane after a step; a scalar tensor is learnable.

    Returns:
        Spikes in {0, 1}, of x's shape and dtype, and the membrane after the last step, shape (...).

    Source: Gerstner & Kistler 2002; SpikingJelly 0.0.0.0.12 MultiStepLIFNode for the discretisation.
    """
    spikes = []
    for x_t in x:
        h = _charge(x_t, v, leak, decay_input)
        s = _Spike.apply(h - threshold, surrogate)
        r = s.detach() if detach_reset else s
        v = (1 - r) * h if reset == "hard" else h - threshold * r
        spikes.append(s)
    assert v is not None, "x has no time steps"
    return torch.stack(spikes), v


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


def _run(x, v, leak, decay_input, threshold, reset, keep):
    """Forward without autograd, three passes over memory a step: h of all steps (where kept), spikes, last v."""
    spikes = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    h = torch.empty_like(spikes) if keep else None
    v_next = torch.empty_like(spikes[0])
    for t in range(len(x)):
        h_t = _charge(x[t], v, leak, decay_input, out=v_next if h is None else h[t])
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
) -> tuple[Tensor, Tensor]:
    """`lif`, in a quarter of its memory and time: see there."""
    learns = any(isinstance(a, Tensor) and a.requires_grad for a in (x, v, leak))
    if not (torch.is_grad_enabled() and learns):
        _, spikes, v = _run(x, v, leak, decay_input, threshold, reset, keep=False)
        return spikes, v
    return _FusedLIF.apply(x, v, leak, decay_input, threshold, reset, detach_reset, surrogate)


BACKENDS = {"plain": lif, "fused": fused_lif}


class Neuron(nn.Module):
    """A layer of neurons over x (T, ...): spikes in {0, 1} of the same shape. Nothing stays behind.

    `neuron(x)` starts from rest. `neuron(x, stream)` starts from the stream's state and leaves its own there;
    `neuron.step(x_t, v)` is one step of it, for x_t without a time axis. Subclasses give `leak` and
    `decay_input`; the equations are in `lif`.
    """

    decay_input: bool

    def __init__(
        self,
        threshold: float = 1.0,
        *,
        reset: str = "hard",
        detach_reset: bool = True,
        surrogate: Surrogate = Sigmoid(),
        backend: str = "fused",
    ):
        super().__init__()
        if not threshold > 0:
            raise ValueError(f"threshold={threshold!r} must be greater than 0")
        if reset not in RESETS:
            raise unknown("reset", reset, RESETS)
        if backend not in BACKENDS:
            raise unknown("backend", backend, BACKENDS)
        self.threshold = threshold
        self.reset = reset
        self.detach_reset = detach_reset
        self.surrogate = surrogate
        self.backend = backend

    @property
    def leak(self) -> float | Tensor:
        """What remains of the membrane after a step."""
        raise NotImplementedError

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        spikes, v = self.run(x, stream.read() if stream is not None else None)
        if stream is not None:
            stream.write(v)
        return spikes

    def run(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes (T, ...) and the membrane after the last step, from the membrane v before the first."""
        return BACKENDS[self.backend](
            x,
            v,
            leak=self.leak,
            decay_input=self.decay_input,
            threshold=self.threshold,
            reset=self.reset,
            detach_reset=self.detach_reset,
            surrogate=self.surrogate,
        )

    def step(self, x_t: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step of x_t (...): its spikes and the membrane to pass to the next step."""
        spikes, v = self.run(x_t[None], v)
        return spikes[0], v

    def extra_repr(self) -> str:
        return (
            f"threshold={self.threshold}, reset={self.reset}, detach_reset={self.detach_reset}, backend={self.backend}"
        )


class LIF(Neuron):
    """h = (1 − 1/τ)·v + x/τ, or (1 − 1/τ)·v + x without decayed input; τ > 1 in time steps."""

    def __init__(self, threshold: float = 1.0, *, tau: float = 2.0, decay_input: bool = True, **options):
        super().__init__(threshold, **options)
        self.tau = _valid_tau(tau)
        self.decay_input = decay_input

    @property
    def leak(self) -> float:
        return 1 - 1 / self.tau

    def extra_repr(self) -> str:
        return f"tau={self.tau}, decay_input={self.decay_input}, {super().extra_repr()}"


class IF(Neuron):
    """h = v + x: LIF without a leak."""

    decay_input = False

    @property
    def leak(self) -> float:
        return 1.0


class ParametricLIF(Neuron):
    """LIF whose τ is learnt, one per layer: 1/τ = σ(w), w from `tau` (Fang et al., ICCV 2021)."""

    def __init__(self, threshold: float = 1.0, *, tau: float = 2.0, decay_input: bool = True, **options):
        super().__init__(threshold, **options)
        self.decay_input = decay_input
        self.w = nn.Parameter(-torch.tensor(_valid_tau(tau) - 1.0).log())

    @property
    def leak(self) -> Tensor:
        return torch.sigmoid(-self.w)


def _valid_tau(tau: float) -> float:
    if not tau > 1:
        raise ValueError(f"tau={tau!r} must be greater than 1 (1 keeps nothing of the membrane; for no leak use IF)")
    return tau


def set_backend(model: nn.Module, backend: str) -> nn.Module:
    """Lets every neuron of the model run on `backend` ("plain" or "fused"); returns the model."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    for module in model.modules():
        if isinstance(module, Neuron):
            module.backend = backend
    return model
