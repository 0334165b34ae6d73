"""A network as others run it: out of its wrapper, in evaluation mode, on images that come in one of several forms."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from spikevit.models.base import SpikingModel
from spikevit.models.inputs import ORDER, no_tensor, warn_of_bytes
from spikevit.schema import of_kind


def network(model: Any) -> nn.Module:
    """The model, if it is one; a ValueError where it is none, such as the path of one."""
    return of_kind("model", model, nn.Module, "a network (torch.nn.Module); load_model(path) gives that of a file")


def zoo_network(model: Any, what: str) -> SpikingModel:
    """The model, if it is one of ours, as `what` needs."""
    right = f"a SpikingModel, which {what} needs: create_model(name) and load_model(path) give one"
    return of_kind("model", model, SpikingModel, right)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network in DataParallel, DistributedDataParallel, AveragedModel, torch.compile or a Sequential of one."""
    model = network(model)
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel, AveragedModel)):
            model = model.module
        elif "_orig_mod" in model._modules:  # of torch.compile
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        elif type(model) is nn.Sequential and len(model) == 1:
            model = model[0]
        else:
            return model


def zoo_model(model: nn.Module) -> SpikingModel | None:
    """The model of ours that the network is, or has inside: its traits are the network's. None where there is none.

    Raises:
        ValueError: several inside, of which traits differ.
    """
    found = list(dict.fromkeys(_outermost(model)))
    if len({(m.time_axis, m.shares_stem, m.config.time_steps * m.time_axis) for m in found}) > 1:
        names = ", ".join(m._called() for m in found)
        raise ValueError(f"{type(model).__name__} holds models that run differently ({names}): look at each by itself")
    return found[0] if found else None


def _outermost(module: nn.Module) -> Iterator[SpikingModel]:
    if isinstance(module, SpikingModel):
        yield module
    else:
        for child in module.children():
            yield from _outermost(child)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode, so that no statistics move; afterwards every module has the mode again that it was in."""
    modes = [(m, m.training) for model in models for m in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for m, training in modes:
            m.training = training


def batches_of(images: Tensor | Iterable[Any]) -> Iterable[Any]:
    """One batch as batches; an array or a picture is refused before it is taken for several."""
    if isinstance(images, Tensor):
        return [images]
    if not isinstance(images, Iterable) or type(images).__module__.startswith(("numpy", "PIL")):
        raise no_tensor(images)
    return images


def inputs_of(model: nn.Module, images: Tensor | Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """All arguments of the model, batch by batch.

    Args:
        model: ours, or any other.
        images: one batch, or batches. A batch is a tensor (B, ...), ours also (T, B, C, H, W); or (images, labels), of
            which the labels are left out; or, for a model that is not ours, a tuple of all its arguments.

    Raises:
        ValueError: a batch without images; labels of other images; arguments that the model does not take.
    """
    ours = zoo_model(model)
    for i, batch in enumerate(batches_of(images)):
        inputs = tuple(batch) if isinstance(batch, (list, tuple)) else (batch,)
        if inputs and not isinstance(inputs[0], Tensor):
            raise no_tensor(inputs[0])
        if not inputs or not inputs[0].shape[:1].numel():
            raise ValueError(f"a batch must be a tensor of at least one image; got {shown(inputs)}")
        x = inputs[0]
        frames = ours is not None and x.dim() == 5
        if len(inputs) == 2 and _are_labels(inputs[1]) and (ours or _refusal(model, inputs)):
            if len(inputs[1]) != (many := x.shape[frames]):
                raise ValueError(f"{len(inputs[1])} labels of {many} images {tuple(x.shape)}: {ORDER}")
            inputs = inputs[:1]
        if ours and len(inputs) > 1:
            raise ValueError(f"{ours._called()} takes images, or (images, labels); got {shown(inputs)}")
        if ours and not i and ours is unwrapped(model):  # else something of another's may normalise first
            warn_of_bytes(ours, x)
        if why := _refusal(model, inputs):
            raise ValueError(
                f"{type(model).__name__} does not take {shown(inputs)}: {why}; a batch may be a tuple of all its "
                "arguments"
            )
        yield inputs


def _are_labels(x: Any) -> bool:
    """Whole numbers (B,), as of classes."""
    return isinstance(x, Tensor) and x.dim() == 1 and not x.is_floating_point() and not x.is_complex()


def _refusal(model: nn.Module, inputs: tuple[Any, ...]) -> str:
    """Why the model's forward cannot be called with so many arguments; "" where it can."""
    try:
        inspect.signature(model.forward).bind(*inputs)
    except TypeError as error:
        return str(error)
    except ValueError:  # no signature is known
        pass
    return ""


def shown(inputs: tuple[Any, ...]) -> str:
    """Arguments in short: shapes of tensors."""
    return ", ".join(f"{tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)[:40] for x in inputs) or "nothing"
