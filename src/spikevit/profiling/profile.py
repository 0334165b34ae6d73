"""One report of what a model costs: every product, every convention side by side, baselines, the spread over images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from torch import Tensor, nn

from spikevit.adaptive.adapted import own_name
from spikevit.files import csv_text
from spikevit.models.running import batches_of, unwrapped, zoo_model
from spikevit.profiling.baselines import dense, dense_memory, headroom, matched_bits
from spikevit.profiling.constants import Constants, load_constants
from spikevit.profiling.conventions import CONVENTIONS, Energy, charge, paper_charge
from spikevit.profiling.count import count
from spikevit.profiling.counts import SHIFT, Counts
from spikevit.profiling.metrics import metrics
from spikevit.profiling.twin import without_spikes

NOTE = "model, not measurement"


def energy_unit(energies: Iterable[float]) -> tuple[float, str]:
    """A unit in which energies in mJ read well: µJ where all are below 0.1 mJ, and how many of it are a mJ."""
    return (1e3, "µJ") if all(mj < 0.1 for mj in energies) else (1.0, "mJ")


@dataclass(frozen=True)
class Cost:
    """Energy per image by one convention; spread: standard deviation over images, None where it is not known."""

    energy: Energy
    spread: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        e = self.energy
        return {"mj": e.mj, "mj_spread": self.spread, "macs": e.macs, "acs": e.acs, "shifts": e.shifts}


@dataclass(frozen=True)
class Baseline:
    """The same network as an ANN, of one image: energy of its products, and with data movement (`memory`).

    headroom: how many times as active the spiking network's operands could be until it costs as much; None where
    zeros are skipped on both sides.
    """

    energy: Energy
    memory: Energy
    headroom: float | None = None


@dataclass(frozen=True)
class Report:
    """What `profile` found.

    costs: by convention. baselines: the same network as an ANN, as one with activations of as many bits as T steps
    carry, and each of them with its zeros skipped, where they are known. metrics: NeuroBench's.
    """

    model: str
    counts: Counts
    constants: Constants
    costs: dict[str, Cost]
    baselines: dict[str, Baseline]
    metrics: dict[str, float]

    def opponents(self) -> list[dict[str, Any]]:
        """The baselines, and how many times their energy spikes cost (`exact`), with data movement too (`memory`).

        activity: how many times as active operands could be at equal cost. firing_rate: the neurons' rate there, None
        where they would have to fire more than always, or never fired.
        """
        exact, moved = self.costs["exact"].energy.mj, self.costs["memory"].energy.mj
        rows = []
        for name, b in self.baselines.items():
            activity = b.headroom if b.headroom is not None and isfinite(b.headroom) else None
            rate = activity * self.counts.firing_rate if activity is not None else None
            rows.append(
                {
                    "name": name,
                    "mj": b.energy.mj,
                    "macs": b.energy.macs,
                    "acs": b.energy.acs,
                    "memory_mj": b.memory.mj,
                    "ratio": exact / b.energy.mj if b.energy.mj else None,
                    "memory_ratio": moved / b.memory.mj if b.memory.mj else None,
                    "activity": activity,
                    "firing_rate": rate if rate is not None and 0 < rate <= 1 else None,
                }
            )
        return rows

    @property
    def fairest(self) -> str:
        """The baseline that costs least."""
        return min(self.baselines, key=lambda name: self.baselines[name].energy.mj)

    def layers(self) -> list[dict[str, Any]]:
        """One row for each product, then for scalings by powers of two, per image; exact_mj and paper_mj add up."""
        images, rows = self.counts.images, []
        for c in self.counts.operators:
            exact = charge(c, self.constants).per(images)
            paper = paper_charge(c, self.counts, self.constants).per(images)
            rows.append(
                {
                    "module": c.module,
                    "operator": c.operator,
                    "operands": [
                        {
                            "class": operand.kind.name,
                            "unit": operand.kind.unit,
                            "top": operand.kind.top,
                            "rate": c.rate(i),
                            "made_by": operand.origin.operator,
                        }
                        for i, operand in enumerate(c.operands)
                    ],
                    "dense": c.macs / images,
                    "in_bounds": c.tally.inbounds / images,
                    "macs": exact.macs,
                    "acs": exact.acs,
                    "shifts": exact.shifts,
                    "exact_mj": exact.mj,
                    "paper_mj": paper.mj,
                }
            )
        for other in self.counts.elementwise:
            if other.operator == SHIFT:
                shifts = other.elements / images
                row = dict.fromkeys(("dense", "in_bounds", "macs", "acs"), 0.0)
                energy = Energy(shifts=shifts, constants=self.constants).mj
                row |= {"shifts": shifts, "exact_mj": energy, "paper_mj": 0.0}
                rows.append({"module": other.module, "operator": SHIFT, "operands": [], **row})
        return rows

    def attention_rates(self) -> dict[str, dict[str, float]]:
        """Firing rates of q, k, v, … of every mixer whose neurons give them in one call, by the mixer's own name."""
        return {
            own_name(n.module).removesuffix(".proj_in.lif"): {name: part.rate for name, part in n.parts.items()}
            for n in self.counts.neurons
            if n.parts
        }

    def others(self) -> dict[str, float]:
        """Entries an image of operators that are no product, by operator, the most first."""
        kinds = Counter[str]()
        for other in self.counts.elementwise:
            kinds[other.operator] += other.elements
        return {name: n / self.counts.images for name, n in kinds.most_common()}

    def break_even(self) -> list[str]:
        """At which activity spikes cost as much as each baseline, in words, where that can be said: of no network of
        which layers are silent.
        """
        counts, lines = self.counts, []
        if counts.silence:
            return []
        for row in self.opponents():
            if not (f := row["activity"]):
                continue
            said = f"At {f:.2g} × this activity"
            if (rate := row["firing_rate"]) is not None:
                said += f", a firing rate of {rate:.1%},"
            elif counts.firing_rate:
                continue  # more than all neurons at all steps
            lines.append(f"{said} they would cost as much as the {row['name']}.")
        return lines

    def activity(self) -> str:
        """How much fires and how much of the work that leaves, in words."""
        said = f"Neurons fire at {self.counts.firing_rate:.1%} of all steps; " if self.counts.firing_rate else ""
        return f"{said}{self.counts.activity:.1%} of the products behind the first convolution have no zero factor."

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        counts = self.counts
        return {
            "model": self.model,
            "note": NOTE,
            "images": counts.images,
            "time_steps": counts.time_steps,
            "constants": self.constants.to_dict(),
            "conventions": {name: cost.to_dict() for name, cost in self.costs.items()},
            "firing_rate": counts.firing_rate,
            "activity": counts.activity,
            "silence": counts.silence,
            "baselines": {row.pop("name"): row for row in self.opponents()},
            "neurobench": self.metrics,
            "layers": self.layers(),
            "neurons": [
                {
                    "module": n.module,
                    "updates": n.updates / counts.images,
                    "rate": n.rate,
                    "parts": {name: part.rate for name, part in n.parts.items()},
                }
                for n in counts.neurons
            ],
            "uncharged": [_other(o, counts.images) for o in counts.elementwise],
            "uncounted": [_other(o, counts.images) for o in counts.uncounted],
        }

    def to_csv(self) -> str:
        """The layers as a table."""
        rows = []
        for layer in self.layers():
            operands = layer.pop("operands")
            for key in ("class", "rate"):
                layer[f"operand_{key}"] = " × ".join(
                    f"{o[key]:.6g}" if key == "rate" else str(o[key]) for o in operands
                )
            rows.append(layer)
        return csv_text(rows)

    def __rich__(self):
        from spikevit.report.terminal import costs

        return costs(self)


def _other(o: Any, images: int) -> dict[str, Any]:
    return {"module": o.module, "operator": o.operator, "entries": o.elements / images, "remark": o.remark}


def profile(
    model: nn.Module, images: Tensor | Iterable[Any], *, constants: str | Path | Constants = "fp32", name: str = ""
) -> Report:
    """Runs the model over images and reports what they cost, by every convention, beside the same network as an ANN.

    Args:
        model: ours or any other, wrapped or not; it runs in evaluation mode. Fresh weights are silent there, and the
            report says so: train them, or see `calibrate`.
        images: one batch, or batches, as in `count`.
        constants: "fp32", "fp16", "int8", a YAML file, or Constants: energy of one operation.
        name: shown as the model's.

    The spread over images is the standard deviation of batches of one image; of batches of b images, that of their
    means times √b.
    """
    constants = load_constants(constants)
    model = unwrapped(model)
    traits = zoo_model(model) or model
    batches = list(batches_of(images))
    counts = count(model, batches)
    with without_spikes(model) as ann:
        twin = counts if ann is model else count(ann, batches)
    bits = getattr(traits, "activation_bits", None) or matched_bits(counts.time_steps)
    baselines = {}
    for called, width in (("ANN", None), (f"{bits}-bit ANN", bits)):
        energy = dense(twin, constants, bits=width)
        moved = dense_memory(twin, constants, bits=width)
        baselines[called] = Baseline(energy, moved, headroom(counts, energy))
        if twin.one_pass:
            energy = dense(twin, constants, bits=width, skip_zeros=True)
            moved = dense_memory(twin, constants, bits=width, skip_zeros=True)
            baselines[f"{called}, zeros skipped"] = Baseline(energy, moved)
    return Report(
        model=name or getattr(traits, "name", None) or type(model).__name__,
        counts=counts,
        constants=constants,
        costs={
            key: Cost(convention(counts, constants), _spread(counts, convention, constants))
            for key, convention in CONVENTIONS.items()
        },
        baselines=baselines,
        metrics=metrics(model, counts),
    )


def _spread(counts: Counts, convention, constants: Constants) -> float | None:
    batches = list(counts.per_batch())
    sizes = [batch.images for batch in batches]
    if len(batches) < 2:
        return None
    return stdev(convention(batch, constants).mj for batch in batches) * sqrt(fmean(sizes))
