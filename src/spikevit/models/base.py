"""What all models share: checked input, time first, logits per step, and the same forward as a stream."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from spikevit.models.inputs import check_features, check_images, cross_entropy, explaining
from spikevit.neurons import NeuronConfig, State, Stream, dense
from spikevit.neurons.config import refuse_other
from spikevit.schema import Checked, Range, fit, hints, of_kind, wrong

Classes = Annotated[int, Range(0, 1_000_000)]  # 0: no head
Channels = Annotated[int, Range(1, 4_096)]
Side = Annotated[int, Range(1, 16_384)]  # pixels
Width = Annotated[int, Range(1, 65_536)]
Depth = Annotated[int, Range(1, 512)]  # blocks
Ratio = Annotated[float, Range(above=0, most=64)]
Steps = Annotated[int, Range(1, 4_096)]
DropRate = Annotated[float, Range(least=0, below=1)]


@dataclass(frozen=True)
class ModelConfig(Checked):
    """What every model is told. image_size is (height, width) in pixels; time_steps is T for still images.
    num_classes: 0 is a network without a head, which gives features.

    Fields of subclasses that are plain `int` must be at least 1.
    """

    num_classes: Classes = 1000
    in_channels: Channels = 3
    image_size: tuple[Side, Side] = (224, 224)
    time_steps: Steps = 4
    neuron: NeuronConfig = field(default_factory=NeuronConfig)

    def __post_init__(self) -> None:
        if isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", (self.image_size, self.image_size))
        if not isinstance(self.neuron, NeuronConfig):
            refuse_other(self.neuron)
        super().__post_init__()
        for name, kind in hints(type(self)).items():
            if kind is int and getattr(self, name) < 1:
                raise wrong(name, getattr(self, name), "a whole number of at least 1")


def make_head(width: int, num_classes: int) -> nn.Module:
    """The linear map of features (…, D) to logits (…, classes); the identity for num_classes=0."""
    return nn.Linear(width, num_classes) if num_classes else nn.Identity()


class SpikingModel(nn.Module):
    """A classifier of images (B, C, H, W), shown at every one of T steps, or of frames (T, B, C, H, W).

    A network is `features` (tokens), `readout` (their mean) and `head`, made by `make_head(num_features, num_classes)`.

    Traits: `time_axis` (has a common axis of time steps), `streaming` (offers `step`) and `shares_stem` (the first
    convolution of a still image runs once for all steps); `stride` is how many pixels a final token spans in height
    and width, which must divide the image size. `meets_target`: whether training has reached what it aims at besides
    accuracy.
    """

    time_axis = True
    streaming = True
    shares_stem = True
    meets_target = True
    stride: int
    num_features: int  # D of what the head sees
    head: nn.Module
    heads: Sequence[str] = ("head",)  # names of all modules whose shape depends on the number of classes
    config: ModelConfig
    name: str | None = None  # of the registry, set by create_model
    methods: tuple[tuple[str, dict[str, Any]], ...] = ()  # applied to it (see `adaptive`), with their options
    work_unit = "time steps"  # of what `run` says an image took

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = of_kind("config", config, ModelConfig, "a config; create_model makes a model by its name")
        self._check_size(*config.image_size)

    def features(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Tokens (T, B, …, D) in front of the head, for maps x (T, B, H, W, C)."""
        raise ValueError(
            f"{type(self).__name__} has no features apart from its logits: give it `features(x, stream)`, tokens "
            "(T, B, …, D), in place of `logits`"
        )

    def readout(self, tokens: Tensor, stream: Stream | None = None) -> Tensor:
        """What the head sees (T, B, D): the mean over tokens (T, B, …, D), which may have been taken already."""
        return tokens.mean(tuple(range(2, tokens.dim() - 1))) if tokens.dim() > 3 else tokens

    def classify(self, tokens: Tensor, stream: Stream | None = None) -> Tensor:
        """Logits of every step (T, B, classes) of tokens (T, B, …, D)."""
        return self.head(self.readout(tokens, stream))

    def logits(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Logits of every step (T, B, classes) for maps x (T, B, H, W, C)."""
        return self.classify(self.features(x, stream), stream)

    def forward(self, images: Tensor, per_step: bool = False) -> Tensor:
        """Logits (B, classes), the mean over time; all steps (T, B, classes) with per_step. Without a head, features.

        Neurons stay silent on NaN, and nothing is checked here: a GPU would have to wait. `evaluate`, `count`,
        `profile`, `firing_rates` and `record_spikes` refuse what is not finite; so does `refuse_non_finite` around any
        run.
        """
        if per_step and not self.time_axis:
            raise ValueError(f"per_step=True: {self._called()} has no common axis of time steps; it gives logits once")
        maps = self.maps(images)
        with explaining(self, images):
            logits = dense(self.logits(maps))
        return logits if per_step else logits.mean(0)

    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens in front of the head, at every step: (T, B, N, D), or maps (T, B, H, W, D) in hierarchical models.

        Without a time axis T is 1. With halting they are a mean over tokens already, (1, B, D).
        """
        maps = self.maps(images)
        with explaining(self, images):
            return dense(self.features(maps))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes) of `forward_features`, so that the two are `forward`.

        With pre_logits what the head sees, (B, D), which is also what a model with num_classes=0 gives.

        Raises:
            ValueError: features of another width, or without the axis of time steps.
        """
        check_features(self, features)
        return dense((self.readout if pre_logits else self.classify)(features)).mean(0)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for so many classes, none for 0; config follows, all other weights stay.

        Raises:
            ValueError: no such number; num_classes=0 of a model that does not take its head from `make_head`.
        """
        config = replace(self.config, num_classes=fit(num_classes, Classes, "num_classes"))
        with torch.device("meta"):  # as the config has it, on a grid for one
            outline = type(self)(config)
        outline.refuse_lost_head()
        for name in self.heads:
            head = outline.get_submodule(name).to_empty(device=self.device).to(self.dtype).train(self.training)
            for module in head.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
            parent, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(parent), leaf, head)
        self.config = config

    def refuse_lost_head(self) -> None:
        """Refuses num_classes=0 where a head was made all the same."""
        if not self.config.num_classes and not isinstance(getattr(self, "head", None), nn.Identity):
            raise ValueError(
                f"num_classes=0: {type(self).__name__} makes its head itself, it must be "
                "`self.head = models.base.make_head(D, config.num_classes)`"
            )

    def require_classes(self, what: str) -> None:
        """Refuses, by name, what a network without a head cannot do."""
        if not self.config.num_classes:
            raise ValueError(
                f"{what} needs classes, and {self._called()} has num_classes=0: model.reset_classifier(N) gives it a "
                "fresh head"
            )

    def loss(self, images: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """What training minimises, and the logits: cross-entropy with labels (B,) or probabilities (B, classes).

        Raises:
            ValueError: labels that are none of the classes, or not one an image.
        """
        self.require_classes("a loss")
        logits = self(images)
        return cross_entropy(logits, targets, label_smoothing), logits

    @property
    def most_work(self) -> int:
        """The most that a still image can take: T."""
        return self.config.time_steps if self.time_axis else 1

    @property
    def knob(self) -> str:
        """What trades accuracy for computation, weights unchanged: time steps; "none" without a time axis."""
        return "time_steps" if self.time_axis else "none"

    @property
    def setting(self) -> float:
        """Where the knob stands."""
        return self.most_work

    def settings(self) -> list[float]:
        """Where it may stand, from the least computation to the most, its own setting among them: 1 … T."""
        return list(range(1, self.most_work + 1))

    def at(self, setting: float) -> SpikingModel:
        """The same model, weights shared, with the knob elsewhere: at one of `settings`.

        Raises:
            ValueError: a setting that is none of them.
        """
        if setting not in SpikingModel.settings(self):
            raise wrong(
                self.knob if self.time_axis else "setting", setting, f"a whole number from 1 to {self.most_work}"
            )
        other = copy.copy(self)
        other._modules = dict(self._modules)  # another head there is not one here
        if self.time_axis:
            other.config = replace(self.config, time_steps=int(setting))
        return other

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and how much each image took (B,), in `work_unit`: all T time steps."""
        logits = self(images)
        steps = len(images) if images.dim() == 5 else self.most_work
        return logits, torch.full((len(logits),), float(steps), device=logits.device)

    def step(self, images: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step of images (B, C, H, W): its logits (B, classes) and the state to pass to the next step.

        The same forward as a whole sequence, so that T steps give the T logits of `per_step=True`. `state[keep]`
        drops finished samples. Whether images and membranes are finite is not checked, as in `forward`.

        Raises:
            ValueError: a state of other images or of another model, with the layer that it does not fit.
        """
        if not self.streaming:
            raise ValueError(f"step: {self._called()} does not stream, it has no common axis of time steps")
        check_images(self, images)
        if images.dim() != 4:
            raise ValueError(f"step takes images of one step, (B, C, H, W); got shape {tuple(images.shape)}")
        if state is not None and not isinstance(state, State):
            raise wrong("state", state, "the State that the last step returned, or None to start")
        for v in state or ():
            if len(v) != len(images):
                raise ValueError(f"state is of {len(v)} images, there are {len(images)}: state[keep] goes on with some")
        stream = Stream(state, self)
        with explaining(self, images):
            logits = dense(self.logits(images[None].permute(0, 1, 3, 4, 2), stream))[0]
        return logits, stream.state()

    def maps(self, images: Tensor) -> Tensor:
        """Images as maps (T, B, H, W, C): a still image is a view, repeated over time with stride 0."""
        check_images(self, images)
        if images.dim() == 4:
            images = images.expand(self.config.time_steps if self.time_axis else 1, *images.shape)
        return images.permute(0, 1, 3, 4, 2)

    @property
    def base(self) -> SpikingModel:
        """The model of the zoo itself, where methods were applied to it."""
        return self

    def _called(self) -> str:
        return self.name or type(self).__name__

    def _check_size(self, height: int, width: int) -> None:
        for side, value in (("height", height), ("width", width)):
            if value < self.stride or value % self.stride:
                near = max(self.stride, round(value / self.stride) * self.stride)
                raise ValueError(
                    f"image {side} {value} is not divided by the stride {self.stride} of {type(self).__name__}; "
                    f"{near} would be"
                )

    @property
    def original_names(self) -> Mapping[str, list]:
        """For each of our parameters, buffers and neurons the parts of the original they hold: see `legacy`."""
        from spikevit.models.legacy import original_names

        return original_names(self)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and so of the images they take."""
        return next(self.parameters()).dtype
