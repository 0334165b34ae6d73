"""Checkpoints: weights as safetensors, with what is needed to build the model again as JSON in the same file.

Loading executes no code. Saving is atomic: a file of that name is the old one or the new one, never half of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spikevit.models.base import SpikingModel
from spikevit.models.registry import change_config, config_to_dict, families

KEY = "spikevit"  # of the metadata
OWN = ("format", "family", "name", "config", "methods")  # what every checkpoint says; the rest is the saver's
FORMAT = 2  # since methods can be applied to a model; without any, files are as those of format 1


def save_model(model: SpikingModel, path: str | Path, **about: Any) -> None:
    """Saves weights, name and config of a model; `about` is any more plain data (data set, accuracy, …) to keep.

    Raises:
        OSError: the file could not be written whole; what was there before is untouched.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    description = {
        "format": FORMAT if model.methods else 1,
        "family": type(model.base).__name__,
        "name": model.name,
        "config": config_to_dict(model.config),
    }
    if model.methods:
        description["methods"] = model.methods
    if taken := about.keys() & OWN:
        raise ValueError(f"about={sorted(taken)}: these names are the checkpoint's own; take others")
    description |= about
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {KEY: json.dumps(description)}))


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a temporary file beside `path`, then renames it; a failure leaves nothing behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except Exception as error:
        kept = "the file that was there is untouched" if path.exists() else "nothing was left behind"
        raise OSError(f"could not save {path} ({kept}): {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that new files of this process lack (reading it means setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_about(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself: family, name, config and whatever it was saved with."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        inside = "; it is a directory, a run's model is its best.safetensors" if Path(path).is_dir() else ""
        raise ValueError(f"there is no checkpoint {path}{inside}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, or not a safetensors file: {error}") from error
    if KEY not in metadata:
        raise ValueError(f"{path} is not a checkpoint of spikevit; for an original's weights use load_original")
    try:
        about = json.loads(metadata[KEY])
        newer = about["format"] > FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say what model it holds: {error!r}") from error
    if newer:
        raise ValueError(f"{path} is of format {about['format']}, this version of spikevit reads up to {FORMAT}")
    return about


def load_model(path: str | Path) -> SpikingModel:
    """The model saved at `path`, on the CPU, in evaluation mode.

    Raises:
        ValueError: no such file, a truncated one, or not a checkpoint of spikevit.
    """
    about = read_about(path)
    build, config = families().get(about["family"], (None, None))
    if build is None or config is None:
        raise ValueError(f"{path} holds a {about['family']}, which this version of spikevit does not know")
    model = build(change_config(config, about["config"]))
    model.name = about["name"]
    if about.get("methods"):
        from spikevit.adaptive import apply_methods

        model = apply_methods(model, about["methods"])
    return load_weights(model, path, keep_dtype=False).eval()


def load_weights(model: SpikingModel, path: str | Path, *, keep_dtype: bool = True) -> SpikingModel:
    """Loads a checkpoint's weights into a model of the same family and shape; returns the model.

    The model keeps its dtype and device, or takes the checkpoint's dtype and the CPU.

    Raises:
        ValueError: the checkpoint is of another model: both are named, and the first tensors that differ.
    """
    from safetensors.torch import load_file

    about = read_about(path)
    # Copied: views into the file lie at any address, and products may round otherwise for weights that are not aligned.
    tensors = {name: t.clone() for name, t in load_file(path).items()}
    ours = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    theirs = {name: tuple(t.shape) for name, t in tensors.items()}
    if ours != theirs:
        differ = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        first = [f"{name}: {theirs.get(name, 'none')} there, {ours.get(name, 'none')} here" for name in differ[:3]]
        raise ValueError(
            f"{path} is of another model, {about['name'] or about['family']}; "
            f"this one is {model.name or type(model).__name__}. "
            f"{len(differ)} tensors differ, such as {'; '.join(first)}"
        )
    model.load_state_dict(tensors, assign=not keep_dtype)
    return model
