"""resume.ckpt: what a run needs, besides its models, to go on exactly; and that it is the same run which goes on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spikevit.checkpoint import Description
from spikevit.data import DataInfo
from spikevit.data.folder import own_parts
from spikevit.errors import refuse_non_finite
from spikevit.files import check_zip, parse_json, regular_file, text_writer, write_atomically, write_together
from spikevit.schema import Checked, Count, Natural, fit, read, wrong
from spikevit.training.backend import pl
from spikevit.training.recipe import Recipe, parse_recipe

KEY = "spikevit"  # what the file says of its run, as JSON
ENDED = ("results.json", "final.safetensors", "report.html")  # what a run has at its end


@dataclass(frozen=True)
class Origin(Checked):
    """Which run it is: the recipe's text, the data with their digests, what the model is."""

    recipe: str
    data: dict[str, Any]
    model: Description

    def to_json(self) -> str:
        """Text of one line."""
        return json.dumps(asdict(self), allow_nan=False)


@dataclass(frozen=True)
class State(Checked):
    """What Lightning needs of the file to go on; a part of another kind is refused before it gets there."""

    epoch: Natural
    global_step: Natural
    state_dict: dict[str, Any]
    optimizer_states: tuple[Any]  # of the one optimiser
    lr_schedulers: tuple[Any]
    loops: dict[str, Any]
    callbacks: dict[str, Any]


class ResumeFile(pl.plugins.CheckpointIO):
    """Writes and reads the file for Lightning: with its origin, whole or not at all, and without a copy elsewhere.

    state: what was read of it already.
    """

    def __init__(self, origin: Origin, state: dict[str, Any] | None):
        self.origin, self.state = origin, state

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Lightning's part and the origin."""
        write_atomically(path, partial(torch.save, checkpoint | {KEY: self.origin.to_json()}))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """What is in it, once."""
        state, self.state = self.state or read_resume(Path(path)), None
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """No such file is fine."""
        Path(path).unlink(missing_ok=True)


def read_resume(path: Path) -> dict[str, Any]:
    """What a resume.ckpt holds; nothing in it is executed.

    Raises:
        ValueError: no such file, a damaged one, or one of something else: names the file, and what can be done.
    """
    check_zip(regular_file(path, "a resume.ckpt"), "a resume.ckpt")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        read(State, {name: found[name] for name in State.__dataclass_fields__ if name in found})
        refuse_non_finite(tensors_of(found), "nothing goes on from it")
    except Exception as error:  # whatever torch.load meets in a file that was made to harm
        raise unusable(path, error) from None
    return found


def tensors_of(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors in nested mappings and lists, by their path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    )
    found: dict[str, torch.Tensor] = {}
    for key, item in items:
        found |= tensors_of(item, f"{name}.{key}" if name else str(key))
    return found


def unusable(path: Path, error: Exception) -> ValueError:
    """The error of a resume.ckpt that nothing goes on from."""
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{path} is damaged, or no resume.ckpt of this version: {why}. {_another(path)}")


def origin_of(state: Mapping[str, Any], path: Path) -> Origin | None:
    """Which run the file is of; None, with a warning, where it is of a version that does not say."""
    if KEY not in state:
        warnings.warn(f"{path} does not say of which recipe and data it is: whether they are the same is not checked")
        return None
    try:
        found = read(Origin, parse_json(state[KEY], "it does not say of which run it is"))
        DataInfo.of_checkpoint(found.data)
        fit(found.data.get("files") or {}, dict[str, str], "data.files")
        found.model.outline()
        return found
    except (TypeError, ValueError) as error:
        raise unusable(path, error) from None


def refuse_other_recipe(origin: Origin, recipe: Recipe, path: Path, *, extends: bool = False) -> None:
    """A recipe that was edited on the way would be that of neither half. extends: of the epochs nothing is asked."""
    differ = parse_recipe(origin.recipe, f"the recipe in {path}").differences(recipe)
    if extends:
        differ.pop("schedule.epochs", None)
    if differ:
        raise ValueError(
            f"{path} is of another recipe than {path.parent / 'recipe.yaml'}: {_both(differ)}. Put it back to go on; "
            f"{_another(path)}"
        )


def refuse_other_data(origin: Origin, data: Mapping[str, Any], path: Path) -> None:
    """Other images on the way would move some from one part to another."""
    was, now = (DataInfo.of_checkpoint(d).to_dict() for d in (origin.data, data))
    differ = {f"data.{name}": (was[name], now[name]) for name in now if was[name] != now[name]}
    files, ours = origin.data.get("files") or {}, data["files"]
    differ |= {f"digest of {p}": (files[p][:12], ours.get(p, "none")[:12]) for p in files if files[p] != ours.get(p)}
    if differ:
        raise ValueError(f"{path} is of other data: {_both(differ)}. Give it its own to go on; {_another(path)}")


def refuse_other_parts(recipe: Recipe, path: Path) -> None:
    """Of a version before parts by file name: a folder without a part for validation was divided otherwise then."""
    root = Path(recipe.data.root or "").expanduser()
    if not recipe.data_given and recipe.data.name == "folder" and "val" not in own_parts(root):
        raise ValueError(
            f"{path} is older than parts by file name: which images of {root} it was trained on is not known. "
            f"{_another(path)}"
        )


def with_epochs(recipe: Recipe, epochs: int, done: int) -> Recipe:
    """The recipe of a run that goes on to `epochs`, of which `done` have ended.

    Raises:
        ValueError: they are fewer than those, or too few for the schedule.
    """
    epochs = fit(epochs, Count, "schedule.epochs")
    if epochs < done:
        raise wrong("schedule.epochs", epochs, f"at least {done}: so many epochs of this run have ended")
    return replace(recipe, schedule=replace(recipe.schedule, epochs=epochs))


def rewrite(path: Path, state: dict[str, Any] | None, origin: Origin) -> None:
    """Makes the run of a resume.ckpt one of another recipe: that of `origin` in both files, or in neither.

    What a run of that recipe has not reached is removed first: the results of the old one, the model that was made of
    its best epoch, its report.
    """
    for name in ENDED:
        (path.parent / name).unlink(missing_ok=True)
    files = {path.parent / "recipe.yaml": text_writer(origin.recipe)}
    if state is not None:
        files[path] = partial(torch.save, state | {KEY: origin.to_json()})
    write_together(files)


def _both(differ: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{name} was {was!r}, is {now!r}" for name, (was, now) in differ.items())


def _another(path: Path) -> str:
    last = path.parent / "last.safetensors"
    return f"its weights start another run, in a directory of its own, with model.start={last}"
