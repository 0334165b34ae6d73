"""What a run left behind, read for a report: which model, how it was trained, its certificate. Runs nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isclose
from pathlib import Path
from typing import Any, Literal

from spikevit.checkpoint import load_model, read_about
from spikevit.conversion.certificate import Certificate, files_of, is_of, load_certificate
from spikevit.errors import inside
from spikevit.files import parse_json, read_rows, read_text, sha256
from spikevit.schema import Checked, Count, Natural, NotNegative, Range, Share, read, wrong
from spikevit.training.recipe import parse_recipe

FINAL = ("final.safetensors", "best.safetensors", "last.safetensors")  # the first there is, is the model of a run

MOST = 1e30  # of a figure in a table: sums of them are finite, too
ANY, AMOUNT, ORDINAL = Range(least=-MOST, most=MOST), Range(least=0, most=MOST), Range(least=1, most=1e9)
BOUNDS = {  # of columns
    **dict.fromkeys(("epoch", "group"), ORDINAL),
    **dict.fromkeys(("step", "lr", "val_work", "seconds", "rate"), AMOUNT),
    "val_accuracy": Range(least=0, most=1),
}


@dataclass(frozen=True)
class Tested(Checked):
    """The checkpoint that results.json is of."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Results(Checked):
    """What is in results.json. checkpoint, chance: None in those of earlier versions.

    chance: share of the most frequent class. silence: what to say of layers of neurons that never fired, or "".
    """

    accuracy: Share
    right: Natural
    total: Count
    split: Literal["train", "val", "test"]
    work: NotNegative | None = None
    work_unit: str = "time steps"
    best_epoch: Count | None = None
    val_accuracy: Share | None = None
    parameters: Count | None = None
    seconds: NotNegative | None = None
    versions: dict[str, str] = field(default_factory=dict)
    checkpoint: Tested | None = None
    chance: Share | None = None
    silence: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isclose(self.accuracy, self.right / self.total, abs_tol=1e-9):
            raise wrong("accuracy", self.accuracy, f"right / total = {self.right} / {self.total}")


@dataclass(frozen=True)
class Stage:
    """A run inside a run, by the directory's name: its results, rows of metrics.csv, and text of its recipe."""

    name: str
    results: Results
    epochs: list[dict[str, float]]
    recipe: str


@dataclass(frozen=True)
class Run:
    """A run, or a checkpoint by itself. checkpoint: the model to show, the spiking one where it was converted.

    about: what the checkpoint says of itself. recipe: its text, settings: what it says. epochs, rates: rows of
    metrics.csv and spikes.csv. results: of results.json, None where the run has not ended or where they are of another
    checkpoint. stages: runs inside, on the way to a model that was converted. missing: what is not there, and why, by
    part.
    """

    name: str
    checkpoint: Path
    about: dict[str, Any]
    recipe: str
    settings: dict[str, Any]
    epochs: list[dict[str, float]] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)
    results: Results | None = None
    stages: list[Stage] = field(default_factory=list)
    certificate: Certificate | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Name of the data set, of a folder its own, "" where the checkpoint does not say."""
        about = self.about.get("data") or {}
        root = (about.get("source") or {}).get("root")
        name = about.get("name", "")
        return Path(str(root)).name or name if name == "folder" and root else name

    @property
    def task(self) -> str:
        """The data set in words, as far as accuracies on it may be compared: "digits, 10 classes, 16 × 16"."""
        about = self.about.get("data") or {}
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
    missing: dict[str, str] = {}
    certificate, spiking = _conversion(directory, None if whole else checkpoint, missing)
    results = _results(directory, missing) if whole else None
    if results and results.checkpoint and spiking is None and results.checkpoint.file != checkpoint.name:
        missing["results"] = f"results.json is of {results.checkpoint.file}, shown is {checkpoint.name}."
        results = None
    epochs = _epochs(directory / "metrics.csv") if whole else []
    if not epochs:
        missing["curves"] = "There is no metrics.csv" + ("." if whole else ": this is a checkpoint by itself.")
    rates = _rates(directory / "spikes.csv") if whole else []
    if not rates:
        missing["rates"] = "There is no spikes.csv: firing rates were not recorded during training."
    recipe = read_text(directory / "recipe.yaml", "a recipe") if whole else about.get("recipe") or ""
    runs: list[Path] = []
    if spiking is not None:  # it may come from a run inside: its epoch is not one of this run
        checkpoint, about = spiking, {"data": about.get("data", {})} | read_about(spiking)
        recipe = recipe if whole else about.get("recipe") or recipe
        runs = sorted(p.parent for p in directory.glob("*/recipe.yaml") if (p.parent / "results.json").is_file())
    stages = [_stage(run) for run in runs]
    return Run(
        name=name,
        checkpoint=checkpoint,
        about=about,
        recipe=recipe,
        settings=_settings(recipe, directory / "recipe.yaml" if whole else checkpoint),
        epochs=epochs,
        rates=rates,
        results=results,
        stages=[stage for stage in stages if stage],
        certificate=certificate,
        missing=missing,
    )


def _stage(directory: Path) -> Stage | None:
    """A run inside, where its results are of the checkpoint beside them."""
    results = _results(directory, {})
    if results is None:
        return None
    recipe = read_text(directory / "recipe.yaml", "a recipe")
    return Stage(directory.name, results, _epochs(directory / "metrics.csv"), recipe)


def _conversion(
    directory: Path, checkpoint: Path | None, missing: dict[str, str]
) -> tuple[Certificate | None, Path | None]:
    """The newest certificate in the directory, or the newest of this checkpoint, and its spiking model.

    One whose networks were changed afterwards is none: `missing` says so.
    """
    for path in sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            certificate = load_certificate(path)
        except ValueError:
            if path.name.endswith("certificate.json"):
                raise
            continue  # another file of JSON
        if not certificate.files:
            continue
        files = files_of(certificate, path, beside=True)
        reference, spiking = Path(files.reference), Path(files.spiking)
        if not spiking.is_file() or not (checkpoint is None or _same(checkpoint, reference, spiking)):
            continue
        if reference.is_file() and is_of(certificate, load_model(reference), load_model(spiking)):
            missing.pop("conversion", None)
            return certificate, spiking
        missing["conversion"] = (
            f"{path.name} is not shown: it is of another model than {reference.name} and {spiking.name}, one of which "
            "was changed since, or is not there."
        )
    return None, None


def _same(checkpoint: Path, *others: Path) -> bool:
    return any(other.is_file() and checkpoint.samefile(other) for other in others)


def read_results(path: Path) -> Results:
    """What is in a results.json; entries that are not known are of another version, and left out.

    Raises:
        ValueError: it is broken; says where.
    """
    plain = parse_json(read_text(path, "a run's results"), f"{path} is broken")
    with inside(f"{path} is broken"):
        known = Results.__dataclass_fields__
        return read(Results, {k: v for k, v in plain.items() if k in known} if isinstance(plain, dict) else plain)


def _results(directory: Path, missing: dict[str, str]) -> Results | None:
    """Of results.json, where it is there and of the checkpoint beside it; else `missing` says why not."""
    path = directory / "results.json"
    if not path.exists():
        missing["results"] = f"This run has not ended: go on with spikevit train --resume {directory}"
        return None
    results = read_results(path)
    if results.checkpoint is None:
        missing["checkpoint"] = (
            "results.json does not say of which checkpoint it is, as an earlier version wrote it: whether of this one "
            "is not known."
        )
        return results
    tested = directory / Path(results.checkpoint.file).name
    if not tested.is_file() or sha256(tested) != results.checkpoint.sha256:
        missing["results"] = (
            f"results.json is not shown: it is of another {tested.name}, which was changed since or is not there (its "
            f"SHA-256 differs). spikevit eval {tested} tests what is there."
        )
        return None
    return results


def _settings(recipe: str, path: Path) -> dict[str, Any]:
    """What a recipe's text says, defaults included; {} where there is none."""
    with inside(f"the recipe in {path} is broken"):
        return asdict(parse_recipe(recipe, "it")) if recipe else {}


def _rates(path: Path) -> list[dict[str, Any]]:
    """Rows of a spikes.csv, of which each has a layer and numbers."""
    return _checked(path, read_rows(path, ("epoch", "rate"), ("layer",), more=True))


def _epochs(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.csv as numbers."""
    return _checked(path, read_rows(path, ("epoch",), more=True))


def _checked(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose figures are what they can be, in the order of epochs."""
    epochs = [row["epoch"] for row in rows]
    with inside(f"{path} is broken"):
        for row in rows:
            for name, value in row.items():
                if isinstance(value, float) and value not in (bounds := BOUNDS.get(name, ANY)):
                    raise wrong(name, value, f"a number {bounds}")
        if epochs != sorted(epochs) or any(epoch % 1 for epoch in epochs):
            raise ValueError("its epochs are not whole numbers in their order")
    return rows
