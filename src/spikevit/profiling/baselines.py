"""The same network without spikes: what it would cost as an ANN, and when it costs as much as spikes do.

Functions from counts to energy, as the conventions are. Which network is counted for it: `twin.without_spikes`.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, inf, log2, sqrt

from spikevit.profiling.constants import Constants
from spikevit.profiling.conventions import FP32, Energy, charge, exact
from spikevit.profiling.counts import VALUES, Counts, OperatorCount


def dense(counts: Counts, constants: Constants = FP32, *, bits: int | None = None, skip_zeros: bool = False) -> Energy:
    """The same network as an ANN: every product in bounds once, not at T steps, as a MAC.

    Args:
        bits: of its activations behind the first convolution; None: full width. Fewer bits make fewer partial products
            in the multiplier (`Constants.narrow`); T steps of spikes carry as much as ⌈log2(T + 1)⌉ bits.
        skip_zeros: products behind the first convolution with a factor of zero are left out, as spikes leave them out.
            An activation is zero where the spiking network's is at every time step.

    Raises:
        ValueError: skip_zeros with counts of shapes alone, or of a network whose time steps are not known.
    """
    stem, others = _products(counts, skip_zeros)
    if bits is None:
        return Energy(macs=stem + others, constants=constants)
    return Energy(macs=stem, acs=others, other_pj=others * constants.narrow(bits), constants=constants)


def dense_memory(
    counts: Counts, constants: Constants = FP32, *, bits: int | None = None, skip_zeros: bool = False
) -> Energy:
    """`dense`, and the data movement that `memory` charges for MACs.

    Each product fetches its weight and its activation, of `bits` bits behind the first convolution, and each output of
    the one pass is stored once.
    """
    e = dense(counts, constants, bits=bits, skip_zeros=skip_zeros)
    stem, others = _products(counts, skip_zeros)
    word, activation = constants.access(constants.bits), constants.access(bits or constants.bits)
    outputs = sum(c.tally.outputs / _passes(c, counts) for c in counts.operators) / counts.images
    return replace(e, other_pj=e.other_pj + (stem + others + outputs) * word + stem * word + others * activation)


def _passes(c: OperatorCount, counts: Counts) -> int:
    """How many times as often the product ran as in one pass: T, but for a first convolution that is shared."""
    return counts.time_steps if counts.frames or not c.stem else 1


def _products(counts: Counts, skip_zeros: bool = False) -> tuple[float, float]:
    """Products of one pass, per image: of the first convolutions, and all others."""
    if skip_zeros:
        counts.need("skip_zeros", VALUES)
        if not counts.one_pass:
            raise ValueError(
                "skip_zeros needs to know which activations are zero at every time step, and this network's time steps "
                "are not known to the counter"
            )
    stem = sum(c.tally.inbounds / _passes(c, counts) for c in counts.operators if c.stem)
    behind = [c for c in counts.operators if not c.stem]
    others = sum(c.tally.once if skip_zeros else c.tally.inbounds / _passes(c, counts) for c in behind)
    return stem / counts.images, others / counts.images


def matched_bits(time_steps: int) -> int:
    """Bits of an activation that carry what T steps of spikes do."""
    return ceil(log2(time_steps + 1))


def headroom(counts: Counts, baseline: Energy) -> float:
    """How many times as active all operands could be until the spiking network costs what `baseline` does (`exact`).

    Were every operand f times as often non-zero, products with weights would cost f times as many accumulates, and
    products of two activations f². The rest F (first convolution, products of real values, shifts) stays:

        F + f·A + f²·B = baseline

    A and B are those of this network's own operands, sums of spikes included. Below 1 it costs more than the baseline
    already; 0 where F alone does; ∞ where there is no accumulate.
    """
    c = baseline.constants
    spent = exact(counts, c)
    pairs = sum(charge(o, c).acs for o in counts.operators if len(o.operands) > 1) / counts.images * c.add
    single = spent.acs * c.add - pairs
    left = baseline.mj * 1e9 - (spent.mj * 1e9 - single - pairs)
    if left <= 0:
        return 0.0
    if not pairs:
        return left / single if single else inf
    return (sqrt(single**2 + 4 * pairs * left) - single) / (2 * pairs)
