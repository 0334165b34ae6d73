"""Model and data of a recipe, made to fit each other; the model with fresh weights, or going on from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from spikevit.adaptive import add_halting, allocate_time_steps, ann_twin, set_thresholds, start_from_ann
from spikevit.adaptive.adapted import require_time
from spikevit.checkpoint import (
    FREE,
    Description,
    config_differences,
    fresh_tensors,
    load_model,
    load_weights,
    read_about,
    read_description,
)
from spikevit.conversion.quantise import quantise
from spikevit.data import Data, DataInfo, normalise
from spikevit.data.batches import take
from spikevit.data.load import load_source
from spikevit.errors import inside
from spikevit.models import SpikingModel, create_model
from spikevit.models.registry import change_config, families, model_entry
from spikevit.neurons import set_backend
from spikevit.schema import wrong
from spikevit.training.freeze import freeze_, keep_frozen_, learning
from spikevit.training.recipe import ModelRecipe, Recipe

MOST_WEIGHTS = 2**30  # of a model in training: 16 GiB with gradients and AdamW's two averages, in float32
Say = Callable[[str], Any]


def build(
    recipe: Recipe, data: Data | None = None, *, was: Description | None = None, say: Say = lambda line: None
) -> tuple[SpikingModel, Data]:
    """Model, with weights drawn from the recipe's seed, and data of a recipe (or `data`), made to fit each other.

    What the recipe freezes is in evaluation mode, the rest in that of training.

    was: what the model is, of a run that goes on; its weights come later. say: is called with a line for each thing
    that the recipe changes in the checkpoint it starts from, and for how much of the model learns.
    """
    recipe = recipe if was else settled(recipe)
    m = recipe.model
    if data is None and recipe.data_given:
        raise ValueError("this run was given its data in Python (data_given): go on with train(directory, data=…)")
    if data is not None and recipe.data.limit is not None:
        raise wrong("data.limit", recipe.data.limit, "left out where data are given: give a part of them")
    data = load_source(vars(recipe.data)) if data is None else data
    fits: dict[str, Any] = {
        "num_classes": data.info.num_classes,
        "in_channels": data.info.channels,
        "image_size": tuple(data.info.image_size),
    }
    if clash := fits.keys() & m.config.keys():
        raise ValueError(f"model.config sets {sorted(clash)}, which the data set decides: change `data` instead")
    model = _methods(recipe, _fresh(recipe, fits, data, say)) if was is None else _sized(was.build, recipe)
    if m.backend:
        set_backend(model, m.backend)
    if recipe.early_exit:
        require_time(model, "early exit")  # now, not after training
    model.train()
    if m.freeze:
        keep_frozen_(freeze_(model, m.freeze))
        fresh = "" if m.start or m.ann else "; what does not, stays as it was drawn: there is no model.start"
        say(f"model.freeze: {learning(model)}{fresh}")
    return model, data


def _fresh(recipe: Recipe, fits: dict[str, Any], data: Data, say: Say) -> SpikingModel:
    """The model before any method is applied, but for thresholds."""
    m = recipe.model
    if m.start:
        return _started(recipe, m.start, fits, data.info, say)
    assert m.name is not None
    name = m.name
    model = _sized(lambda: create_model(name, time_steps=m.time_steps, **fits, **m.config), recipe)
    if m.ann:
        _refuse_no_twin(m.ann, model, data.info)
        model = start_from_ann(model, load_model(m.ann), _some_images(data).to(model.dtype))
    return model


def _methods(recipe: Recipe, model: SpikingModel) -> SpikingModel:
    if recipe.time_steps:
        model = allocate_time_steps(model, **{k: v for k, v in vars(recipe.time_steps).items() if k != "lr"})
    if recipe.halting:
        model = add_halting(model, recipe.halting)
    return model


def _sized(make: Callable[[], SpikingModel], recipe: Recipe) -> SpikingModel:
    """The model, once its outline, which takes no memory, has shown that it is not too large."""
    with torch.device("meta"):
        weights = sum(t.numel() for t in make().state_dict().values())
    if weights > MOST_WEIGHTS:
        raise ValueError(
            f"model.name={recipe.model.name} with this model.config has {weights:,} weights; at most {MOST_WEIGHTS:,} "
            "are trained: take smaller widths, less depth or smaller images"
        )
    torch.manual_seed(recipe.trainer.seed)
    return make()


def _some_images(data: Data, images: int = 256) -> Tensor:
    """The first training images, normalised."""
    part: Any = data.split("train")
    found, _ = take(part, range(min(images, len(part))))
    return normalise(found, data.info)


# --- going on from a checkpoint -------------------------------------------------------------------------------------


def settled(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves to the checkpoint of model.start: the model's name, and in what size and colours a
    folder of images is seen.
    """
    m, d = recipe.model, recipe.data
    sizes = {"image_size", "channels"} if d.name == "folder" and not recipe.data_given else set()
    if not m.start or (m.name and all(getattr(d, size) for size in sizes)):
        return recipe
    saved = read_description(m.start)
    c = saved.outline().config
    seen = {"image_size": c.image_size, "channels": c.in_channels if c.in_channels in (1, 3) else 3}
    data = replace(d, **cast(Any, {size: getattr(d, size) or seen[size] for size in sizes}))
    return replace(recipe, model=replace(m, name=m.name or saved.name), data=data)


def _started(recipe: Recipe, path: str, fits: dict[str, Any], info: DataInfo, say: Say) -> SpikingModel:
    """The model of the checkpoint with its weights; what the recipe says explicitly is changed, and said.

    With grid_bits in the recipe and none in the checkpoint it is then quantised (exact mode).
    """
    m = recipe.model
    with inside("model.start"):
        about, saved = read_about(path), read_description(path)
    _refuse_other_model(m, path, saved)
    if not m.transfer:
        _refuse_other_data(f"model.start={path}", about, saved, fits, info)
    given = m.config | ({} if m.time_steps is None else {"time_steps": m.time_steps})
    bits = None if saved.config.get("grid_bits") is not None else given.pop("grid_bits", None)
    if bits is not None:
        given.pop("power_of_two", None)  # as exact mode has it
    entry = families()[saved.family]
    config = change_config(change_config(entry.config, saved.config), given | fits)
    model = _sized(lambda: entry.build(config), recipe)
    model.name = m.name
    differ = {key: both for key, both in config_differences(saved, model).items() if key.split(".")[0] in given}
    for key, (theirs, ours) in differ.items():
        say(f"model.start: {key}={ours!r}, as the recipe says; {theirs!r} in {path}")
    if thresholds := [options for name, options in saved.methods if name == "thresholds"]:
        model = set_thresholds(model, **thresholds[-1])
    classes = info.classes if m.transfer else None
    if m.transfer:
        fresh = fresh_tensors(model, path, classes)
        say(f"model.transfer: new in the model, not from {path}: {', '.join(fresh) or 'nothing'}")
    model = load_weights(
        model, path, differ={key.split(".")[0] for key in differ}, transfer=m.transfer, classes=classes
    )
    if bits is None:
        return model
    quantised = quantise(model, bits).train()
    quantised.name = m.name
    return quantised


def _refuse_other_model(m: ModelRecipe, path: str, saved: Description) -> None:
    if m.name is None:
        return
    family = model_entry(m.name).build.__name__
    if saved.name not in (None, m.name) or saved.family != family:
        other = saved.name or f"the name of a {saved.family}"
        raise ValueError(
            f"model.start={path} is {saved.name or saved.family}, model.name={m.name}: set model.name={other}"
        )


def _refuse_other_data(
    called: str, about: dict[str, Any], saved: Description, fits: dict[str, Any], info: DataInfo
) -> None:
    """Refuses a checkpoint for other classes, channels or sizes of images than the data have."""
    theirs = (about.get("data") or {}).get("classes")
    differ = {
        key: (there, here)
        for key, here in fits.items()
        if (there := _plain(saved.config.get(key, here))) != _plain(here)
    }
    parts = [f"{key}={there} there, {here} here" for key, (there, here) in differ.items()]
    if theirs is not None and list(theirs) != list(info.classes):
        parts.append(f"its classes are {_few(theirs)}, those of {info.name} {_few(info.classes)}")
    if parts:
        raise ValueError(
            f"{called} is for other data: {'; '.join(parts)}. model.start with model.transfer=true goes on with new "
            "weights for what depends on these"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _few(names: Sequence[str], most: int = 6) -> str:
    return f"{len(names)} ({', '.join(names[:most])}{', …' if len(names) > most else ''})"


def _refuse_no_twin(path: str, model: SpikingModel, info: DataInfo) -> None:
    """Refuses an ANN that is not the model with ReLU and one time step; of its neurons nothing but the kind counts."""
    with inside("model.ann"):
        about, saved = read_about(path), read_description(path)
    with torch.device("meta"):
        twin = ann_twin(model)
    if saved.family != type(twin.base).__name__:
        raise ValueError(
            f"model.ann={path} is a {saved.family}; the recipe's {model.name} is a {type(twin.base).__name__}"
        )
    c = twin.config
    fits = {"num_classes": c.num_classes, "in_channels": c.in_channels, "image_size": c.image_size}
    _refuse_other_data(f"model.ann={path}", about, saved, fits, info)
    differ = {k: v for k, v in config_differences(saved, twin).items() if k == "neuron.kind" or k[:7] != "neuron."}
    differ = {k: v for k, v in differ.items() if k not in FREE}
    if differ:
        fields = "; ".join(f"{name} is {there!r}, of the twin {here!r}" for name, (there, here) in differ.items())
        raise ValueError(f"model.ann={path} is not the ANN twin of {model.name}: {fields}")
