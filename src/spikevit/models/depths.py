"""How deep each parameter of a model lies, counted in blocks along its forward pass."""

from __future__ import annotations

import copy
from contextlib import ExitStack

import torch
from torch import nn

from spikevit.layers import Block
from spikevit.models.base import SpikingModel
from spikevit.models.running import evaluating


def depths(model: SpikingModel) -> dict[str, int]:
    """The depth l of every parameter, by name: 0 in the stem, l in block l = 1 … n, L = n + 1 in the head.

    Blocks of all stages are numbered on. What stands between two of them, such as a patch embedding between stages,
    belongs to the one behind it. What the forward pass does not meet (auxiliary heads, scores of time steps) has depth
    L. The order is found by running an outline of the model of the zoo inside, so it holds for any model of `Block`s.

    Raises:
        ValueError: a model without blocks.
    """
    base = model.base
    outline = copy.deepcopy(base).to("meta")
    found: dict[str, int] = {}  # of modules, as they are entered
    block, behind = 0, 0  # the one that is running, those that have ended

    def enter(name: str, module: nn.Module) -> None:
        nonlocal block
        block = behind + 1 if isinstance(module, Block) else block
        found.setdefault(name, block or behind + bool(behind))

    def leave(module: nn.Module) -> None:
        nonlocal block, behind
        if isinstance(module, Block):
            block, behind = 0, behind + 1

    c = base.config
    images = torch.zeros(1, c.in_channels, *c.image_size, device="meta", dtype=base.dtype)
    with ExitStack() as hooks, evaluating(outline), torch.no_grad():
        for name, module in outline.named_modules():
            if name:
                hooks.callback(module.register_forward_pre_hook(lambda m, _, n=name: enter(n, m)).remove)
                hooks.callback(module.register_forward_hook(lambda m, *_: leave(m)).remove)
        outline(images)
    if not behind:
        raise ValueError(f"{model._called()} has no blocks (spikevit.layers.Block) to count depths by")
    of = {id(p): _nearest(name, found, behind + 1) for name, p in base.named_parameters()}
    return {name: of.get(id(p), behind + 1) for name, p in model.named_parameters()}


def _nearest(name: str, found: dict[str, int], otherwise: int) -> int:
    """The depth of the innermost module around a parameter that ran."""
    while name:
        name = name.rpartition(".")[0]
        if name in found:
            return found[name]
    return otherwise
