"""A recipe: everything that decides what a training run does, typed, as YAML.

spikevit train digits schedule.epochs=10 model.config.depth=1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from spikevit.adaptive.early_exit import MEASURES
from spikevit.adaptive.halting import HaltingConfig
from spikevit.data.config import AugmentConfig
from spikevit.data.load import DataSource
from spikevit.errors import unknown
from spikevit.files import as_path, parse_yaml, read_text
from spikevit.models import list_models
from spikevit.recipes import recipe_text, shipped_recipes
from spikevit.schema import Checked, Count, Natural, NotNegative, Positive, Range, hints, read, wrong
from spikevit.training.optimizer import OptimizerRecipe

FREE = (  # what may change while a run is interrupted: where files lie, and what computes the same
    *("data.root", "data.workers", "model.start", "model.ann", "model.backend"),
    *("trainer.accelerator", "trainer.strategy", "trainer.wandb"),
)


@dataclass
class ModelRecipe(Checked):
    """name: one of `spikevit models`; None is the checkpoint's with start, else "spikformer_tiny". time_steps: None is
    the model's own. config: other fields of its config.

    start: a checkpoint of the same model to go on from. Its config is taken whole; time_steps and config change it,
    which is said. With config.grid_bits it is quantised first (exact mode). transfer: the data may have other classes,
    channels or sizes than the checkpoint's; what depends on these then starts with new weights.
    ann: a checkpoint of its twin with neurons of kind "relu" to take weights and thresholds from.
    freeze: shell patterns of modules that do not learn, such as [patch_embed*, blocks.0]: neither their parameters nor
    their batch-norm statistics move. "all_but_head" leaves the head alone to learn (a linear probe).
    backend: of the neurons; None is theirs ("fused"), "numba" is faster for staircases on a CPU.
    """

    name: str | None = None
    start: str | None = None
    transfer: bool = False
    ann: str | None = None
    backend: str | None = None
    time_steps: Count | None = None
    config: dict[str, Any] = field(default_factory=dict)
    freeze: Literal["all_but_head"] | list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None and not self.start:
            self.name = "spikformer_tiny"
        if self.start and self.ann:
            raise ValueError("model.start and model.ann are two checkpoints to start from: take one")
        if self.transfer and not self.start:
            raise ValueError("model.transfer=true is for model.start: say which checkpoint to start from")
        if self.start and self.config.get("grid_bits") is not None and self.config.get("power_of_two") is False:
            raise ValueError(
                "model.start with model.config.grid_bits is exact mode, whose thresholds are powers of two: leave "
                "model.config.power_of_two=false out"
            )


@dataclass
class DataRecipe(DataSource):
    """A data set (see `data.load.DataSource`), and how it is loaded: batch_size: images a process and step."""

    batch_size: Count = 64
    workers: Natural = 0


@dataclass
class ScheduleRecipe(Checked):
    """Linear warm-up from warmup_lr, half a cosine to min_lr, then cooldown_epochs at min_lr; epochs is all of it."""

    epochs: Count = 30
    warmup_epochs: Natural = 3
    warmup_lr: NotNegative = 1e-5
    min_lr: NotNegative = 1e-5
    cooldown_epochs: Natural = 0


@dataclass
class RegularisationRecipe(Checked):
    """label_smoothing: share of the target spread over all classes. ema_decay: of the averaged weights, None for none.

    With an average, it is what is validated, saved and tested.
    """

    label_smoothing: Annotated[float, Range(least=0, below=1)] = 0.1
    ema_decay: Annotated[float, Range(above=0, below=1)] | None = None


@dataclass
class SpikesRecipe(Checked):
    """A budget for networks of staircase neurons: what their spikes may cost. See `training.budget`.

    target: spikes per neuron and image; None is no budget. per: "network" (mean over all neurons) or "layer" (each).
    weight: of the penalty (mean − target)/target above the target. start_epoch: when it sets in; ramp_epochs: over
    which it grows to its full weight.
    """

    target: Positive | None = None
    per: Literal["network", "layer"] = "network"
    weight: Positive = 4.0
    start_epoch: Natural = 0
    ramp_epochs: Natural = 1


@dataclass
class TimeStepsRecipe(Checked):
    """Dynamic time steps: which steps of which layers pass spikes. See `adaptive.allocate_time_steps`.

    target: mean open steps over layers; None is a penalty on all scores. weight: λ of either; small enough that the
    task decides which layers close first. lr: peak learning rate of the scores. per: "layer" or "block". pattern:
    "prefix" or "free".
    """

    target: Positive | None = None
    weight: NotNegative = 0.3
    lr: Positive = 0.005
    per: Literal["layer", "block"] = "layer"
    pattern: Literal["prefix", "free"] = "prefix"


@dataclass
class EarlyExitRecipe(Checked):
    """Early exit over time, after training: its threshold is chosen on the validation images.

    tolerance: accuracy there that may be lost, a share of the images. measure: "confidence", "margin" or "entropy".
    """

    tolerance: Annotated[float, Range(least=0, below=1)] = 0.0
    measure: str = "confidence"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure not in MEASURES:
            raise unknown("early_exit.measure", self.measure, MEASURES)


@dataclass
class TrainerRecipe(Checked):
    """How it runs. precision: as Lightning names it ("32-true", "bf16-mixed", "64-true"; "16-mixed" on a GPU alone).

    accumulate: batches summed up before a step. clip_norm: largest gradient norm. seed: decides weights, order and
    augmentation. sync_bn: batch statistics over all processes (GPUs). deterministic: refuse operators that are not.
    fast_dev_run: true or a number of batches: trains and validates on so many, says what an epoch would take, and
    writes nothing. wandb: project of Weights & Biases to log to, None for none.
    """

    accelerator: str = "auto"
    devices: Count = 1
    nodes: Count = 1
    strategy: str = "auto"
    precision: str = "32-true"
    accumulate: Count = 1
    clip_norm: Positive | None = None
    seed: Annotated[int, Range(least=0, below=2**32)] = 0
    sync_bn: bool = False
    deterministic: bool = False
    fast_dev_run: bool | Count = False
    wandb: str | None = None


@dataclass
class Recipe(Checked):
    """A training run. Every field has a default, so that a recipe says only what it is about.

    time_steps, halting and early_exit are methods of adaptive computation; without their section they are not applied.
    data_given: the data were given to train(…, data=…), so that `data` says no more than batch_size and workers.
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
    data_given: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        s = self.schedule
        if s.warmup_epochs + s.cooldown_epochs > s.epochs:
            raise ValueError(
                f"schedule.epochs={s.epochs} is less than warmup_epochs={s.warmup_epochs} + "
                f"cooldown_epochs={s.cooldown_epochs}; change schedule.warmup_epochs"
                f"{' and schedule.cooldown_epochs' if s.cooldown_epochs else ''} too"
            )
        if self.early_exit and self.halting:
            raise ValueError("early_exit does not combine with halting, which has no logits of every step: take one")

    def to_yaml(self) -> str:
        """The whole recipe, defaults included; of data that were given, only what it decides."""
        import yaml

        plain = asdict(self)
        if self.data_given:
            plain["data"] = {key: plain["data"][key] for key in ("batch_size", "workers")}
        else:
            del plain["data_given"]
        return yaml.safe_dump(plain, sort_keys=False)

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Fields in which another recipe would give other results, by name, with both values."""
        ours, theirs = (dict(leaves(parse_yaml(recipe.to_yaml(), "recipe"))) for recipe in (self, other))
        names = [name for name in {**ours, **theirs} if name not in FREE]
        return {n: (ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)}


def load_recipe(source: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or file, with changes such as "optimizer.lr=0.002".

    Raises:
        ValueError: no such recipe, a key it does not know (with the nearest ones), or a value of the wrong type.
    """
    path = as_path(source, "a recipe, or the name of one")
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} is a checkpoint, no recipe; a recipe starts from it with model.start={path}")
    if path.is_dir() and str(source) not in shipped_recipes():
        raise ValueError(f"{path} is a directory, no recipe; to go on with a run in it: spikevit train --resume {path}")
    if path.suffix:
        if not path.exists():
            raise ValueError(f"there is no recipe file {path}; shipped recipes: {', '.join(shipped_recipes())}")
        text = read_text(path, "a recipe")
    elif str(source) not in shipped_recipes() and str(source) in list_models():
        raise ValueError(
            f"{source} is a model, no recipe; one that trains it: spikevit train digits model.name={source}"
        )
    else:
        text = recipe_text(str(source))
    return parse_recipe(text, f"recipe {source}", changes)


def parse_recipe(text: str, called: str, changes: Sequence[str] = ()) -> Recipe:
    """The recipe that a YAML text describes; `called` is what it is called in errors."""
    plain = parse_yaml(text, f"{called} is not valid YAML")
    plain = {} if plain is None else plain
    if not isinstance(plain, dict):
        raise wrong(called, plain, f"a mapping of {', '.join(hints(Recipe))}")
    if isinstance(changes, (str, Mapping)):
        raise wrong("changes", changes, 'a list of changes, such as ["optimizer.lr=0.002"]')
    text_alone = deepcopy(plain)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(
                f"{change!r} is not a change to the recipe; it would read key=value, as optimizer.lr=0.002"
            )
        _set(plain, key.split("."), parse_yaml(value, f"{change!r}: the value is not valid YAML"), whole=key)
    try:
        return read(Recipe, plain)
    except ValueError as error:
        if _fault(text_alone) == str(error):  # of the text, not of the changes
            raise ValueError(f"{called}: {error}") from None
        raise


def _fault(plain: dict[str, Any]) -> str:
    """What is wrong with a recipe, "" where nothing is."""
    try:
        read(Recipe, plain)
    except ValueError as error:
        return str(error)
    return ""


def field_names(name: str) -> list[str]:
    """Fields of that name in any section, with it: "lr" gives optimizer.lr and time_steps.lr."""
    sections = {s: next((k for k in (t, *get_args(t)) if is_dataclass(k)), None) for s, t in hints(Recipe).items()}
    return [f"{section}.{name}" for section, kind in sections.items() if kind and name in hints(kind)]


def leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of nested mappings by its path."""
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value or None if isinstance(value, dict) else value


def _set(plain: dict[str, Any], path: list[str], value: Any, whole: str) -> None:
    """Sets a field of nested mappings by its path."""
    for key in path[:-1]:
        inner = plain.get(key)
        plain[key] = {} if inner is None else inner
        plain = plain[key]
        if not isinstance(plain, dict):
            raise ValueError(f"{whole!r}: {key!r} has no fields below it")
    plain[path[-1]] = value
