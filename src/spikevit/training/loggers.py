"""Where figures of a run go besides its own tables: TensorBoard where it is installed, W&B where it is asked for.

Losses and validation figures are logged by Lightning; `log` adds what else is in metrics.csv and spikes.csv.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spikevit.data.optional import need
from spikevit.files import parse_yaml
from spikevit.training.backend import pl
from spikevit.training.recipe import Recipe, leaves


def loggers(recipe: Recipe, directory: Path, progress: bool) -> list[Any]:
    """Loggers of a run; makes no file yet.

    Raises:
        ImportError: trainer.wandb without wandb.
    """
    found: list[Any] = []
    if find_spec("tensorboard"):
        place = {"name": None, "version": "tensorboard", "default_hp_metric": False}
        found.append(pl.loggers.TensorBoardLogger(directory, **place))
    elif progress:
        print("tensorboard is not installed: metrics.csv and spikes.csv alone have the figures of every epoch.")
    if (project := recipe.trainer.wandb) is not None:
        try:
            need("wandb")
        except ImportError as error:
            raise ImportError(f"trainer.wandb={project}: {error}") from None
        found.append(pl.loggers.WandbLogger(project=project, name=directory.name, save_dir=directory))
    return found


def log(trainer: Any, figures: Mapping[str, float]) -> None:
    """Hands figures of the epoch that ended to all loggers."""
    for logger in trainer.loggers:
        logger.log_metrics(figures, trainer.global_step)


class Logged(pl.Callback):
    """The recipe for all loggers: every field as a hyperparameter, and for TensorBoard its text."""

    def __init__(self, recipe: str):
        self.recipe = recipe

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before Lightning saves what loggers know of the run."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.log_hyperparams(dict(leaves(parse_yaml(self.recipe, "the recipe"))))
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                lines = "\n".join(f"    {line}" for line in self.recipe.splitlines())  # as code
                logger.experiment.add_text("recipe", lines)
