"""Parts of a model that do not learn: neither their parameters nor their batch-norm statistics."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from spikevit.checkpoint import describe, head_tensors
from spikevit.errors import unknown
from spikevit.layers.grid import OnGrid
from spikevit.models import SpikingModel

ALL_BUT_HEAD = "all_but_head"


def freeze_(model: SpikingModel, patterns: Sequence[str] | str) -> SpikingModel:
    """Marks the parameters of modules that match one of the shell patterns as not learning; returns the model.

    Names are those of the model of the zoo inside. A module stands for everything below it. "all_but_head" in place of
    patterns leaves those parameters to learn whose shape depends on the number of classes. Scores of dynamic time steps
    are no part of the model and learn on. `keep_frozen_` puts what is frozen into evaluation mode.

    Raises:
        ValueError: a pattern that matches no module (with the nearest names), or nothing is left to learn.
    """
    base = model.base
    if patterns == ALL_BUT_HEAD:
        learning = head_tensors(describe(base))
        frozen = [parameter for name, parameter in base.named_parameters() if name not in learning]
    else:
        modules = {name: module for name, module in base.named_modules() if name}
        frozen = []
        for pattern in patterns:
            if not (found := [name for name in modules if fnmatchcase(name, pattern)]):
                raise unknown("module in model.freeze", pattern, modules)
            frozen += [parameter for name in found for parameter in modules[name].parameters()]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in base.parameters()):
        raise ValueError(
            f"model.freeze={patterns!r} leaves nothing to learn: leave the head out, or take {ALL_BUT_HEAD}"
        )
    return model


def keep_frozen_(model: SpikingModel) -> None:
    """Evaluation mode for every module that has parameters, none of which learns; call it after `model.train()`.

    But for layers on a grid, which have no statistics and in evaluation another precision.
    """
    for module in model.base.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            for part in module.modules():
                part.training = part.training and isinstance(part, OnGrid)


def learning(model: nn.Module) -> str:
    """How many of the parameters learn, in words."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    some, every = sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)
    return f"{some:,} of {every:,} parameters learn ({some / every:.1%})"
