"""Time-step masks: at which time steps the spikes of a layer pass, learnt or fixed.

Reconstruction after Datta et al., "Spiking Neural Networks with Dynamic Time Steps for Vision Transformers"
(arXiv 2311.16456), of which the abstract was available.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.errors import unknown
from spikevit.neurons.some_steps import SomeSteps
from spikevit.neurons.state import Stream

PATTERNS = ("prefix", "free")


class _Open(torch.autograd.Function):
    """[p > 1/2]; straight through: its gradient is p's."""

    @staticmethod
    def forward(ctx, p: Tensor) -> Tensor:
        return (p > 0.5).to(p.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def time_mask(scores: Tensor, pattern: str = "prefix", soft: bool = False) -> Tensor:
    """Mask m (T,) of scores a (T,).

        b_t = [σ(a_t) > 1/2]        backward: ∂b_t/∂a_t = σ'(a_t), straight through
        m_t = b_t                   free
        m_t = Π_{s ≤ t} b_s         prefix: the first steps up to the first closed one

    With `soft`, b_t = σ(a_t).
    """
    if pattern not in PATTERNS:
        raise unknown("pattern", pattern, PATTERNS)
    p = scores.sigmoid()
    b = p if soft else _Open.apply(p)
    return b.cumprod(0) if pattern == "prefix" else b


class TimeGate(nn.Module):
    """S_t ← m_t · S_t for spikes S (T, ...), with m of `time_mask`. Membranes are not masked.

    scores: a (T,), learnt. With `fixed`, a mask of T bits, there are none; then, in evaluation, what the mask makes
    superfluous is not computed (`SomeSteps`): spikes of closed steps, and currents behind the last open one.
    """

    def __init__(self, scores: Tensor | None = None, *, pattern: str = "prefix", fixed: Sequence[Any] | None = None):
        super().__init__()
        self.pattern = pattern
        self.scores = nn.Parameter(scores) if scores is not None else None
        self.fixed = tuple(map(bool, fixed)) if fixed is not None else None

    def mask(self) -> Tensor:
        """m (T,), with its gradient."""
        if self.scores is None:
            return torch.tensor(self.fixed, dtype=torch.get_default_dtype())
        return time_mask(self.scores, self.pattern)

    @property
    def open(self) -> tuple[bool, ...]:
        """m as T bits."""
        if self.fixed is not None:
            return self.fixed
        return tuple((self.mask().detach() > 0).tolist())

    @property
    def skips(self) -> bool:
        """Whether closed steps are left out, rather than multiplied by 0."""
        return self.fixed is not None and not self.training

    def forward(self, spikes: Tensor, start: int = 0) -> Tensor:
        self._check(start + len(spikes))
        mask = self.mask().to(spikes)[start : start + len(spikes)]
        return spikes * mask.view(-1, *(1,) * (spikes.dim() - 1))

    def live(self, steps: int, start: int = 0) -> tuple[int, ...]:
        """The open ones of `steps` steps from `start`, counted from there."""
        self._check(start + steps)
        return tuple(t for t, passes in enumerate(self.open[start : start + steps]) if passes)

    def until(self, steps: int, start: int = 0) -> int:
        """How many of them the membrane must be computed for: up to the last open step of all, not of these."""
        last = max((t + 1 for t, passes in enumerate(self.open) if passes), default=0)
        return min(steps, max(0, last - start))

    def _check(self, steps: int) -> None:
        allocated = len(self.fixed if self.scores is None else self.scores)  # type: ignore[arg-type]
        if steps > allocated:
            raise ValueError(f"time steps were allocated for {allocated} steps; this run has at least {steps}")

    def extra_repr(self) -> str:
        return f"{''.join(str(int(bit)) for bit in self.open)}, {'fixed' if self.fixed else self.pattern}"


def needed(neuron: nn.Module, x: Any, stream: Stream | None = None) -> Any:
    """x (T, ...) without the steps behind the last one at which `neuron` may fire: what it receives is not used."""
    gate: TimeGate | None = getattr(neuron, "gate", None)
    if gate is None or not gate.skips:
        return x
    last = gate.until(len(x), stream.step if stream is not None else 0)
    return SomeSteps.first(x, last) if last < len(x) else x
