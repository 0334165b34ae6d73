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
from spikevit.profiling.health import at_chance
from spikevit.profiling.profile import energy_unit
from spikevit.report.look import Look
from spikevit.report.run_files import Results, Run

NONE = "–"
CHOSEN = "the data set has no test images, and the best epoch was chosen on these"


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
    def results(self) -> Results | None:
        """Of results.json, where they are of the model that is shown, and not of what it was converted from.

        Those of earlier versions do not say of which: they are, unless what was looked at contradicts them.
        """
        found = self.run.results if self.run.certificate is None else None
        return None if found and found.checkpoint is None and self.contradiction else found

    @property
    def contradiction(self) -> str:
        """That all images were looked at, and others are right than results.json says; "" where it is not so."""
        found, look = self.run.results, self.look
        if found is None or look is None or self.run.certificate is not None:
            return ""
        if (found.split, found.total) != (look.split, look.total) or found.right == look.right:
            return ""
        return (
            f"results.json is not shown: it is of another model. It says {found.right:,} of {found.total:,} "
            f"{found.split} images right, of this model {look.right:,} are."
        )

    @property
    def score(self) -> tuple[int, int, str] | None:
        """Right, total, and in words which images that are: of results.json, or else of those looked at."""
        if results := self.results:
            return results.right, results.total, f"{results.total:,} {images_of(results.split)}"
        if look := self.look:
            first = f"first {look.total:,} of " if look.total < look.of else ""
            return look.right, look.total, f"{first}{look.of:,} {images_of(look.split)}"
        return None

    @property
    def silence(self) -> str:
        """Which layers never fired, in words; "" where all did, or nothing is known."""
        return self.look.silence if self.look else self.results.silence if self.results else ""

    @property
    def luck(self) -> str:
        """That its accuracy is at chance, in words; "" where it is above, or nothing is known."""
        found = self.results.chance if self.results else None
        chance = self.look.chance if found is None and self.look else found
        return at_chance(*self.score[:2], chance) if self.score and chance is not None else ""

    @property
    def sound(self) -> bool:
        """Whether its cost means anything: all layers fire, and accuracy is above chance."""
        return not (self.silence or self.luck)

    @property
    def fairest(self) -> tuple[str, float] | None:
        """The opponent that costs least, and how many times its energy spikes cost; None where that says nothing."""
        if self.look is None or not self.sound:
            return None
        costs = self.look.costs
        most = costs.baselines[costs.fairest].energy.mj
        return (costs.fairest, costs.costs["exact"].energy.mj / most) if most else None

    @property
    def energies(self) -> dict[str, float]:
        """In mJ an image, by convention, then by baseline; {} where it could not be run."""
        if self.look is None:
            return {}
        costs = self.look.costs
        return {name: found.energy.mj for name, found in (costs.costs | costs.baselines).items()}


def images_of(split: str) -> str:
    """Images of a split, in words."""
    return f"validation images; {CHOSEN}" if split == "val" else f"{split} images"


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
    return Markup(resources.files("spikevit.report").joinpath(f"page/{name}").read_text(encoding="utf-8"))


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, 0 … 1 (Wilson, 1927): (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)."""
    z, p = 1.959964, right / total
    centre, half = p + z * z / (2 * total), z * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (centre - half) / (1 + z * z / total), (centre + half) / (1 + z * z / total)


def told_apart(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two shares (right, total) differ: zero is outside the 95 % interval of p_a − p_b (Newcombe, 1998).

    That is (p_a − p_b) ± √((p − l)² + (u − p')²), from Wilson's l … u of each. Images of both are taken as
    independent, which is careful where they are the same ones.
    """
    low, high = sorted((a, b), key=lambda one: one[0] / one[1])
    p, q = low[0] / low[1], high[0] / high[1]
    return q - p > sqrt((q - wilson(*high)[0]) ** 2 + (wilson(*low)[1] - p) ** 2)


def unit_of(runs: Sequence[Shown]) -> tuple[float, str]:
    """The unit that suits the energies of all of them: see `energy_unit`."""
    return energy_unit(shown.look.costs.baselines["ANN"].energy.mj for shown in runs if shown.look)
