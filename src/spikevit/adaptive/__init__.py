"""Computation that adapts to the image: methods that are applied to any model of the zoo that has time steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from spikevit import schema
from spikevit.adaptive.ann import ann_twin, set_thresholds, start_from_ann
from spikevit.adaptive.early_exit import EarlyExit, add_early_exit, choose_threshold, exit_steps
from spikevit.adaptive.halting import Halting, HaltingConfig, add_halting
from spikevit.adaptive.time_steps import DynamicTimeSteps, allocate_time_steps
from spikevit.errors import unknown
from spikevit.models import SpikingModel

METHODS: dict[str, Callable[..., SpikingModel]] = {
    "early_exit": add_early_exit,
    "halting": add_halting,
    "thresholds": set_thresholds,
    "time_steps": allocate_time_steps,
}


def apply_methods(model: SpikingModel, methods: Iterable[tuple[str, dict[str, Any]]]) -> SpikingModel:
    """The model with methods applied in this order, as its checkpoint lists them.

    Raises:
        ValueError: an unknown method or option, or a value that it does not take.
    """
    for name, options in methods:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
        model = METHODS[name](model, **schema.options(METHODS[name], options, name))
    return model


__all__ = [
    "METHODS",
    "DynamicTimeSteps",
    "EarlyExit",
    "Halting",
    "HaltingConfig",
    "add_early_exit",
    "add_halting",
    "allocate_time_steps",
    "ann_twin",
    "apply_methods",
    "choose_threshold",
    "exit_steps",
    "set_thresholds",
    "start_from_ann",
]
