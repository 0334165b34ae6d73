"""Starting from an ANN: the same network with ReLU and one step, whose weights and thresholds the neurons take over.

Reconstruction: a part of our construction of dynamic time steps (see `time_steps`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.adaptive.adapted import require_time
from spikevit.errors import unknown
from spikevit.models import SpikingModel
from spikevit.models.running import evaluating, zoo_network
from spikevit.neurons import Neuron, Rectifier
from spikevit.schema import of_kind, positive


def ann_twin(model: SpikingModel) -> SpikingModel:
    """The model with ReLU in place of neurons, and one time step; fresh weights.

    As `create_model(name, time_steps=1, neuron={"kind": "relu"})`; it trains, saves and loads as any model.
    """
    require_time(model, "an ANN twin")
    config = replace(model.config, time_steps=1, neuron=replace(model.config.neuron, kind="relu"))
    build: Any = type(model.base)
    twin = build(config)
    twin.name = model.name
    return twin


def start_from_ann(model: SpikingModel, ann: SpikingModel, images: Tensor, *, percentile: float = 99.0) -> SpikingModel:
    """A copy of the model with the weights of its ANN twin, and a threshold for each layer of neurons.

        θ_l = percentile of the positive activations of layer l

    What a layer fires stands for θ_l; the batch norms behind it take up that factor when the copy is trained.

    Args:
        model: of the zoo, with a time axis.
        ann: trained `ann_twin` of it.
        images: (B, C, H, W), normalised as in training, to see activations of.
        percentile: above 0, at most 100.

    Raises:
        ValueError: another network; a layer that is silent, or not finite, on these images; a percentile out of range.
    """
    require_time(model, "a start from an ANN")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile={percentile} must be above 0 and at most 100")
    zoo_network(ann, "a start from an ANN")
    rectifiers = {name: m for name, m in ann.named_modules() if isinstance(m, Rectifier)}
    names = [name for name, m in model.named_modules() if isinstance(m, Neuron)]
    if sorted(rectifiers) != sorted(names):
        raise ValueError(
            f"ann is not the twin of {model.name or type(model).__name__}: it has {len(rectifiers)} layers of ReLU, "
            f"the model {len(names)} of neurons; `ann_twin` makes one"
        )
    table: dict[str, float] = {}

    def look(name: str):
        def hook(_module: nn.Module, _args: Any, out: Tensor) -> None:
            if not out.isfinite().all():
                raise ValueError(f"{name} of the ann is not finite (NaN or infinite) on these images")
            found = out[out > 0].double()
            if not len(found):
                raise ValueError(f"{name} of the ann is silent on these images: no threshold can be taken from it")
            k = max(1, round(len(found) * percentile / 100))
            table[name] = float(found.kthvalue(k).values)

        return hook

    handles = [m.register_forward_hook(look(name)) for name, m in rectifiers.items()]
    try:
        with torch.no_grad(), evaluating(ann):
            ann(images)
    finally:
        for handle in handles:
            handle.remove()
    started = set_thresholds(model, table)
    theirs, ours = ann.state_dict(), started.state_dict()
    if differ := [name for name in theirs if name not in ours or ours[name].shape != theirs[name].shape]:
        raise ValueError(f"ann is not the twin of {model.name or type(model).__name__}: {differ[0]} differs")
    started.load_state_dict(theirs, strict=False)  # τ of parametric neurons is the model's own
    return started


def set_thresholds(model: SpikingModel, table: Mapping[str, float]) -> SpikingModel:
    """A copy of the model whose layers of neurons fire at these thresholds, by name; its checkpoints keep them."""
    model = copy.deepcopy(zoo_network(model, "set_thresholds"))
    neurons = {name: m for name, m in model.named_modules() if isinstance(m, Neuron)}
    for name, threshold in of_kind("table", table, Mapping, "a mapping: {layer of neurons: threshold}").items():
        if name not in neurons:
            raise unknown("layer of neurons", name, neurons)
        positive(f"table[{name!r}]", threshold)
        neurons[name].threshold = float(threshold)
    model.methods = (*model.methods, ("thresholds", {"table": dict(table)}))
    return model
