"""What all sections share: a run with its model and what was seen of it, templates, and words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from math import sqrt
from typing import Any

from markupsafe import Markup

from spikevit.adaptive import DynamicTimeSteps
from spikevit.models import SpikingModel
from spikevit.report.look import Look
from spikevit.report.run_files import Run

NONE = "–"


@dataclass(frozen=True)
class Shown:
    """A run with its model, and what was seen of it; `look` is None where it could not be run, for the reason `why`."""

    run: Run
    model: SpikingModel
    look: Look | None
    why: str = ""

    @property
    def name(self) -> str:
        """Of the run, as it was given."""
        return self.run.name

    @property
    def steps(self) -> DynamicTimeSteps | None:
        """Its allocated time steps."""
        return next((m for m in self.model.modules() if isinstance(m, DynamicTimeSteps)), None)

    @cached_property
    def score(self) -> tuple[int, int, str] | None:
        """Right, total, split: of results.json, where it is of this model; else of what was looked at."""
        results, converted = self.run.results, self.run.certificate is not None
        if results and not converted:
            return results["right"], results["total"], results["split"]
        return (self.look.right, self.look.total, self.look.split) if self.look else None


def render(template: str, **values: Any) -> Markup:
    """A template of page/, every value escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("spikevit.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return Markup(pages.get_template(template).render(**values))


def asset(name: str) -> Markup:
    """A file of page/ as it is."""
    return Markup(resources.files("spikevit.report").joinpath(f"page/{name}").read_text())


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, 0 … 1 (Wilson, 1927): (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)."""
    z, p = 1.959964, right / total
    centre, half = p + z * z / (2 * total), z * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (centre - half) / (1 + z * z / total), (centre + half) / (1 + z * z / total)


def short(name: str) -> str:
    """A module's name without the models that were put around its own."""
    while name.startswith("model."):
        name = name.removeprefix("model.")
    return name


def unit_of(runs: list[Shown]) -> tuple[float, str]:
    """µJ where all of them are small, else mJ, and how many of it are a mJ."""
    looks = [shown.look for shown in runs if shown.look]
    return (1e3, "µJ") if all(look.costs.baselines["ANN"].mj < 0.1 for look in looks) else (1.0, "mJ")
