"""A recipe: everything that decides what a training run does, typed, as YAML.

spikevit train digits schedule.epochs=10 model.config.depth=1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

from spikevit.adaptive.early_exit import MEASURES
from spikevit.adaptive.halting import HaltingConfig
from spikevit.data.config import AugmentConfig
from spikevit.data.optional import need
from spikevit.errors import unknown


@dataclass
class ModelRecipe:
    """name: one of `spikevit models`. time_steps: None is the model's own. config: other fields of its config.

    start: a checkpoint of the same model to go on from; with config.grid_bits it is quantised first (exact mode).
    ann: a checkpoint of its twin with neurons of kind "relu" to take weights and thresholds from.
    backend: of the neurons; None is theirs ("fused"), "numba" is faster for staircases on a CPU.
    """

    name: str = "spikformer_tiny"
    start: str | None = None
    ann: str | None = None
    backend: str | None = None
    time_steps: int | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataRecipe:
    """name: digits, cifar10, cifar100 or folder. root: where the files are. image_size: pixels a side.

    image_size and channels are the data's own where they are None. batch_size: images a process and step.
    val_fraction: share of the training images set aside for choosing the best epoch. on_corrupt: "error" or "skip"
    for images that cannot be read. crop_pct: of a folder's images, the share of the shorter side that is seen in
    evaluation, the middle: 0.875 is 224 of 256 pixels.
    """

    name: str = "digits"
    root: str | None = None
    image_size: int | None = None
    channels: int | None = None
    batch_size: int = 64
    workers: int = 0
    val_fraction: float = 0.1
    on_corrupt: str = "error"
    crop_pct: float = 1.0


@dataclass
class OptimizerRecipe:
    """AdamW. lr: peak learning rate; weight_decay: of weight matrices and kernels, not of biases and norms."""

    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class ScheduleRecipe:
    """Linear warm-up from warmup_lr, half a cosine to min_lr, then cooldown_epochs at min_lr; epochs is all of it."""

    epochs: int = 30
    warmup_epochs: int = 3
    warmup_lr: float = 1e-5
    min_lr: float = 1e-5
    cooldown_epochs: int = 0


@dataclass
class RegularisationRecipe:
    """label_smoothing: share of the target spread over all classes. ema_decay: of the averaged weights, None for none.

    With an average, it is what is validated, saved and tested.
    """

    label_smoothing: float = 0.1
    ema_decay: float | None = None


@dataclass
class SpikesRecipe:
    """A budget for networks of staircase neurons: what their spikes may cost. See `training.budget`.

    target: spikes per neuron and image; None is no budget. per: "network" (mean over all neurons) or "layer" (each).
    weight: of the penalty (mean − target)/target above the target. start_epoch: when it sets in; ramp_epochs: over
    which it grows to its full weight.
    """

    target: float | None = None
    per: str = "network"
    weight: float = 4.0
    start_epoch: int = 0
    ramp_epochs: int = 1


@dataclass
class TimeStepsRecipe:
    """Dynamic time steps: which steps of which layers pass spikes. See `adaptive.allocate_time_steps`.

    target: mean open steps over layers; None is a penalty on all scores. weight: λ of either; small enough that the
    task decides which layers close first. lr: peak learning rate of the scores. per: "layer" or "block". pattern:
    "prefix" or "free".
    """

    target: float | None = None
    weight: float = 0.3
    lr: float = 0.005
    per: str = "layer"
    pattern: str = "prefix"


@dataclass
class EarlyExitRecipe:
    """Early exit over time, after training: its threshold is chosen on the validation images.

    tolerance: accuracy there that may be lost, a share of the images. measure: "confidence", "margin" or "entropy".
    """

    tolerance: float = 0.0
    measure: str = "confidence"


@dataclass
class TrainerRecipe:
    """How it runs. precision: as Lightning names it ("32-true", "16-mixed", "bf16-mixed", "64-true").

    accumulate: batches summed up before a step. clip_norm: largest gradient norm. seed: decides weights, order and
    augmentation. sync_bn: batch statistics over all processes (GPUs). deterministic: refuse operators that are not.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate: int = 1
    clip_norm: float | None = None
    seed: int = 0
    sync_bn: bool = False
    deterministic: bool = False


@dataclass
class Recipe:
    """A training run. Every field has a default, so that a recipe says only what it is about.

    time_steps, halting and early_exit are methods of adaptive computation; without their section they are not applied.
    """

    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    regularisation: RegularisationRecipe = field(default_factory=RegularisationRecipe)
    spikes: SpikesRecipe = field(default_factory=SpikesRecipe)
    time_steps: TimeStepsRecipe | None = None
    halting: HaltingConfig | None = None
    early_exit: EarlyExitRecipe | None = None
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)

    def __post_init__(self) -> None:
        s = self.schedule
        for name, value, least in (
            ("data.batch_size", self.data.batch_size, 1),
            ("schedule.epochs", s.epochs, 1),
            ("schedule.warmup_epochs", s.warmup_epochs, 0),
            ("schedule.cooldown_epochs", s.cooldown_epochs, 0),
            ("spikes.start_epoch", self.spikes.start_epoch, 0),
            ("spikes.ramp_epochs", self.spikes.ramp_epochs, 0),
            ("trainer.accumulate", self.trainer.accumulate, 1),
            ("trainer.devices", self.trainer.devices, 1),
        ):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if s.warmup_epochs + s.cooldown_epochs > s.epochs:
            raise ValueError(
                f"schedule.epochs={s.epochs} is less than warmup_epochs={s.warmup_epochs} + "
                f"cooldown_epochs={s.cooldown_epochs}; change schedule.warmup_epochs too"
            )
        if not self.optimizer.lr > 0:
            raise ValueError(f"optimizer.lr={self.optimizer.lr} must be greater than 0")
        if self.spikes.target is not None and not self.spikes.target > 0:
            raise ValueError(f"spikes.target={self.spikes.target} must be greater than 0 spikes per neuron")
        if not self.spikes.weight > 0:
            raise ValueError(f"spikes.weight={self.spikes.weight} must be greater than 0")
        if self.time_steps and not self.time_steps.lr > 0:
            raise ValueError(f"time_steps.lr={self.time_steps.lr} must be greater than 0")
        if self.early_exit and self.halting:
            raise ValueError("early_exit does not combine with halting, which has no logits of every step: take one")
        if self.early_exit and not 0 <= self.early_exit.tolerance < 1:
            raise ValueError(f"early_exit.tolerance={self.early_exit.tolerance} must be at least 0 and less than 1")
        if self.early_exit and self.early_exit.measure not in MEASURES:
            raise unknown("early_exit.measure", self.early_exit.measure, MEASURES)
        if self.model.start and self.model.ann:
            raise ValueError("model.start and model.ann are two checkpoints to start from: take one")
        if self.spikes.per not in ("network", "layer"):
            raise unknown("spikes.per", self.spikes.per, ("network", "layer"))
        decay = self.regularisation.ema_decay
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"regularisation.ema_decay={decay} must be between 0 and 1")

    def to_yaml(self) -> str:
        """The whole recipe, defaults included."""
        import yaml

        return yaml.safe_dump(asdict(self), sort_keys=False)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("spikevit.recipes").iterdir() if p.name.endswith(".yaml")
    )


def load_recipe(source: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or file, with changes such as "optimizer.lr=0.002".

    Raises:
        ValueError: no such recipe, a key it does not know (with the nearest ones), or a value of the wrong type.
    """
    yaml, jsonargparse = need("yaml", "train"), need("jsonargparse", "train")
    path = Path(source)
    if not path.suffix:
        if str(source) not in shipped_recipes():
            raise unknown("recipe", str(source), shipped_recipes())
        text = resources.files("spikevit.recipes").joinpath(f"{source}.yaml").read_text()
    elif path.is_file():
        text = path.read_text()
    else:
        raise ValueError(f"there is no recipe file {path}; shipped recipes: {', '.join(shipped_recipes())}")
    try:
        plain = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {source} is not valid YAML: {error}") from error
    _check_keys(plain, Recipe)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(
                f"{change!r} is not a change to the recipe; it would read key=value, as optimizer.lr=0.002"
            )
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{change!r}: the value is not valid YAML: {error}") from error
        _set(plain, key.split("."), value, whole=key)
    _check_keys(plain, Recipe)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--recipe", type=Recipe, default=Recipe())
    try:
        return parser.instantiate_classes(parser.parse_object({"recipe": plain})).recipe
    except jsonargparse.ArgumentError as error:
        raise ValueError(f"recipe {source}: {error}") from error


def _set(plain: dict[str, Any], path: list[str], value: Any, whole: str) -> None:
    for key in path[:-1]:
        plain = plain.setdefault(key, {})
        if not isinstance(plain, dict):
            raise ValueError(f"{whole!r}: {key!r} has no fields below it")
    plain[path[-1]] = value


def _check_keys(plain: Any, kind: Any, where: str = "") -> None:
    """Refuses keys that no field has: jsonargparse would say so too, but not which ones are near."""
    if options := get_args(kind):  # an optional section: without it, there is nothing to check
        kind = next((k for k in options if is_dataclass(k)), None) if plain is not None else None
    if not is_dataclass(kind):
        return
    if not isinstance(plain, dict):
        raise ValueError(
            f"recipe: {where.rstrip('.') or 'it'} must be a mapping of {[f.name for f in fields(kind)]}; got {plain!r}"
        )
    hints = get_type_hints(kind)
    for key, value in plain.items():
        if key not in hints:
            below = [f"{name}.{f.name}" for name, hint in hints.items() if is_dataclass(hint) for f in fields(hint)]
            same = [name for name in below if name.endswith(f".{key}")]
            raise unknown("recipe key", f"{where}{key}", same or [f"{where}{name}" for name in hints])
        _check_keys(value, hints[key], f"{where}{key}.")
