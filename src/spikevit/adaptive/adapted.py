"""What the methods of this room share: a model of the zoo inside, which they run in their own way."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.models import ModelConfig, SpikingModel
from spikevit.models.running import zoo_network
from spikevit.neurons import Stream


def own_name(module: str) -> str:
    """A module's name in its own model, without those of the models around it."""
    while module.startswith("model."):
        module = module.removeprefix("model.")
    return module


class Adapted(SpikingModel):
    """A model that runs as `method` has it. Its config, name and traits are those of the model inside.

    A checkpoint of it holds `methods`: what was applied to the zoo's model, in that order, with options. Its knob is
    one of the options.
    """

    method: str

    def __init__(self, model: SpikingModel):
        nn.Module.__init__(self)
        self.model = model
        self.name = model.name
        self.stride = model.stride
        self.config: ModelConfig = model.config
        self.time_axis, self.streaming = model.time_axis, model.streaming
        self.train(model.training)

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What applies the method again, as plain values."""

    @property
    def setting(self) -> float:
        """Where its knob stands."""
        return self.options()[self.knob]

    @property
    def methods(self) -> tuple[tuple[str, dict[str, Any]], ...]:  # type: ignore[override]
        """Those of the model inside, and this one."""
        return (*self.model.methods, (self.method, self.options()))

    @property
    def meets_target(self) -> bool:  # type: ignore[override]
        """As the model inside."""
        return self.model.meets_target

    @property
    def base(self) -> SpikingModel:
        """The model of the zoo."""
        return self.model.base

    @property
    def num_features(self) -> int:  # type: ignore[override]
        """D of what the head of the model inside sees."""
        return self.model.num_features

    def features(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """As the model inside."""
        return self.model.features(x, stream)

    def readout(self, tokens: Tensor, stream: Stream | None = None) -> Tensor:
        """As the model inside."""
        return self.model.readout(tokens, stream)

    def classify(self, tokens: Tensor, stream: Stream | None = None) -> Tensor:
        """As the model inside."""
        return self.model.classify(tokens, stream)

    def logits(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """As the model inside."""
        return self.model.logits(x, stream)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for the model inside."""
        self.model.reset_classifier(num_classes)
        self.config = self.model.config

    def loss(self, images: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """That of the model inside, and the method's penalty."""
        loss, logits = self.model.loss(images, targets, label_smoothing)
        return loss + self.penalty(), logits

    def penalty(self) -> Tensor:
        """What the method adds to the loss of training, of the weights alone."""
        return torch.zeros((), device=self.device, dtype=self.dtype)


def require_time(model: SpikingModel, what: str) -> None:
    """Refuses models without a common axis of time steps, and those that leak through the batch, by name."""
    model = zoo_network(model, what)
    called = model.name or type(model).__name__
    if not model.time_axis:
        raise ValueError(f"{what} needs a model with time steps; {called} has no common axis of time steps")
    if any(getattr(m, "legacy_batch_leak", False) for m in model.modules()):
        raise ValueError(
            f"{what} does not combine with legacy_batch_leak=True, by which images of {called} leak into each other: "
            "its neurons take time and batch for one axis"
        )
