"""From counts to energy, by every convention in use. A model of the hardware, not a measurement.

Each convention is a function from `Counts` to `Energy`, per image; `CONVENTIONS` lists them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from spikevit.profiling.constants import Constants, load_constants
from spikevit.profiling.counts import RATES, SHIFT, VALUES, Counts, Operand, OperatorCount
from spikevit.profiling.values import BINARY, INTEGER, POWER_OF_TWO, REAL, UNKNOWN, Values

FP32 = load_constants("fp32")


@dataclass(frozen=True)
class Energy:
    """Operations per image, and what they cost. other_pj: what else is charged, as data movement."""

    macs: float = 0.0
    acs: float = 0.0
    shifts: float = 0.0
    other_pj: float = 0.0
    constants: Constants = FP32

    @property
    def mj(self) -> float:
        """Millijoules."""
        c = self.constants
        return (c.mac * self.macs + c.add * self.acs + c.shift * self.shifts + self.other_pj) * 1e-9

    def __add__(self, other: Energy) -> Energy:
        return replace(
            self,
            macs=self.macs + other.macs,
            acs=self.acs + other.acs,
            shifts=self.shifts + other.shifts,
            other_pj=self.other_pj + other.other_pj,
        )

    def per(self, images: int) -> Energy:
        """Of one of `images` images."""
        return replace(
            self,
            macs=self.macs / images,
            acs=self.acs / images,
            shifts=self.shifts / images,
            other_pj=self.other_pj / images,
        )


def _total(parts, images: int, constants: Constants) -> Energy:
    return sum(parts, Energy(constants=constants)).per(images)


def paper(counts: Counts, constants: Constants = FP32, *, stem: str = "every step") -> Energy:
    """The convention of Spikformer, QKFormer, SDT and MSViT.

    E = 4.6 pJ · FLOPs(first convolution) + 0.9 pJ · Σ SOP over the other convolutions, linear maps and attention
    products; SOP = rate · T · FLOPs, rate being the layer's average firing rate: that of its operand, of an
    attention product's sparser one. FLOPs are dense multiply-accumulates, padding included. Batch norm is folded;
    neurons, memory and the head (`OperatorCount.head`) are free.

    Args:
        stem: "every step" charges convolutions of a still image T times, as published figures do; "once" as executed.
    """
    counts.need("paper", VALUES, RATES)
    return _total((paper_charge(c, counts, constants, stem=stem) for c in counts.operators), counts.images, constants)


def paper_charge(c: OperatorCount, counts: Counts, constants: Constants = FP32, *, stem: str = "every step") -> Energy:
    """What `paper` charges for one product of `counts`, for all of its images."""
    if c.head:
        return Energy(constants=constants)
    if c.stem:
        repeats = counts.time_steps if stem == "every step" and not counts.frames else 1
        return Energy(macs=c.macs * repeats, constants=constants)
    return Energy(acs=c.macs * min(c.rate(i) for i in range(len(c.operands))), constants=constants)


def exact(counts: Counts, constants: Constants = FP32, *, integers: str = "add") -> Energy:
    """Every accumulate that a non-zero operand causes, padding not counted, attention and head included.

    By class of operand, see `charge`; and a shift for each entry that is scaled by a power of two. What is
    executed is charged: a first convolution that all steps share, once.
    """
    counts.need("exact", VALUES)
    shifts = Energy(shifts=sum(o.elements for o in counts.elementwise if o.operator == SHIFT), constants=constants)
    parts = (charge(c, constants, integers=integers) for c in counts.operators)
    return _total((shifts, *parts), counts.images, constants)


def charge(c: OperatorCount, constants: Constants = FP32, *, integers: str = "add") -> Energy:
    """What one product executed: MACs, accumulates, shifts.

    A binary operand: one AC where all data operands are non-zero. A power-of-two code: the same, and a shift for each
    output. A sum of spikes, value k: k ACs, or with integers="multiply" one MAC. Real values only, and an image
    that is not binary: a MAC for every product in bounds.
    """
    kinds, tally = [operand.kind for operand in c.operands], c.tally
    names = [kind.name for kind in kinds]
    if BINARY in names or UNKNOWN in names:
        return Energy(acs=tally.active, constants=constants)
    if POWER_OF_TWO in names:
        return Energy(acs=tally.active, shifts=tally.outputs, constants=constants)
    grey = c.stem and len(names) == 1  # levels of an image are whole numbers, too, but nobody adds them up one by one
    if INTEGER in names and not grey:
        if integers == "multiply":
            return Energy(macs=tally.active, constants=constants)
        sums = [w / kind.unit for w, kind in zip(tally.weighted, kinds, strict=False) if kind.name == INTEGER]
        return Energy(acs=min(sums), constants=constants)
    return Energy(macs=tally.inbounds, constants=constants)


def syops(counts: Counts, constants: Constants = FP32) -> Energy:
    """As the syops-counter package (Chen et al., 2023) does it.

    Convolutions and linear maps with spikes as input: rate · dense FLOPs as ACs; with any other input: dense MACs.
    Functional matrix products count nothing. Batch norm counts, though it can be folded: two MACs an entry. One AC for
    each update of a neuron.
    """
    counts.need("syops", VALUES)
    parts = []
    for c in counts.operators:
        if len(c.operands) > 1 or not c.layer:
            continue
        spikes = c.operands[0].kind.name in (BINARY, UNKNOWN) and c.operands[0].kind.unit == 1.0
        parts.append(Energy(acs=c.macs * c.rate()) if spikes else Energy(macs=c.macs))
        parts.append(Energy(macs=2 * c.tally.outputs * c.folded_norm))
    parts += [Energy(macs=2 * other.elements) for other in counts.elementwise if other.operator == "batch norm"]
    parts.append(Energy(acs=sum(n.updates for n in counts.neurons)))
    return _total(parts, counts.images, constants)


def neurobench(counts: Counts, constants: Constants = FP32) -> Energy:
    """Effective MACs and ACs as NeuroBench defines them, where its definition sees the layer.

    Linear maps and convolutions (not functional products, not token mixing); inputs of −1, 0 and 1 make ACs, any other
    MACs; products of which an operand is zero, or that meet padding, do not count.
    """
    counts.need("neurobench", VALUES)
    parts = []
    for c in counts.operators:
        if len(c.operands) > 1 or not c.layer:
            continue
        kind = c.operands[0].kind
        spikes = kind.name == UNKNOWN or (abs(kind.unit) == 1.0 and kind.top == 1 and kind.name != REAL)
        parts.append(Energy(acs=c.tally.active) if spikes else Energy(macs=c.tally.active))
    return _total(parts, counts.images, constants)


def memory(counts: Counts, constants: Constants = FP32) -> Energy:
    """`exact`, and the data movement of an event-driven machine without reuse (after Lemaire et al., 2022).

    An accumulate fetches its weight, and fetches and stores a membrane potential; each spike is fetched once by each
    product it goes into. A MAC fetches its weight and its input, so that the input's entries are not charged again;
    each of its outputs is stored once. A neuron's update fetches and stores its membrane potential, and every spike is
    stored once. Widths and cost of an access are in the constants.
    """
    counts.need("memory", VALUES)
    word, spike = constants.access(constants.bits), constants.access(constants.spike_bits)
    parts = []
    for c in counts.operators:
        e = charge(c, constants)
        moved = e.acs * 3 * word
        moved += e.macs * 2 * word + c.tally.outputs * word if e.macs else sum(c.tally.nonzero) * spike
        parts.append(replace(e, other_pj=moved))
    for n in counts.neurons:
        parts.append(Energy(other_pj=n.updates * 2 * word + n.spikes * spike, constants=constants))
    return _total(parts, counts.images, constants)


CONVENTIONS: dict[str, Callable[[Counts, Constants], Energy]] = {
    "paper": paper,
    "paper, stem once": lambda counts, constants: paper(counts, constants, stem="once"),
    "exact": exact,
    "exact, integers multiplied": lambda counts, constants: exact(counts, constants, integers="multiply"),
    "syops": syops,
    "neurobench": neurobench,
    "memory": memory,
}


# --- from published rates, without a run ------------------------------------------------------------------------------


def with_rates(counts: Counts, rates: Mapping[str, float]) -> tuple[Counts, list[str]]:
    """Counts from shapes alone (`count_shapes`), as if each product's operand fired at a published rate: for `paper`.

    Args:
        rates: by module, shell patterns welcome ("stages.0.*.mlp.fc2"); of two data operands, the sparser one's.

    Returns:
        The counts, and the modules beside stem and head whose rate is missing: they are left out.
    """
    for pattern, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ValueError(f"rates[{pattern!r}]={rate!r} must be a share, 0 to 1")
        if not any(fnmatchcase(c.module, pattern) for c in counts.operators):
            raise ValueError(f"rates[{pattern!r}]: no module of the model is called that")
    known: list[OperatorCount] = []
    missing: list[str] = []
    for c in counts.operators:
        found = [rate for pattern, rate in rates.items() if fnmatchcase(c.module, pattern)]
        if c.stem:  # images are real values
            known.append(replace(c, operands=[Operand(Values(None), o.origin) for o in c.operands]))
        elif c.head:
            known.append(c)
        elif not found:
            missing.append(c.module)
        else:
            rate = found[0]
            t = c.tally
            fired = (round(t.size[0] * rate), round(t.size[1] * rate))
            known.append(replace(c, tally=replace(t, nonzero=fired)))
    return replace(counts, operators=known, known=RATES), list(dict.fromkeys(missing))
