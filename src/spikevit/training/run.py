"""A training run: from a recipe to a directory with checkpoints, metrics and the test accuracy."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikevit import __version__
from spikevit.adaptive import (
    DynamicTimeSteps,
    Halting,
    add_early_exit,
    add_halting,
    allocate_time_steps,
    choose_threshold,
    set_thresholds,
    start_from_ann,
)
from spikevit.adaptive.adapted import require_time
from spikevit.checkpoint import OWN, load_model, load_weights, read_about, save_model
from spikevit.conversion.quantise import quantise
from spikevit.data import Data, normalise
from spikevit.data.batches import take
from spikevit.data.load import load_data_of, load_source
from spikevit.files import write_text
from spikevit.models import SpikingModel, create_model
from spikevit.neurons import set_backend
from spikevit.training.backend import pl
from spikevit.training.callbacks import Progress, RunFiles, SpikeRates
from spikevit.training.evaluate import evaluate, logits_per_step
from spikevit.training.module import Classifier, NonFiniteLoss
from spikevit.training.recipe import ModelRecipe, Recipe, load_recipe


class Interrupted(Exception):
    """The run was stopped from outside; its directory says where it was."""


def build(recipe: Recipe, data: Data | None = None) -> tuple[SpikingModel, Data]:
    """Model, with weights drawn from the recipe's seed, and data of a recipe (or `data`), made to fit each other."""
    m, data = recipe.model, data or load_source(vars(recipe.data))
    info = data.info
    fits: dict[str, Any] = {
        "num_classes": info.num_classes,
        "in_channels": info.channels,
        "image_size": info.image_size,
    }
    clash = fits.keys() & m.config.keys()
    if clash:
        raise ValueError(f"model.config sets {sorted(clash)}, which the data set decides: change `data` instead")
    torch.manual_seed(recipe.trainer.seed)
    model = start_from(m, fits) if m.start else create_model(m.name, time_steps=m.time_steps, **fits, **m.config)
    if m.ann:
        model = start_from_ann(model, load_model(m.ann), _some_images(data).to(model.dtype))
    if m.backend:
        set_backend(model, m.backend)
    if recipe.time_steps:
        model = allocate_time_steps(model, **{k: v for k, v in vars(recipe.time_steps).items() if k != "lr"})
    if recipe.halting:
        model = add_halting(model, recipe.halting)
    if recipe.early_exit:
        require_time(model, "early exit")  # now, not after training
    return model.train(), data


def _some_images(data: Data, images: int = 256) -> Tensor:
    """The first training images, normalised."""
    part: Any = data.split("train")
    found, _ = take(part, range(min(images, len(part))))
    return normalise(found, data.info)


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


def start_from(m: ModelRecipe, fits: dict[str, Any]) -> SpikingModel:
    """The model of a recipe with the weights of its `start`; in exact mode made from one that is not yet."""
    assert m.start is not None
    about = read_about(m.start)
    saved = about["config"]
    exact = m.config.get("grid_bits") is not None and saved.get("grid_bits") is None
    config = {key: saved[key] for key in ("code", "codes") if saved.get(key) is not None}  # as planned
    config |= {key: value for key, value in m.config.items() if not (exact and key == "grid_bits")}
    model = create_model(m.name, time_steps=m.time_steps, **fits, **config)
    if thresholds := [options for name, options in about.get("methods", []) if name == "thresholds"]:
        model = set_thresholds(model, **thresholds[-1])
    model = load_weights(model, m.start)
    if not exact:
        return model
    quantised = quantise(model, m.config["grid_bits"]).train()
    quantised.name = m.name
    return quantised


def refuse_used(directory: Path) -> None:
    """A run never overwrites another one."""
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(
            f"{directory} is not empty; take another directory, or go on with: spikevit train --resume {directory}"
        )


def is_helper() -> bool:
    """Whether this is one of several processes of a run, and not the one that writes."""
    return any(int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


def new_run(recipe: Recipe, directory: str | Path) -> Path:
    """Makes the directory of a new run and writes the whole recipe there; refuses one that is in use."""
    directory = Path(directory)
    refuse_used(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "recipe.yaml", recipe.to_yaml())
    return directory


def train(
    directory: str | Path, recipe: Recipe | None = None, *, data: Data | None = None, progress: bool = True
) -> dict[str, Any]:
    """Trains as the recipe says in a new directory, or goes on with the run there, and tests its best checkpoint.

    What is tested is best.safetensors, or with a method of adaptive computation final.safetensors, made of it: with
    time steps frozen, with the threshold of early exit. `data` takes the place of the recipe's data set.

    Returns:
        What is then in results.json: test accuracy, right and total, best epoch, parameters, seconds, versions.

    Raises:
        Interrupted: Ctrl-C or a signal; `train(directory)` goes on from the last whole epoch.
        NonFiniteLoss: with the step and the last good checkpoint.
    """
    directory, started, new = Path(directory), time.monotonic(), recipe is not None and not is_helper()
    if new:
        refuse_used(directory)
    elif recipe is None and not (directory / "recipe.yaml").is_file():
        raise ValueError(f"{directory} is not the directory of a run: there is no recipe.yaml in it")
    recipe = recipe or load_recipe(directory / "recipe.yaml")
    model, data = build(recipe, data)
    module = Classifier(recipe, model, data)
    if new:  # only now that model, data and training are known to fit
        new_run(recipe, directory)
    about = {"data": data.info.to_dict() | {"source": vars(recipe.data)}, "recipe": recipe.to_yaml()}
    resume = directory / "resume.ckpt"
    _fit(make_trainer(recipe, directory, about, progress), module, resume if resume.exists() else None, directory)
    if is_helper():
        return {}
    best = directory / "best.safetensors"
    trained = load_model(best)
    final = finish(recipe, trained, data)
    if final is not trained:
        best = directory / "final.safetensors"
        about = read_about(directory / "best.safetensors")
        save_model(final, best, **{key: value for key, value in about.items() if key not in OWN})
    results = {**test(best, data), "parameters": sum(p.numel() for p in model.parameters())}
    results |= {"seconds": round(time.monotonic() - started, 1), "versions": versions()}
    write_text(directory / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def make_trainer(recipe: Recipe, directory: Path, about: dict[str, Any], progress: bool) -> Any:
    """Lightning's trainer as the recipe wants it; data order and checkpoints are ours."""
    t = recipe.trainer
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"(lightning|pytorch_lightning)\.")
    return pl.Trainer(
        accelerator=t.accelerator,
        devices=t.devices,
        num_nodes=t.nodes,
        strategy=t.strategy,
        precision=t.precision,
        max_epochs=recipe.schedule.epochs,
        accumulate_grad_batches=t.accumulate,
        gradient_clip_val=t.clip_norm,
        deterministic=t.deterministic,
        sync_batchnorm=t.sync_bn,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        logger=pl.loggers.TensorBoardLogger(directory, name=None, version="tensorboard"),
        callbacks=[RunFiles(directory, about), SpikeRates(directory), *([Progress()] if progress else [])],
    )


def _fit(trainer: Any, module: Classifier, resume: Path | None, directory: Path) -> None:
    try:
        trainer.fit(module, ckpt_path=resume, weights_only=True)
    except NonFiniteLoss as error:
        last = directory / "last.safetensors"
        good = f"the last good checkpoint is {last}" if last.exists() else "no epoch had ended, there is no checkpoint"
        raise NonFiniteLoss(f"{error}; {good}") from None
    except SystemExit:  # Lightning's end of a run that was interrupted
        raise Interrupted(f"stopped; go on with: spikevit train --resume {directory}") from None


def test(checkpoint: str | Path, data: Data | None = None) -> dict[str, Any]:
    """Accuracy of a checkpoint on its data set's test images (validation images where it has none)."""
    about = read_about(checkpoint)
    data = data or load_data_of(about)
    split = data.tested
    model = load_model(checkpoint)
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
