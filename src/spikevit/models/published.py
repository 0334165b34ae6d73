"""Published accuracies of the configurations, as their papers print them; not measured here."""

from __future__ import annotations

import csv
from importlib import resources
from typing import NamedTuple


class Result(NamedTuple):
    """Top-1 accuracy in per cent on a data set; note: where the figure is from and what it was measured with."""

    data: str
    top1: float
    note: str


def published(name: str) -> list[Result]:
    """What is published for a registered model; nothing where it is not known."""
    with resources.files("spikevit.models").joinpath("published.csv").open(encoding="utf-8") as file:
        return [Result(r["data"], float(r["top1"]), r["note"]) for r in csv.DictReader(file) if r["model"] == name]
