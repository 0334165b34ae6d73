"""The spike budget: a penalty on the spikes that staircase neurons will fire, while there is no time axis yet."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from spikevit.neurons import Staircase
from spikevit.schema import wrong
from spikevit.training.recipe import SpikesRecipe


class Budget:
    """Within the context, every forward of the model adds up c̄ of its neurons; `penalty` is what exceeds the target.

    penalty = weight · ramp · max(0, c̄ − target)/target, c̄ the mean of c̄(x/Δ) over all neurons of the network, or for
    each layer by itself, then their mean. c̄(u) interpolates the exact count c(k) between neighbouring codes.
    """

    def __init__(self, model: nn.Module, recipe: SpikesRecipe):
        if not any(isinstance(m, Staircase) for m in model.modules()):
            raise wrong("spikes.target", recipe.target, "left out: it is for models with staircase neurons (ge2mst)")
        self.model, self.recipe = model, recipe
        self.counts: list[tuple[Tensor, int]] = []

    def __enter__(self) -> Budget:
        self.counts = []
        self.hooks = ExitStack()
        for m in self.model.modules():
            if isinstance(m, Staircase):
                self.hooks.callback(m.register_forward_hook(self._add).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.close()

    def _add(self, neuron: nn.Module, args: tuple[Tensor], _out: Tensor) -> None:
        assert isinstance(neuron, Staircase)
        self.counts.append((neuron.expected_count(args[0]).mean(), args[0].numel()))

    def penalty(self, epoch: float) -> Tensor:
        """Of the last forward."""
        r = self.recipe
        assert r.target is not None
        means = torch.stack([mean for mean, _ in self.counts])
        if r.per == "network":
            sizes = torch.tensor([float(size) for _, size in self.counts], device=means.device)
            means = (means * sizes).sum()[None] / sizes.sum()
        ramp = (
            min(1.0, max(0.0, epoch - r.start_epoch) / r.ramp_epochs)
            if r.ramp_epochs
            else float(epoch >= r.start_epoch)
        )
        return r.weight * ramp * (means / r.target - 1).relu().mean()
