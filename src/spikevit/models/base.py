"""What all models share: checked input, time first, logits per step, and the same forward as a stream."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.neurons import NeuronConfig, State, Stream, dense
from spikevit.schema import Checked, Range, hints, wrong

Classes = Annotated[int, Range(1, 1_000_000)]
Channels = Annotated[int, Range(1, 4_096)]
Side = Annotated[int, Range(1, 16_384)]  # pixels
Width = Annotated[int, Range(1, 65_536)]
Depth = Annotated[int, Range(1, 512)]  # blocks
Ratio = Annotated[float, Range(above=0, most=64)]
Steps = Annotated[int, Range(1, 4_096)]


@dataclass(frozen=True)
class ModelConfig(Checked):
    """What every model is told. image_size is (height, width) in pixels; time_steps is T for still images.

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
        super().__post_init__()
        for name, kind in hints(type(self)).items():
            if kind is int and getattr(self, name) < 1:
                raise wrong(name, getattr(self, name), "a whole number of at least 1")


class SpikingModel(nn.Module):
    """A classifier of images (B, C, H, W), shown at every one of T steps, or of frames (T, B, C, H, W).

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
    config: ModelConfig
    name: str | None = None  # of the registry, set by create_model
    methods: tuple[tuple[str, dict[str, Any]], ...] = ()  # applied to it (see `adaptive`), with their options
    work_unit = "time steps"  # of what `run` says an image took

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self._check_size(*config.image_size)

    @abstractmethod
    def logits(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Logits of every step (T, B, classes) for maps x (T, B, H, W, C)."""

    def forward(self, images: Tensor, per_step: bool = False) -> Tensor:
        """Logits (B, classes), the mean over time; all steps (T, B, classes) with per_step.

        Neurons stay silent on NaN, and nothing is checked here: a GPU would have to wait. `evaluate`, `count`,
        `profile`, `firing_rates` and `record_spikes` refuse what is not finite; so does `refuse_non_finite` around any
        run.
        """
        if per_step and not self.time_axis:
            raise ValueError(f"per_step=True: {self._called()} has no common axis of time steps; it gives logits once")
        logits = dense(self.logits(self.maps(images)))
        return logits if per_step else logits.mean(0)

    def loss(self, images: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """What training minimises, and the logits: cross-entropy with labels (B,) or probabilities (B, classes)."""
        logits = self(images)
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing), logits

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
        if self.time_axis:
            other.config = replace(self.config, time_steps=int(setting))
        return other

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and how much each image took (B,), in `work_unit`: all T time steps."""
        steps = len(images) if images.dim() == 5 else self.most_work
        logits = self(images)
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
        if images.dim() != 4:
            raise ValueError(f"step takes images of one step, (B, C, H, W); got shape {tuple(images.shape)}")
        if state is not None and not isinstance(state, State):
            raise wrong("state", state, "the State that the last step returned, or None to start")
        for v in state or ():
            if len(v) != len(images):
                raise ValueError(f"state is of {len(v)} images, there are {len(images)}: state[keep] goes on with some")
        stream = Stream(state, self)
        logits = dense(self.logits(self.maps(images[None]), stream))[0]
        return logits, stream.state()

    def maps(self, images: Tensor) -> Tensor:
        """Images as maps (T, B, H, W, C): a still image is a view, repeated over time with stride 0."""
        if images.dim() not in (4, 5):
            raise ValueError(f"images must be (B, C, H, W) or (T, B, C, H, W); got shape {tuple(images.shape)}")
        if not all(images.shape):
            raise ValueError(
                f"images are empty: shape {tuple(images.shape)}; at least one step and one image are needed"
            )
        channels, height, width = images.shape[-3:]
        if channels != self.config.in_channels:
            raise ValueError(
                f"images have {channels} channels (shape {tuple(images.shape)}), the model takes "
                f"in_channels={self.config.in_channels}"
            )
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point, normalised as in training; got {images.dtype}")
        self._check_size(height, width)
        if images.dim() == 5 and not self.time_axis:
            raise ValueError(f"{self._called()} has no time axis and takes images, not frames {tuple(images.shape)}")
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
