"""What a run left behind, read for a report: which model, how it was trained, its certificate. Runs nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from spikevit.checkpoint import load_model, read_about
from spikevit.conversion.certificate import Certificate, is_of, load_certificate
from spikevit.training.rows import read_rows

FINAL = ("final.safetensors", "best.safetensors", "last.safetensors")  # the first there is, is the model of a run


@dataclass(frozen=True)
class Run:
    """A run, or a checkpoint by itself. checkpoint: the model to show, the spiking one where it was converted.

    about: what the checkpoint says of itself. recipe: its text, settings: what it says. epochs, rates: rows of
    metrics.csv and spikes.csv. results: of results.json, {} where the run has not ended. stages: results of runs
    inside, by directory. missing: what is not there, and why, by part.
    """

    name: str
    checkpoint: Path
    about: dict[str, Any]
    recipe: str
    settings: dict[str, Any]
    epochs: list[dict[str, float]] = field(default_factory=list)
    rates: list[dict[str, str]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    certificate: Certificate | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Name of the data set, "" where the checkpoint does not say."""
        return self.about.get("data", {}).get("name", "")

    @property
    def task(self) -> str:
        """The data set in words, as far as accuracies on it may be compared: "digits, 10 classes, 16 × 16"."""
        about = self.about.get("data", {})
        size = " × ".join(map(str, about.get("image_size", ())))
        classes = about.get("classes", ())
        named = f" ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''})" if classes else ""
        return f"{self.data}, {len(classes)} classes{named}, {size} pixels" if about else "unknown data"


def read_run(path: str | Path) -> Run:
    """The run in a directory, or a checkpoint with what lies beside it.

    Raises:
        ValueError: no such path, not the directory of a run, no epoch has ended in it, or a file in it is broken: each
            says which, and what to do.
    """
    path = Path(path)
    if path.suffix == ".safetensors" or path.is_file():
        return _read(path, path.parent, str(path), whole=False)
    if not path.is_dir():
        raise ValueError(f"there is no run {path}: give the directory of a run, or a .safetensors checkpoint")
    if not (path / "recipe.yaml").is_file():
        raise ValueError(f"{path} is not the directory of a run: there is no recipe.yaml in it")
    checkpoint = next((path / name for name in FINAL if (path / name).is_file()), None)
    if checkpoint is None:
        raise ValueError(
            f"no epoch of {path} has ended, there is nothing to report yet; go on with: spikevit train --resume {path}"
        )
    return _read(checkpoint, path, str(path), whole=True)


def _read(checkpoint: Path, directory: Path, name: str, whole: bool) -> Run:
    """Of a `whole` run, or of the checkpoint alone."""
    about = read_about(checkpoint)
    certificate, spiking = _conversion(directory, None if whole else checkpoint)
    missing: dict[str, str] = {}
    results = _json(directory / "results.json") if whole else {}
    if whole and not results:
        missing["results"] = f"This run has not ended: go on with spikevit train --resume {directory}"
    epochs = _numbers(directory / "metrics.csv") if whole else []
    if not epochs:
        missing["curves"] = "There is no metrics.csv" + ("." if whole else ": this is a checkpoint by itself.")
    rates = _rates(directory / "spikes.csv") if whole else []
    if not rates:
        missing["rates"] = "There is no spikes.csv: firing rates were not recorded during training."
    if certificate is None:
        missing["conversion"] = (
            "This network was not converted. A network of staircases is turned into spikes, with a certificate, by "
            "spikevit convert; others are trained as spikes from the start."
        )
    recipe = (directory / "recipe.yaml").read_text() if whole else about.get("recipe", "")
    inside: list[Path] = []
    if spiking is not None:  # it may come from a run inside: its epoch and recipe are not those of this one
        checkpoint, about = spiking, {"data": about.get("data", {})} | read_about(spiking)
        recipe = about.get("recipe", recipe)
        inside = sorted(p.parent for p in directory.glob("*/recipe.yaml") if (p.parent / "results.json").is_file())
    return Run(
        name=name,
        checkpoint=checkpoint,
        about=about,
        recipe=recipe,
        settings=_settings(recipe, directory / "recipe.yaml" if whole else checkpoint),
        epochs=epochs,
        rates=rates,
        results=results,
        stages={stage.name: _json(stage / "results.json") for stage in inside},
        certificate=certificate,
        missing=missing,
    )


def _conversion(directory: Path, checkpoint: Path | None) -> tuple[Certificate | None, Path | None]:
    """The newest certificate in the directory, or the newest of this checkpoint, and its spiking model beside it."""
    for path in sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            certificate = load_certificate(path)
        except ValueError:
            if path.name.endswith("certificate.json"):
                raise
            continue  # another file of JSON
        reference, spiking = (directory / Path(certificate.files.get(key, "")).name for key in ("reference", "spiking"))
        if spiking.suffix != ".safetensors" or not spiking.is_file():
            continue
        if checkpoint is None or checkpoint.name == spiking.name:
            return certificate, spiking
        same_name = checkpoint.name == reference.name  # as that of a run inside may have
        if same_name and is_of(certificate, load_model(checkpoint), load_model(spiking)):
            return certificate, spiking
    return None, None


def _json(path: Path) -> dict[str, Any]:
    """A file of JSON; {} where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        lacks = [key for key in ("accuracy", "right", "total", "split") if key not in found]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is broken, no JSON object: {error}") from None
    if lacks:
        raise ValueError(f"{path} is broken: it lacks {', '.join(lacks)}")
    return found


def _settings(recipe: str, path: Path) -> dict[str, Any]:
    """What a recipe's text says."""
    try:
        found = yaml.safe_load(recipe) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"the recipe in {path} is broken: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the recipe in {path} is broken: it is no mapping")
    return found


def _rates(path: Path) -> list[dict[str, str]]:
    """Rows of a spikes.csv, of which each has a layer and numbers."""
    rows = read_rows(path)
    try:
        for row in rows:
            float(row["epoch"]), float(row["rate"]), row["layer"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is broken, not a table of firing rates: {error!r}") from None
    return rows


def _numbers(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv as numbers."""
    try:
        return [{key: float(value) for key, value in row.items()} for row in read_rows(path)]
    except (TypeError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is broken, not a table of numbers: {error}") from None
