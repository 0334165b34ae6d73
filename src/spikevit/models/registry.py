"""Models by name: `create_model("spikformer_4_384", num_classes=10)`, `list_models("qkformer*")`."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple, TypeVar

from spikevit.errors import unknown
from spikevit.models.base import ModelConfig, SpikingModel
from spikevit.models.outside import load_plugins
from spikevit.neurons.config import NeuronConfig, refuse_other
from spikevit.schema import fit, hints, of_kind, wrong


class Entry(NamedTuple):
    """A configuration that has a name: the class that builds it and its config."""

    build: type[SpikingModel]
    config: ModelConfig


Config = TypeVar("Config", ModelConfig, NeuronConfig)

_MODELS: dict[str, Entry] = {}


def register(name: str, build: type[SpikingModel], config: ModelConfig, **changes: Any) -> None:
    """Gives a configuration a name; `changes` to the config are for what differs from another one."""
    of_kind("name", name, str, "text")
    of_kind("config", config, ModelConfig, "a config, an instance of a subclass of ModelConfig: SpikformerConfig(…)")
    if not (isinstance(build, type) and issubclass(build, SpikingModel)):
        raise wrong("build", build, "a class of models, a subclass of SpikingModel")
    config = change_config(config, changes)
    for known, entry in _MODELS.items():
        again = entry.build is not build and _origin(entry.build) == _origin(build)  # its module was run again
        if known == name and not again:
            raise ValueError(f"a model called {name!r} is registered already: take another name")
        if entry.build.__name__ == build.__name__ and _origin(entry.build) != _origin(build):
            raise ValueError(
                f"{name!r} is a {build.__name__} of {build.__module__}, and {known!r} one of {entry.build.__module__}: "
                "checkpoints know classes by their name, give it another"
            )
    _MODELS[name] = Entry(build, config)


def _origin(build: type) -> tuple[str, str]:
    return build.__module__, build.__qualname__


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern, sorted by family and size; plugins' among them."""
    import re

    load_plugins()

    def size(name: str) -> list:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    return sorted((name for name in _MODELS if fnmatch.fnmatch(name, pattern)), key=size)


def model_entry(name: str) -> Entry:
    """Class and config registered under `name`."""
    of_kind("name", name, str, "text, the name of a model: one of list_models(), such as spikformer_tiny")
    if name not in _MODELS:
        load_plugins()
    if name not in _MODELS:
        raise ValueError(f"{unknown('model', name, _MODELS)}; for a model of your own, --import its module")
    return _MODELS[name]


def families() -> dict[str, Entry]:
    """One entry for each model class, by its name."""
    return {entry.build.__name__: entry for entry in _MODELS.values()}


def find_family(name: str) -> Entry | None:
    """An entry of the model class of that name, of a plugin if need be; None where there is none."""
    if name not in families():
        load_plugins()
    return families().get(name)


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
        num_classes, in_channels, time_steps: as registered where None. num_classes=0: without a head, the model gives
            features (B, D).
        image_size: pixels, one number for a square or (height, width).
        **config: any other field of the model's config dataclass; `neuron` may be a NeuronConfig or a mapping.

    Raises:
        ValueError: unknown name or field (with the nearest known ones), or values that do not fit together.
    """
    entry = model_entry(name)
    if "pretrained" in config:
        right = "left out: weights are those of a file, and load_model(path) gives its model"
        raise wrong("pretrained", config["pretrained"], right)
    given = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size, "time_steps": time_steps}
    config |= {key: value for key, value in given.items() if value is not None}
    model = entry.build(change_config(entry.config, config))
    model.refuse_lost_head()
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
        if key == "neuron" and not isinstance(value, NeuronConfig):
            refuse_other(value)
            value = change_config(config.neuron, value)  # type: ignore[attr-defined]
        values[key] = fit(value, known[key], key)
    return replace(config, **values)


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """A config as plain values, for JSON; `change_config` reads them back."""
    return asdict(config)
