"""Layers of neurons: thin modules above the pure functions, with explicit streaming and no hidden state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikevit.errors import unknown
from spikevit.neurons.fused import fused_lif
from spikevit.neurons.gate import TimeGate
from spikevit.neurons.plain import lif
from spikevit.neurons.some_steps import SomeSteps, dense
from spikevit.neurons.state import Stream
from spikevit.neurons.surrogate import SURROGATES, Sigmoid, Surrogate
from spikevit.schema import of_kind, positive, wrong

RESETS = ("hard", "soft")
BACKENDS = {"plain": lif, "fused": fused_lif}


class Neuron(nn.Module):
    """A layer of neurons over x (T, ...): spikes in {0, 1} of the same shape. Nothing stays behind.

    `neuron(x)` starts from rest. `neuron(x, stream)` starts from the stream's state and leaves its own there;
    `neuron.step(x_t, v)` is one step of it, for x_t without a time axis. Subclasses give `leak` and
    `decay_input`; the equations are in `lif`.
    """

    decay_input: bool
    gate: TimeGate | None = None  # which time steps pass: it may be shared, and belongs to who put it there

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
        if reset not in RESETS:
            raise unknown("reset", reset, RESETS)
        if backend not in BACKENDS:
            raise unknown("backend", backend, BACKENDS)
        self.threshold = positive("threshold", threshold)
        self.reset = reset
        self.detach_reset = detach_reset
        self.surrogate = of_kind(
            "surrogate", surrogate, Surrogate, f"a Surrogate, such as ATan() or make_surrogate({_called(surrogate)!r})"
        )
        self.backend = backend

    @property
    def leak(self) -> float | Tensor:
        """What remains of the membrane after a step."""
        raise NotImplementedError

    def forward(self, x: Any, stream: Stream | None = None) -> Any:
        v, start = (stream.read(self, x.shape[1:]), stream.step) if stream is not None else (None, 0)
        owned, goes_on = stream is not None and stream.owns_state, stream is not None and not stream.last
        if self.gate is not None and self.gate.skips:
            live, last = self.gate.live(len(x), start), self.gate.until(len(x), start)
            spikes, v = self._open_steps(x, v, live, last, goes_on)
        else:
            spikes, v = self.run(dense(x), v, in_place=owned, goes_on=goes_on)
            if self.gate is not None:
                spikes = self.gate(spikes, start)
        if stream is not None:
            stream.write(v)
            if stream.tokens is not None:
                spikes = stream.tokens.mask(spikes)
        return spikes

    def _open_steps(self, x: Any, v: Tensor | None, live: tuple[int, ...], last: int, goes_on: bool) -> Any:
        """Spikes at the steps `live` alone; the membrane moves during the first `last` ones."""
        currents = SomeSteps.first(x, last).at(range(last))
        if not last:
            return SomeSteps(currents, (), len(x)), currents.new_empty(currents.shape[1], 0) if v is None else v
        spikes, v = self.run(currents, v, goes_on=goes_on)
        if len(live) == len(x):
            return spikes, v
        return SomeSteps(spikes if len(live) == last else spikes[list(live)], live, len(x), computed=last), v

    def run(self, x: Tensor, v: Tensor | None = None, in_place: bool = False, goes_on: bool = True) -> Any:
        """Spikes (T, ...) and the membrane after the last step, from v before the first: see `lif`.

        Raises:
            ValueError: no floating-point tensor, or a membrane that is not of one of its steps.
        """
        if not (isinstance(x, Tensor) and x.is_floating_point() and x.dim()):
            given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else x
            raise wrong("x", given, "a floating point tensor of currents (T, …), time steps first")
        if v is not None and v.shape != x.shape[1:]:
            raise ValueError(f"v is {tuple(v.shape)}; it must be the membrane of a step of x, {tuple(x.shape[1:])}")
        return BACKENDS[self.backend](
            x,
            v,
            leak=self.leak,
            decay_input=self.decay_input,
            threshold=self.threshold,
            reset=self.reset,
            detach_reset=self.detach_reset,
            surrogate=self.surrogate,
            in_place=in_place,
            goes_on=goes_on,
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


class Rectifier(nn.Module):
    """max(0, x): no neuron, what stands in its place in the ANN twin of a network. No time, no threshold."""

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return torch.relu(x)


def _called(surrogate: Any) -> str:
    """The name that make_surrogate knows it by, as far as it can be told."""
    name = str(getattr(surrogate, "__name__", surrogate)).lower()
    return name if name in SURROGATES else "atan"


def _valid_tau(tau: float) -> float:
    """At 1 nothing of the membrane remains; for no leak there is IF."""
    return positive("tau", tau, above=1)
