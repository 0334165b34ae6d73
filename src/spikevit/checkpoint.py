"""Checkpoints: weights as safetensors, with what is needed to build the model again as JSON in the same file.

Loading executes no code, and makes nothing large before what the file says of its tensors is known to fit. Saving is
atomic: a file of that name is the old one or the new one, never half of it. What is not finite is neither saved nor
loaded.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.adaptive import apply_methods
from spikevit.data.sets import DataInfo
from spikevit.devices import find_device
from spikevit.errors import inside, refuse_non_finite
from spikevit.files import as_path, parse_json, regular_file, write_atomically
from spikevit.models.base import SpikingModel
from spikevit.models.registry import change_config, config_to_dict, find_family, list_models
from spikevit.models.running import zoo_network
from spikevit.schema import Checked, NotNegative, read, wrong

KEY, DIGEST = "spikevit", "sha256"  # of the metadata
FORMAT = 3  # 1: without methods; 2: with them; 3: with a digest
FITS = ("num_classes", "in_channels", "image_size")  # what a transfer may change
FREE = ("drop_path_rate",)  # what neither weights nor evaluation depend on


@dataclass(frozen=True)
class Description(Checked):
    """What every checkpoint says of its model. methods: what was applied to it (see `adaptive`), with options.

    module: where its class was defined. It is named in errors, and never imported.
    """

    format: int
    family: str
    config: dict[str, Any]
    name: str | None = None
    methods: tuple[tuple[str, dict[str, Any]], ...] = ()
    module: str | None = None

    def build(self) -> SpikingModel:
        """The model, with fresh weights."""
        entry = find_family(self.family)
        if entry is None:
            raise ValueError(self._unregistered())
        model = entry.build(change_config(entry.config, self.config))
        model.name = self.name
        return apply_methods(model, self.methods)

    def _unregistered(self) -> str:
        """What the model is, where its class is not registered, and how it would be."""
        module = self.module or ""
        if module.partition(".")[0] == "spikevit" or not all(part.isidentifier() for part in module.split(".")):
            return f"a {self.family}, which this version of spikevit does not know"
        if module == "__main__":
            return f"a {self.family} that a script or notebook defined: run its definition first, or make it a module"
        return f"a {self.family} of {module}: --import {module}, in Python `import {module}`"

    def outline(self) -> SpikingModel:
        """The model on the meta device, without memory for its weights."""
        with torch.device("meta"):
            return self.build()


OWN = tuple(Description.__dataclass_fields__)  # the rest of what a checkpoint says is the saver's


def describe(model: SpikingModel) -> Description:
    """What a checkpoint of the model says of it."""
    config = config_to_dict(model.config)
    build = type(model.base)
    return Description(FORMAT, build.__name__, config, model.name, model.methods, build.__module__)


def save_model(model: SpikingModel, path: str | Path, **about: Any) -> None:
    """Saves weights, name and config of a model; `about` is any more plain data (data set, accuracy, …) to keep.

    Raises:
        ValueError: weights or statistics that are not finite; a model that its config does not describe, such as one
            with another head: it could not be loaded.
        OSError: the file could not be written whole; what was there before is untouched.
    """
    as_path(path, "a checkpoint")
    zoo_network(model, "save_model")
    with inside(path):
        writer = model_writer(model, **about)
    write_atomically(path, writer)


def model_writer(model: SpikingModel, **about: Any) -> Callable[[Path], Any]:
    """What saves the model as it is now, for `files.write_together`; see `save_model`."""
    from safetensors.torch import save_file

    if taken := about.keys() & OWN:
        raise ValueError(f"about={sorted(taken)}: these names are the checkpoint's own; take others")
    description = describe(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    check_about(about, description)
    refuse_non_finite(tensors, "the model is not saved")
    _refuse_undescribed(model, description)
    for name, value in about.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise wrong(name, value, f"plain data (numbers, text, lists, mappings): {error}") from None
    text = json.dumps({name: getattr(description, name) for name in OWN} | about)
    return partial(save_file, tensors, metadata={KEY: text, DIGEST: digest(text, tensors)})


def _refuse_undescribed(model: SpikingModel, description: Description) -> None:
    """A model that was changed by hand would not be what `load_model` builds."""
    if differ := _differences(shapes(description.outline().state_dict()), shapes(model.state_dict())):
        raise ValueError(
            f"{description.name or description.family} is not what its config says and could not be loaded: "
            f"{_few(differ, 'by its config', 'in the model')}. For other classes: model.reset_classifier(N). For other "
            "channels or sizes: create_model(…), and load_weights(…, transfer=True)"
        )


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of what a checkpoint says and of its tensors: names, dtypes, shapes and values."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_about(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself: family, name, config and whatever it was saved with.

    Raises:
        ValueError: no such file, a truncated one, no checkpoint of spikevit, or one that contradicts itself.
    """
    return _read(path)[0]


def read_description(path: str | Path) -> Description:
    """What a checkpoint says of its model, as `read_about` reads it."""
    return _read(path)[1]


def _read(path: str | Path) -> tuple[dict[str, Any], Description, str, str | None]:
    """What a checkpoint says, as a mapping, its own part checked, its text, and its digest."""
    from safetensors import SafetensorError, safe_open

    if as_path(path, "a checkpoint").is_dir():
        raise ValueError(f"there is no checkpoint {path}; it is a directory, a run's model is its best.safetensors")
    if not Path(path).exists() and str(path) in list_models():
        raise ValueError(
            f"there is no checkpoint {path}; that is the name of a model: create_model gives it with fresh weights, "
            "training writes them as .safetensors"
        )
    regular_file(path, "a checkpoint")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        if zipfile.is_zipfile(path):  # asked only now: weights may hold the bytes that it looks for
            raise ValueError(
                f"{path} is a file of torch.save, no .safetensors file: load_original reads those of original "
                "repositories, and of a run of spikevit the model is its best.safetensors"
            ) from None
        raise ValueError(f"{path} is truncated, or not a safetensors file: {error}") from None
    if KEY not in metadata:
        raise ValueError(f"{path} is not a checkpoint of spikevit; for an original's weights use load_original")
    about = parse_json(metadata[KEY], f"{path} does not say what model it holds")
    if isinstance(about, dict) and type(about.get("format")) is int and about["format"] > FORMAT:
        raise ValueError(f"{path} is of format {about['format']}, this version of spikevit reads up to {FORMAT}")
    with inside(f"{path} does not say what model it holds"):
        if not isinstance(about, dict):
            raise ValueError(f"it says {about!r}")
        description = read(Description, {name: about[name] for name in OWN if name in about})
        check_about(about, description)
    return about, description, metadata[KEY], metadata.get(DIGEST)


@dataclass(frozen=True)
class About(Checked):
    """What training writes into a checkpoint besides; anything else may be there, too."""

    data: dict[str, Any] | None = None
    recipe: str | None = None
    epoch: int | None = None
    val_accuracy: NotNegative | None = None


def check_about(about: Mapping[str, Any], description: Description) -> None:
    """Refuses data that the network is not for."""
    known = read(About, {name: about[name] for name in About.__dataclass_fields__ if name in about})
    if known.data is None:
        return
    info = DataInfo.of_checkpoint(known.data)
    theirs = {"num_classes": info.num_classes, "in_channels": info.channels, "image_size": tuple(info.image_size)}
    for field, value in theirs.items():
        ours = description.config.get(field, value)
        if (tuple(ours) if isinstance(ours, list) else ours) != value:
            raise ValueError(f"its data are of {field}={value}, its network of {field}={ours}")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> SpikingModel:
    """The model saved at `path`, in evaluation mode.

    Args:
        path: a .safetensors file of spikevit.
        device: where it goes: "cpu", "cuda", "cuda:1", a torch.device, or "auto", which is a GPU where there is one.

    Raises:
        ValueError: no such device; no such file, a truncated or changed one, not a checkpoint of spikevit, weights that
            are not finite; a model of a module that was not imported, which it names.
    """
    there = find_device(device)
    _, description, text, sha = _read(path)
    try:
        outline = description.outline()
    except ValueError as error:
        raise ValueError(f"{path} holds {error}") from None
    tensors = _tensors(path, text, sha, outline, f"{path} contradicts itself")
    model = description.build()
    model.load_state_dict(tensors, assign=True)
    return model.to(there).eval()


def _tensors(
    path: str | Path, text: str, sha: str | None, model: nn.Module, fault: str, fresh: Collection[str] = ()
) -> dict[str, Tensor]:
    """The tensors of a file, which must be those of the model but for `fresh` ones."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    ours = shapes(model.state_dict())
    with safe_open(path, "pt") as file:
        names: Iterable[str] = file.keys()
        theirs = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    without = {name: shape for name, shape in theirs.items() if name not in fresh}
    if differ := _differences(without, {name: shape for name, shape in ours.items() if name not in fresh}):
        raise ValueError(f"{fault}: {_few(differ, 'in the file', 'in the model')}")
    # Copied: views into the file lie at any address, and products may round otherwise for weights that are not aligned.
    tensors = {name: t.clone() for name, t in load_file(path).items()}
    if sha is not None and digest(text, tensors) != sha:
        raise ValueError(f"{path} is damaged or was changed: its SHA-256 is not that of when it was saved")
    for name, tensor in model.state_dict().items():
        if name not in fresh and tensors[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{fault}: {name} is {tensors[name].dtype}")
    refuse_non_finite(tensors, f"{path} is not loaded")
    return {name: tensor for name, tensor in tensors.items() if name not in fresh}


def load_weights(
    model: SpikingModel,
    path: str | Path,
    *,
    differ: Collection[str] = (),
    transfer: bool = False,
    classes: Collection[str] | None = None,
    keep_dtype: bool = True,
) -> SpikingModel:
    """Loads a checkpoint's weights into a model of the same family and config; returns the model.

    The model keeps its dtype and device, or takes the checkpoint's dtype and the CPU.

    Args:
        differ: fields of the config in which they may differ, such as "time_steps" or "neuron".
        transfer: the model may be for other classes, channels or image sizes. What depends on these (the head, the
            first convolution, the mixing of tokens of some) then stays as it is in the model; see `fresh_tensors`. To
            a model with num_classes=0 the weights go without the head.
        classes: names of the model's classes. A transfer keeps the head of a checkpoint that was for these.

    Raises:
        ValueError: the checkpoint is of another model; names the fields, with both values, or the tensors that differ.
    """
    zoo_network(model, "load_weights")
    about, description, text, sha = _read(path)
    called = f"{path} holds {description.name or description.family}"
    family = type(model.base).__name__
    if family != description.family:
        raise ValueError(f"{called}, a {description.family}; this model is a {family}")
    if [name for name, _ in model.methods] != [name for name, _ in description.methods]:
        theirs, ours = ([name for name, _ in m] or "none" for m in (description.methods, model.methods))
        raise ValueError(f"{called} with the methods {theirs}; this model has {ours}: see spikevit.adaptive")
    allowed = {*differ, *FREE, *(FITS if transfer else ())}
    differences = config_differences(description, model).items()
    other = {name: both for name, both in differences if name.split(".")[0] not in allowed}
    if other:
        fields = "; ".join(f"{name}: {theirs!r} there, {ours!r} here" for name, (theirs, ours) in other.items())
        hint = ""
        if not transfer and other.keys() <= set(FITS):
            hint = "; for a network that goes on with other classes, channels or sizes: transfer=True"
        raise ValueError(f"{called}, which differs from this model in {', '.join(other)} ({fields}){hint}")
    fresh = _fresh(model, about, description, classes) if transfer else []
    left = () if model.config.num_classes or not transfer else head_tensors(description)
    tensors = _tensors(path, text, sha, model, f"{called}, whose tensors differ", {*fresh, *left})
    state = {name: t for name, t in model.state_dict().items() if name in fresh}
    model.load_state_dict(state | tensors, assign=not keep_dtype)
    return model


def fresh_tensors(model: SpikingModel, path: str | Path, classes: Collection[str] | None = None) -> list[str]:
    """Names of the tensors that a transfer of the checkpoint's weights leaves as they are in the model.

    They are those whose shape depends on the number of classes, channels or pixels where these differ, and the head
    where `classes` are given and are not the checkpoint's.
    """
    about, description, _, _ = _read(path)
    return _fresh(model, about, description, classes)


def _fresh(
    model: SpikingModel, about: Mapping[str, Any], description: Description, classes: Collection[str] | None
) -> list[str]:
    theirs, ours = shapes(description.outline().state_dict()), shapes(model.state_dict())
    fresh = {name for name in ours if ours[name] != theirs.get(name)}
    known = (about.get("data") or {}).get("classes")
    if classes is not None and known is not None and list(classes) != list(known):
        fresh |= head_tensors(description)
    return [name for name in ours if name in fresh]


def head_tensors(description: Description) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    more = replace(description, config=description.config | {"num_classes": 1 + description.config["num_classes"]})
    one, other = (shapes(d.outline().state_dict()) for d in (description, more))
    return {name for name in one if one[name] != other[name]}


def config_differences(description: Description, model: SpikingModel) -> dict[str, tuple[Any, Any]]:
    """Fields of the config in which a checkpoint and a model differ, with both values; "neuron.tau" is one."""
    entry = find_family(description.family)
    assert entry is not None  # that of the model
    config: Any = entry.config
    theirs, ours = (_flat(config_to_dict(c)) for c in (change_config(config, description.config), model.config))
    return _differences(theirs, ours)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(t.shape) for name, t in tensors.items()}


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is not the same in both, with both values; None is none."""
    names = dict.fromkeys([*ours, *theirs])
    return {n: (ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)}


def _few(differ: Mapping[str, tuple[Any, Any]], there: str, here: str) -> str:
    """The first differences, and how many there are."""
    first = [f"{n} is {a or 'not'} {there}, {b or 'not'} {here}" for n, (a, b) in list(differ.items())[:3]]
    return f"{len(differ)} tensors differ, such as {'; '.join(first)}"
