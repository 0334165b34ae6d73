"""Images as models take them: what is wrong with a batch, in one line. Nothing here asks a GPU for a value."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikevit.schema import wrong

if TYPE_CHECKING:
    from spikevit.models.base import SpikingModel

ORDER = "images are (B, C, H, W), recordings (T, B, C, H, W) with time first"
TO_TENSOR = {  # by the package and the name of a type: what makes a batch of it
    ("numpy", "ndarray"): "torch.from_numpy(images) makes a tensor",
    ("PIL", ""): "torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None] makes a batch (1, C, H, W)",
    ("builtins", "list"): "torch.stack(images) makes a batch of tensors (C, H, W)",
    ("builtins", "tuple"): "torch.stack(images) makes a batch of tensors (C, H, W)",
}


def check_images(model: SpikingModel, images: Any) -> None:
    """Refuses what is no batch of images for the model, and warns of frames that look like (B, T, C, H, W).

    Looks at type, shape and dtype alone. That the second axis of frames is the T of the config, and the first is not,
    may be meant: a recording may have any number of steps.

    Raises:
        ValueError: no tensor; no (B, C, H, W) or (T, B, C, H, W); empty; other channels than the model's (says where
            they are last); whole numbers; frames for a model without a time axis.
    """
    if not isinstance(images, Tensor):
        raise no_tensor(images)
    shape, config = tuple(images.shape), model.config
    if images.dim() not in (4, 5):
        one = f"; of one image, images[None] is a batch {(1, *shape)}" if images.dim() == 3 else ""
        raise ValueError(f"images must be (B, C, H, W) or (T, B, C, H, W); got shape {shape}{one}")
    if not all(shape):
        raise ValueError(f"images are empty: shape {shape}; at least one step and one image are needed")
    if shape[-3] != config.in_channels:
        last = "; with channels last, it takes images.movedim(-1, -3)" if shape[-1] == config.in_channels else ""
        raise ValueError(
            f"images have {shape[-3]} channels (shape {shape}), the model takes in_channels={config.in_channels}{last}"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point, normalised as in training; got {images.dtype}: "
            "spikevit.data.normalise(images, info) makes them so"
        )
    model._check_size(*shape[-2:])
    if len(shape) == 4:
        return
    if not model.time_axis:
        raise ValueError(f"{model._called()} has no time axis and takes images, not frames {shape}")
    steps = config.time_steps
    if shape[0] != steps == shape[1] and not torch.compiler.is_compiling():
        warnings.warn(
            f"images {shape} are taken for {shape[0]} time steps of {shape[1]} images, and {model._called()} has "
            f"time_steps={steps}: {ORDER}; images.transpose(0, 1) exchanges the two"
        )


def check_features(model: SpikingModel, features: Any) -> None:
    """Refuses what `forward_features` cannot have given: no (T, B, …, D)."""
    if not isinstance(features, Tensor) and not hasattr(features, "dense"):
        raise wrong("features", features, "a tensor (T, B, …, D), as forward_features gives it")
    shape, width = tuple(features.shape), model.num_features
    if len(shape) < 3 or shape[-1] != width:
        raise ValueError(
            f"features are {shape}, {model._called()} takes (T, B, …, D) with D = {width}, as forward_features gives "
            "them: time steps first"
        )


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Of logits (B, classes) with labels (B,) or probabilities (B, classes), mean over images.

    Raises:
        ValueError: targets of another shape, fractions as labels, or labels that are none of the classes. Which they
            are is not asked of a GPU.
    """
    images, classes = logits.shape
    shape, fractions = tuple(targets.shape), targets.is_floating_point()
    if shape != ((images, classes) if fractions else (images,)):
        raise ValueError(
            f"targets are {targets.dtype} {shape}; they must be labels, whole numbers ({images},), or probabilities "
            f"({images}, {classes})"
        )
    if not fractions and targets.device.type == "cpu" and images and not torch.compiler.is_compiling():
        least, most = (int(x) for x in targets.aminmax())
        if least < 0 or most >= classes:
            bad = least if least < 0 else most
            raise ValueError(f"label {bad} is none of the {classes} classes, which are counted from 0 to {classes - 1}")
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def no_tensor(images: Any) -> ValueError:
    """The error of what is no tensor: says what it is, and what makes one of it."""
    kind = type(images)
    package = kind.__module__.partition(".")[0]
    size = getattr(images, "shape", None) or getattr(images, "size", None)  # of an array, of a picture
    size = f" of {len(images)}" if isinstance(images, (list, tuple)) else f" {size}" if isinstance(size, tuple) else ""
    how = TO_TENSOR.get((package, kind.__name__)) or TO_TENSOR.get((package, ""), ORDER)
    called = kind.__name__ if package == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return ValueError(f"images must be a tensor; got {called}{size}: {how}")


def explaining(model: SpikingModel, images: Tensor) -> AbstractContextManager[None]:
    """Within the context, an error of torch is explained where images and weights are of two devices or dtypes.

    Not refused before: under autocast, FSDP or offloading, weights may be elsewhere until they are needed.
    """
    return nullcontext() if torch.compiler.is_compiling() else _explaining(model, images)


@contextmanager
def _explaining(model: SpikingModel, images: Tensor) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        weights = next(model.parameters(), images)
        for name in ("device", "dtype"):
            theirs, ours = getattr(images, name), getattr(weights, name)
            if theirs != ours:
                raise ValueError(
                    f"images.{name}={theirs}, the weights of {model._called()} are {ours}: give it "
                    f"images.to(model.{name}), or move it with model.to(images.{name})"
                ) from error
        raise


def warn_of_bytes(model: SpikingModel, images: Tensor) -> None:
    """Warns of values as in 0 … 255 (asks the device): normalised images have negative values, and none so large."""
    if images.is_meta or not images.is_floating_point() or model.config.in_channels == 2:  # counts of events
        return
    least, most = (float(x) for x in images.detach().aminmax())
    if least >= 0 and 64 < most <= 255:
        warnings.warn(
            f"images have values from {least:g} to {most:g}, and {model._called()} takes normalised ones: "
            "spikevit.data.normalise(images.to(torch.uint8), info) makes them so"
        )
