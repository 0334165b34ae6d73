"""Spiking vision transformers: build, train, observe and cost them.

    import spikevit
    model = spikevit.create_model("spikformer_tiny", num_classes=10)
    spikes = spikevit.record_spikes(model, images)

Everything below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spikevit.adaptive import add_early_exit, add_halting, allocate_time_steps
    from spikevit.checkpoint import load_model, load_weights, save_model
    from spikevit.conversion.convert import convert
    from spikevit.conversion.planner import plan
    from spikevit.conversion.quantise import quantise
    from spikevit.models import create_model, list_models
    from spikevit.models.legacy import load_original
    from spikevit.profiling.calibrate import calibrate
    from spikevit.profiling.count import count
    from spikevit.profiling.observe import firing_rates, observe, record_spikes
    from spikevit.profiling.profile import profile
    from spikevit.profiling.spike_driven import check

_WHERE = {
    "add_early_exit": "adaptive",
    "add_halting": "adaptive",
    "allocate_time_steps": "adaptive",
    "calibrate": "profiling.calibrate",
    "check": "profiling.spike_driven",
    "convert": "conversion.convert",
    "count": "profiling.count",
    "create_model": "models",
    "firing_rates": "profiling.observe",
    "list_models": "models",
    "load_model": "checkpoint",
    "load_original": "models.legacy",
    "load_weights": "checkpoint",
    "observe": "profiling.observe",
    "plan": "conversion.planner",
    "profile": "profiling.profile",
    "quantise": "conversion.quantise",
    "record_spikes": "profiling.observe",
    "save_model": "checkpoint",
}

__all__ = [
    "add_early_exit",
    "add_halting",
    "allocate_time_steps",
    "calibrate",
    "check",
    "convert",
    "count",
    "create_model",
    "firing_rates",
    "list_models",
    "load_model",
    "load_original",
    "load_weights",
    "observe",
    "plan",
    "profile",
    "quantise",
    "record_spikes",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'spikevit' has no attribute {name!r}")
    return getattr(import_module(f"spikevit.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
