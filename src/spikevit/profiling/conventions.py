"""From counts to energy, by the rules that papers apply. A model of the hardware, not a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spikevit.profiling.count import OperatorCount

# 45 nm, 32-bit floating point (Horowitz, ISSCC 2014): an addition 0.9 pJ, a multiplication 3.7 pJ.
AC_PJ = 0.9
MAC_PJ = 4.6


@dataclass(frozen=True)
class Energy:
    """Per image. macs: real-valued multiply-accumulates, of the first convolution; sops: synaptic operations."""

    macs: float
    sops: float

    @property
    def mj(self) -> float:
        """Millijoules: 4.6 pJ · MAC + 0.9 pJ · SOP."""
        return (MAC_PJ * self.macs + AC_PJ * self.sops) * 1e-9


def dense(counts: Sequence[OperatorCount], images: int, time_steps: int) -> Energy:
    """The same network as an ANN: every operation once, as a multiply-accumulate on real values.

    Everything but the first convolution was executed at each of `time_steps` steps.
    """
    first, *others = counts
    return Energy(macs=(first.macs + sum(c.macs for c in others) / time_steps) / images, sops=0.0)


def paper(counts: Sequence[OperatorCount], images: int, *, stem_repeats: int = 1, head: str = "head") -> Energy:
    """The convention of Spikformer, QKFormer and others.

    E = 4.6 pJ · FLOPs(first convolution) + 0.9 pJ · Σ SOP over the other convolutions, linear maps and attention
    products; SOP = rate · T · FLOPs, rate being the layer's average firing rate: that of its operand, of an
    attention product's sparser one. FLOPs are dense multiply-accumulates, padding included. Batch norm is folded;
    neurons, memory and the head are free.

    Args:
        counts: of a run over `images` images.
        stem_repeats: T where the first convolution was executed once for all steps and is to be charged at each,
            as the published figures do; 1 charges what was executed.
    """
    first, *others = (c for c in counts if c.module.split(".")[0] != head)
    sops = sum(c.macs * min(operand.rate for operand in c.operands) for c in others)
    return Energy(macs=first.macs * stem_repeats / images, sops=sops / images)
