"""One report of what a model costs: every product, every convention side by side, baselines, the spread over images."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from torch import Tensor, nn

from spikevit.profiling.constants import Constants, load_constants
from spikevit.profiling.conventions import (
    CONVENTIONS,
    Energy,
    _paper,
    break_even,
    charge,
    dense,
    matched_bits,
)
from spikevit.profiling.count import SHIFT, Counts, count, count_shapes
from spikevit.profiling.metrics import metrics

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
class Report:
    """What `profile` found.

    costs: by convention. baselines: the same network as an ANN, and as one with activations of as many bits as T steps
    carry. break_even: the firing rate at which the spiking network costs as much as each. metrics: NeuroBench's.
    """

    model: str
    counts: Counts
    constants: Constants
    costs: dict[str, Cost]
    baselines: dict[str, Energy]
    break_even: dict[str, float]
    metrics: dict[str, float]

    def layers(self) -> list[dict[str, Any]]:
        """One row for each product, then for scalings by powers of two, per image."""
        images, rows = self.counts.images, []
        for c in self.counts.operators:
            exact, paper = charge(c, self.constants).per(images), _paper(c, self.constants).per(images)
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

    def others(self) -> dict[str, float]:
        """Entries an image of operators that are no product, by operator, the most first."""
        kinds = Counter[str]()
        for other in self.counts.elementwise:
            kinds[other.operator] += other.elements
        return {name: n / self.counts.images for name, n in kinds.most_common()}

    def pays(self) -> list[str]:
        """Where spikes cost less than each baseline, in words: ["the ANN at any rate", …]."""
        return [
            f"the {name} at {'any rate' if rate >= 1 else 'no rate' if rate <= 0 else f'rates below {rate:.0%}'}"
            for name, rate in self.break_even.items()
            if not isnan(rate)  # there is a product behind the first convolution
        ] or ["no network without products"]

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
            "baselines": {name: {"mj": e.mj, "macs": e.macs} for name, e in self.baselines.items()},
            "break_even_rate": {name: None if isnan(rate) else rate for name, rate in self.break_even.items()},
            "neurobench": self.metrics,
            "layers": self.layers(),
            "neurons": [
                {"module": n.module, "updates": n.updates / counts.images, "rate": n.spikes / n.updates}
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
        return csv_of(rows)

    def __rich__(self):
        from spikevit.report.terminal import costs

        return costs(self)


def csv_of(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV; the keys of the first are the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys() if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _other(o: Any, images: int) -> dict[str, Any]:
    return {"module": o.module, "operator": o.operator, "entries": o.elements / images, "remark": o.remark}


def profile(
    model: nn.Module, images: Tensor | Iterable[Any], *, constants: str | Path | Constants = "fp32", name: str = ""
) -> Report:
    """Runs the model over images and reports what they cost, by every convention.

    Args:
        model: ours or any other; in the mode it is in. Fresh weights are silent in evaluation: train them, or
            see `calibrate`.
        images: one batch (B, ...), or an iterable of batches: tensors, or tuples of all arguments of the model.
        constants: "fp32", "fp16", "int8", a YAML file, or Constants: energy of one operation.
        name: shown as the model's.

    The spread over images is the standard deviation of batches of one image; of batches of b images, that of their
    means times √b.
    """
    return report(count(model, images), model, load_constants(constants), name)


def report(counts: Counts, model: nn.Module, constants: Constants, name: str = "") -> Report:
    """The report on counts that were made before."""
    twin: Any = getattr(model, "dense_twin", lambda: model)()
    shapes = counts if twin is model else count_shapes(twin)
    baselines = {
        "ANN": dense(shapes, constants),
        f"ANN, {(bits := _bits(model, counts))}-bit activations": dense(shapes, constants, bits=bits),
    }
    return Report(
        model=name or getattr(model, "name", None) or type(model).__name__,
        counts=counts,
        constants=constants,
        costs={
            key: Cost(convention(counts, constants), _spread(counts, convention, constants))
            for key, convention in CONVENTIONS.items()
        },
        baselines=baselines,
        break_even={key: break_even(counts, e) for key, e in baselines.items()},
        metrics=metrics(model, counts),
    )


def _bits(model: nn.Module, counts: Counts) -> int:
    return getattr(model, "activation_bits", None) or matched_bits(counts.time_steps)


def _spread(counts: Counts, convention, constants: Constants) -> float | None:
    batches = list(counts.per_batch())
    sizes = [batch.images for batch in batches]
    if len(batches) < 2:
        return None
    return stdev(convention(batch, constants).mj for batch in batches) * sqrt(fmean(sizes))
