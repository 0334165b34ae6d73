"""Models by name: `create_model("spikformer_4_384", num_classes=10)`, `list_models("qkformer*")`."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from spikevit.errors import unknown
from spikevit.neurons.config import NeuronConfig
from spikevit.schema import fit, hints, wrong

if TYPE_CHECKING:
    from spikevit.models.base import ModelConfig, SpikingModel


class Entry(NamedTuple):
    """A configuration that has a name: the class that builds it and its config."""

    build: type[SpikingModel]
    config: ModelConfig


Config = TypeVar("Config", "ModelConfig", NeuronConfig)

_MODELS: dict[str, Entry] = {}


def register(name: str, build: type[SpikingModel], config: ModelConfig, **changes: Any) -> None:
    """Gives a configuration a name; `changes` to the config are for what differs from another one."""
    if name in _MODELS:
        raise ValueError(f"a model called {name!r} is registered already")
    _MODELS[name] = Entry(build, replace(config, **changes))


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, sorted by family and size."""
    import re

    def size(name: str) -> list:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    return sorted((name for name in _MODELS if fnmatch.fnmatch(name, pattern)), key=size)


def model_entry(name: str) -> Entry:
    """Class and config registered under `name`."""
    if name not in _MODELS:
        raise unknown("model", name, _MODELS)
    return _MODELS[name]


def families() -> dict[str, Entry]:
    """One entry for each model class, by its name."""
    return {entry.build.__name__: entry for entry in _MODELS.values()}


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    time_steps: int | None = None,
    **config: Any,
) -> SpikingModel:
    """A model with fresh weights.

    Args:
        name: one of `list_models()`.
        num_classes, in_channels, time_steps: as registered where None.
        image_size: pixels, one number for a square or (height, width).
        **config: any other field of the model's config dataclass; `neuron` may be a NeuronConfig or a mapping.

    Raises:
        ValueError: unknown name or field (with the nearest known ones), or values that do not fit together.
    """
    entry = model_entry(name)
    given = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size, "time_steps": time_steps}
    config |= {key: value for key, value in given.items() if value is not None}
    model = entry.build(change_config(entry.config, config))
    model.name = name
    return model


def change_config(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of a config with some fields changed; plain values (lists, mappings of a YAML file) are welcome.

    Raises:
        ValueError: unknown fields (with the nearest ones), or values of another type or out of bounds.
    """
    known = hints(type(config))
    if not isinstance(changes, Mapping):
        raise wrong(f"changes of {type(config).__name__}", changes, f"a mapping of {', '.join(known)}")
    values: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in known:
            raise unknown(f"field of {type(config).__name__}", key, known)
        if key == "image_size" and isinstance(value, int):
            value = (value, value)
        if key == "neuron" and not is_dataclass(value):
            value = change_config(config.neuron, value)  # type: ignore[attr-defined]
        values[key] = fit(value, known[key], key)
    return replace(config, **values)


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """A config as plain values, for JSON; `change_config` reads them back."""
    return asdict(config)
