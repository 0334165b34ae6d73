"""A training run: from a recipe to a directory with checkpoints, metrics and the test accuracy."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from spikevit import __version__
from spikevit.adaptive import DynamicTimeSteps, Halting, add_early_exit, add_halting, choose_threshold
from spikevit.checkpoint import OWN, describe, load_model, read_about, save_model
from spikevit.data import Data
from spikevit.data.load import load_data_of
from spikevit.errors import printable
from spikevit.files import clear_orphans, locked, read_text, sha256, write_text
from spikevit.models import SpikingModel
from spikevit.schema import of_kind, wrong
from spikevit.training.backend import pl
from spikevit.training.build import build, settled
from spikevit.training.callbacks import Progress, RunFiles, SpikeRates
from spikevit.training.dev_run import Stopwatch, tried
from spikevit.training.evaluate import evaluate, logits_per_step
from spikevit.training.loggers import Logged, loggers
from spikevit.training.machine import refuse_other_machine
from spikevit.training.module import Classifier, NonFiniteLoss, lr_at
from spikevit.training.pace import Pace
from spikevit.training.recipe import Recipe, load_recipe
from spikevit.training.resume import (
    Origin,
    ResumeFile,
    origin_of,
    read_resume,
    refuse_other_data,
    refuse_other_parts,
    refuse_other_recipe,
    rewrite,
    unusable,
    with_epochs,
)
from spikevit.training.rows import read_rows

FILES = (
    *("recipe.yaml", "metrics.csv", "spikes.csv", "last.safetensors", "best.safetensors", "resume.ckpt"),
    *("final.safetensors", "results.json"),
)
BEFORE_AN_EPOCH = (
    "recipe.yaml",
    ".lock",
    "tensorboard",
    "wandb",
    "metrics.csv",
    "spikes.csv",
)  # what a run has before its first


class Interrupted(Exception):
    """The run was stopped from outside; its directory says where it was."""


def finish(recipe: Recipe, model: SpikingModel, data: Data) -> SpikingModel:
    """The model as it is to be run: time steps frozen, the threshold of early exit chosen on the validation images."""
    if isinstance(model, Halting) and isinstance(model.model, DynamicTimeSteps):
        model = add_halting(model.model.freeze(), model.halting)
    elif isinstance(model, DynamicTimeSteps):
        model = model.freeze()
    if recipe.early_exit:
        e = recipe.early_exit
        logits, labels = logits_per_step(model, data.split("val"), data.info)
        threshold = choose_threshold(logits, labels, tolerance=e.tolerance, measure=e.measure)
        model = add_early_exit(model, threshold, measure=e.measure)
    return model


def refuse_used(directory: Path) -> None:
    """A run never overwrites another one; the directory of one of which no epoch has ended is free."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"{directory} is no directory; take another one for the run")
    used = [path for path in directory.iterdir() if path.name not in BEFORE_AN_EPOCH and not _is_temporary(path)]
    recipe = directory / "recipe.yaml"
    if used or (recipe.exists() and not _is_written(recipe)):
        raise ValueError(
            f"{directory} is not empty; take another directory, or go on with: spikevit train --resume {directory}"
        )


def refuse_no_run(directory: Path) -> None:
    """Refuses to go on where no run is."""
    if not (directory / "recipe.yaml").is_file():
        raise ValueError(f"{directory} is not the directory of a run: there is no recipe.yaml in it")


def _is_temporary(path: Path) -> bool:
    """Whether a process that was killed left it while it wrote one of a run's files."""
    return any(re.fullmatch(rf"\.{re.escape(name)}\.\d+\.tmp", path.name) for name in FILES)


def _is_written(recipe: Path) -> bool:
    """Whether a run wrote the file, and not a hand."""
    try:
        return load_recipe(recipe).to_yaml() == read_text(recipe, "a recipe")
    except ValueError:
        return False


def is_helper(recipe: Recipe) -> bool:
    """Whether this is one of several processes of a run, and not the one that writes.

    A recipe for one process has no helpers, whatever the environment says: a job of many may hold a run in each.
    """
    if recipe.trainer.devices * recipe.trainer.nodes == 1:
        return False
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    return any(os.environ.get(name, "0") != "0" for name in ranks)


def new_run(recipe: Recipe, directory: str | Path) -> Path:
    """Makes the directory of a new run and writes the whole recipe there; refuses one that is in use."""
    directory = Path(directory)
    refuse_used(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "recipe.yaml", recipe.to_yaml())
    return directory


def train(
    directory: str | Path,
    recipe: Recipe | None = None,
    *,
    data: Data | None = None,
    progress: bool = True,
    epochs: int | None = None,
) -> dict[str, Any]:
    """Trains as the recipe says in a new directory, or goes on with the run there, and tests its best checkpoint.

    What is tested is best.safetensors, or with a method of adaptive computation final.safetensors, made of it: with
    time steps frozen, with the threshold of early exit; where the training ran. `data` takes the place of the recipe's
    data set: the checkpoints then name no source, and going on needs them again. No other process may work in the
    directory meanwhile.

    With `epochs` the run there goes on to so many, whether it has ended or not: the one thing of its recipe that may
    change. From the epoch it is at the learning rate is that of the new schedule, which may lie above where the old one
    stood. Its recipe is then that of the longer run, and the results of the shorter one are removed.

    With trainer.fast_dev_run it trains on some batches, writes nothing, and returns what `dev_run.tried` does.

    Returns:
        What is then in results.json: test accuracy, right and total, best epoch, the checkpoint that was tested,
        parameters, seconds, versions.

    Raises:
        ValueError: the directory is in use, or of a run with another recipe or other data; recipe, model and data do
            not fit each other. Nothing is made before this is known.
        Interrupted: Ctrl-C or a signal; `train(directory)` goes on from the last whole epoch.
        NonFiniteLoss: loss, gradients, weights or statistics; with the last good checkpoint.
    """
    of_kind("directory", directory, (str, os.PathLike), "the path of a directory, as in train(directory, recipe)")
    of_kind("recipe", recipe, (Recipe, NoneType), "a Recipe, as load_recipe gives it, or None to go on with a run")
    of_kind("data", data, (Data, NoneType), "a Data(info, train, val, test) or None")
    directory, started, new = Path(directory), time.monotonic(), recipe is not None
    if new and epochs is not None:
        raise wrong("epochs", epochs, "left out of a new run, whose recipe has schedule.epochs")
    if not new:
        refuse_no_run(directory)
    recipe = recipe or load_recipe(directory / "recipe.yaml")
    if data is not None:
        recipe = replace(recipe, data_given=True)
    if new and recipe.trainer.fast_dev_run:
        refuse_used(directory)
        trainer, module, _ = _prepared(directory, recipe, data, progress)
        return tried(trainer, module)
    alone = not is_helper(recipe)
    with ExitStack() as stack:
        if alone and new:
            refuse_used(directory)
        elif alone:
            stack.enter_context(locked(directory))
        trainer, module, resume = _prepared(directory, recipe, data, progress, epochs)
        recipe = module.recipe
        if alone and new:  # only now that model, data and training are known to fit
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(directory))
            new_run(recipe, directory)
        elif alone and resume.state is None and recipe.data_given:
            write_text(directory / "recipe.yaml", recipe.to_yaml())
        earlier = seconds_before(directory, resume.state)
        if alone and epochs is not None:
            rewrite(directory / "resume.ckpt", resume.state, resume.origin)
        if alone:
            for name in FILES:
                clear_orphans(directory, name, held=True)
        _fit(trainer, module, None if resume.state is None else directory / "resume.ckpt", directory)
        if not alone:
            return {}
        return _tested(recipe, module.data, directory, trainer.strategy.root_device, started - earlier)


def seconds_before(directory: Path, state: dict[str, Any] | None) -> float:
    """Of the epochs that have ended before the run is gone on with, as its metrics.csv has them."""
    path, done = directory / "metrics.csv", 0 if state is None else state["epoch"] + 1
    rows = read_rows(path) if done and path.exists() else []
    return sum(row["seconds"] for row in rows if row["epoch"] <= done and isinstance(row.get("seconds"), float))


def check(recipe: Recipe, directory: Path) -> None:
    """Whether model, data and training of a recipe fit each other; a ValueError where not. Makes nothing."""
    _prepared(directory, recipe, None, progress=False)


def _prepared(
    directory: Path, recipe: Recipe, data: Data | None, progress: bool, epochs: int | None = None
) -> tuple[Any, Classifier, ResumeFile]:
    """What trains, what is trained, and what is read of the resume.ckpt to go on from. Writes nothing."""
    path = directory / "resume.ckpt"
    state = read_resume(path) if path.exists() else None
    refuse_other_machine(recipe.trainer, new=state is None)
    recipe = settled(recipe) if state is None else recipe
    was = origin_of(state, path) if state is not None else None
    shown = progress and not is_helper(recipe)
    say: Callable[[str], Any] = (lambda line: print(printable(line))) if shown else (lambda line: None)
    done = 0 if state is None else state["epoch"] + 1
    old, recipe = recipe, recipe if epochs is None else with_epochs(recipe, epochs, done)
    if was is not None:
        refuse_other_recipe(was, recipe, path, extends=epochs is not None)
    elif state is not None:
        refuse_other_parts(recipe, path)
    model, data = build(recipe, data, was=was.model if was is not None else None, say=say)
    source = None if recipe.data_given else vars(recipe.data)
    says = data.info.to_dict() | {"source": source, "files": data.digests()}
    if was is not None:
        refuse_other_data(was, says, path)
    if state is None:
        say(data.in_words(None if recipe.data_given else recipe.data.root))
    if epochs is not None:
        say(_how_it_goes_on(old, recipe, done))
    origin = Origin(recipe.to_yaml(), says, describe(model))
    about = {"data": origin.data, "recipe": origin.recipe}
    resume = ResumeFile(origin, state)
    return make_trainer(recipe, directory, about, resume, progress), Classifier(recipe, model, data), resume


def _how_it_goes_on(old: Recipe, new: Recipe, done: int) -> str:
    """Which epochs are left, and where the learning rate goes on."""
    was, now = (lr_at(done, r.optimizer.lr, r.schedule) for r in (old, new))
    epochs = new.schedule.epochs
    left = f"goes on with epoch {done + 1}" if done < epochs else "has ended"
    return (
        f"schedule.epochs={epochs}, was {old.schedule.epochs}: the run {left}; from there the learning rate is that of "
        f"a schedule of {epochs} epochs, {now:.2g} (the one before: {was:.2g})"
    )


def _tested(recipe: Recipe, data: Data, directory: Path, device: torch.device, started: float) -> dict[str, Any]:
    """The results of a run that has ended, on the device of its training; writes them, and what is to be run."""
    best = directory / "best.safetensors"
    trained = load_model(best).to(device)
    final = finish(recipe, trained, data)
    if final is not trained:
        about = read_about(best)
        best = directory / "final.safetensors"
        save_model(final, best, **{key: value for key, value in about.items() if key not in OWN})
    results = {**test(best, data, device), "checkpoint": {"file": best.name, "sha256": sha256(best)}}
    results |= {} if recipe.data.limit is None else {"limited": recipe.data.limit}
    results |= {"parameters": sum(p.numel() for p in trained.parameters())}
    results |= {"seconds": round(time.monotonic() - started, 1), "versions": versions()}
    write_text(directory / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    return results


def make_trainer(recipe: Recipe, directory: Path, about: dict[str, Any], resume: ResumeFile, progress: bool) -> Any:
    """Lightning's trainer as the recipe wants it; data order and checkpoints are ours. Makes no file yet."""
    t, pace = recipe.trainer, Pace()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"(lightning|pytorch_lightning)\.")
    options: dict[str, Any] = {
        **{"accelerator": t.accelerator, "devices": t.devices, "num_nodes": t.nodes, "strategy": t.strategy},
        **{"precision": t.precision, "accumulate_grad_batches": t.accumulate, "gradient_clip_val": t.clip_norm},
        **{"deterministic": t.deterministic, "sync_batchnorm": t.sync_bn},
    }
    callbacks: list[Any] = [pace, RunFiles(directory, about, pace), SpikeRates(directory), Logged(about["recipe"])]
    callbacks += [Progress(pace)] if progress else []
    options |= {"max_epochs": recipe.schedule.epochs, "logger": loggers(recipe, directory, progress)}
    if t.fast_dev_run:
        callbacks = [Stopwatch()]
        options |= {"max_epochs": 1, "logger": False, "limit_train_batches": int(t.fast_dev_run)}
        options |= {"limit_val_batches": int(t.fast_dev_run)}
    make = partial(
        pl.Trainer,
        **options,
        plugins=[resume],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=callbacks,
    )
    try:
        return make()
    except Exception as error:  # Lightning's own kinds
        given = ", ".join(f"{name}={value!r}" for name, value in vars(t).items())
        raise ValueError(f"the recipe's trainer does not run here: {error} ({given})") from None


def _fit(trainer: Any, module: Classifier, resume: Path | None, directory: Path) -> None:
    try:
        trainer.fit(module, ckpt_path=resume, weights_only=True)
    except NonFiniteLoss as error:
        raise NonFiniteLoss(f"{error}; {_last_good(directory)}") from None
    except SystemExit:  # Lightning's end of a run that was interrupted
        raise Interrupted(f"stopped; go on with: spikevit train --resume {directory}") from None
    except (AttributeError, KeyError, IndexError, TypeError, RuntimeError, ValueError) as error:
        if resume is None or module.began:
            raise
        raise unusable(resume, error) from None


def _last_good(directory: Path) -> str:
    for path in (directory / "last.safetensors", directory / "best.safetensors"):
        try:
            load_model(path)
        except ValueError:  # none, or one of a version that did not look
            continue
        return f"the last good checkpoint is {path}"
    return "no epoch had ended, there is no checkpoint"


def test(checkpoint: str | Path, data: Data | None = None, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Accuracy of a checkpoint on its data set's test images (validation images where it has none)."""
    about = read_about(checkpoint)
    data = data or load_data_of(about)
    split = data.tested
    model = load_model(checkpoint).to(device)
    score = evaluate(model, data.split(split), data.info)
    return {
        "accuracy": score.accuracy,
        "right": score.right,
        "total": score.total,
        "work": score.work,
        "work_unit": model.work_unit,
        "split": split,
        "best_epoch": about.get("epoch"),
        "val_accuracy": about.get("val_accuracy"),
        "chance": score.chance,
        "silence": score.silence,
    }


def versions() -> dict[str, str]:
    """Of everything a figure may depend on."""
    return {
        "spikevit": __version__,
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }


__all__ = ["Interrupted", "NonFiniteLoss", "build", "new_run", "test", "train", "versions"]
