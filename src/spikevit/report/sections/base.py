"""What all sections share: a run with its model and what was seen of it, templates, and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from math import sqrt
from pathlib import Path
from typing import Any

from markupsafe import Markup

from spikevit.adaptive import DynamicTimeSteps
from spikevit.models import SpikingModel
from spikevit.report.look import Look
from spikevit.report.run_files import Run

NONE = "–"


@dataclass(frozen=True)
class Shown:
    """A run with its model, and what was seen of it; `look` is None where it could not be run, for the reason `why`.

    name: what it is called on the page.
    """

    run: Run
    model: SpikingModel
    look: Look | None
    why: str = ""
    name: str = ""

    @property
    def steps(self) -> DynamicTimeSteps | None:
        """Its allocated time steps."""
        return next((m for m in self.model.modules() if isinstance(m, DynamicTimeSteps)), None)

    @property
    def results(self) -> dict[str, Any]:
        """Of results.json, where they are of the model that is shown, and not of what it was converted from."""
        return self.run.results if self.run.certificate is None else {}

    @property
    def score(self) -> tuple[int, int, str] | None:
        """Right, total, which images: of results.json, or else of those looked at."""
        if results := self.results:
            return results["right"], results["total"], _images_of(results["split"])
        if look := self.look:
            few = f"first {look.total:,} of {look.of:,} " if look.total < look.of else ""
            return look.right, look.total, few + _images_of(look.split)
        return None


def _images_of(split: str) -> str:
    return "validation images; the data set has no test images" if split == "val" else f"{split} images"


def labels(names: Sequence[str]) -> list[str]:
    """Names that fit a chart: the last parts of paths, as many as tell them apart, numbered where they are the same."""
    parts = [Path(name).parts for name in names]
    depth = next((n for n in range(1, 9) if len({p[-n:] for p in parts}) == len({*parts})), 9)
    short = ["/".join(p[-depth:]) for p in parts]
    return [f"{name} ({short[:i].count(name) + 1})" if name in short[:i] else name for i, name in enumerate(short)]


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
