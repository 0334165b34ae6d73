"""Published energies, as data (published.yaml): what papers print for our configurations, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from spikevit.files import parse_yaml
from spikevit.schema import Checked, read


@dataclass(frozen=True)
class PublishedEnergy(Checked):
    """One printed figure; the fields are those of published.yaml. None: not published."""

    model: str
    mj: float
    convention: str
    source: str
    config: Mapping[str, Any] = field(default_factory=dict)
    gsop: float | None = None
    stem_gmac: float | None = None
    stem_of: str | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)


@cache
def published_energies() -> tuple[PublishedEnergy, ...]:
    """All of them."""
    text = resources.files("spikevit.profiling").joinpath("published.yaml").read_text(encoding="utf-8")
    return tuple(read(PublishedEnergy, entry, "published.yaml") for entry in parse_yaml(text, "published.yaml"))


def published_energy(name: str) -> PublishedEnergy | None:
    """What is printed for a registered model: of its own configuration if there is such a figure, or of another."""
    found = [entry for entry in published_energies() if entry.model == name]
    return min(found, key=lambda entry: len(entry.config), default=None)
