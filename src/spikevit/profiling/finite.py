"""NaN where nothing else would show it: neurons never fire on NaN, so that spikes, logits and loss stay finite.

What is looked at are the membrane currents, layer by layer. A layer costs two reductions of what goes into it, and a
batch one question to the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.models.running import unwrapped
from spikevit.neurons import ExpGIF, Neuron, SpikeTrain, Staircase, dense
from spikevit.neurons.some_steps import SomeSteps

FIRING = (Neuron, Staircase, ExpGIF)
NOT = "not finite (NaN or infinite)"


class Finite:
    """Remembers of all that it sees the least and the greatest entry, on the device; `check` asks for them at once."""

    def __init__(self, layers: Iterable[str] = ()) -> None:
        self.layers = set(layers)
        self.names: list[str] = []
        self.extremes: list[tuple[Tensor, ...]] = []

    def see(self, name: str, x: Any) -> None:
        """Takes in a tensor, spikes or steps, or several; anything else passes. name: plural, or that of a layer."""
        for part in parts(x):
            if part.is_floating_point() and part.numel() and not part.is_meta:
                self.names.append(name)
                self.extremes.append(part.detach().aminmax())  # NaN is both; a sum could overflow

    def bad(self) -> list[str]:
        """Names of what was not finite, in the order in which it was seen; forgets all."""
        groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for i, (x, _) in enumerate(self.extremes):
            groups.setdefault((x.device, x.dtype), []).append(i)
        wrong: list[int] = []
        for places in groups.values():  # one, but where a network lies on several devices or in several types
            both = torch.stack([x for i in places for x in self.extremes[i]])
            finite = both.isfinite().view(-1, 2).all(1).tolist()
            wrong += [i for i, fine in zip(places, finite, strict=True) if not fine]
        names = list(dict.fromkeys(self.names[i] for i in sorted(wrong)))
        self.names, self.extremes = [], []
        return names

    def check(self) -> None:
        """Raises a ValueError if anything since the last time was not finite: names the first, and says how many."""
        if not (bad := self.bad()):
            return
        if bad[0] not in self.layers:
            raise ValueError(f"{bad[0]} are {NOT}")
        raise ValueError(
            f"membrane currents are {NOT} in {len(self.layers.intersection(bad))} of {len(self.layers)} layers of "
            f"neurons, first in {bad[0]}; neurons stay silent on NaN, and nothing else shows it: look at the weights "
            "and batch norms in front of that layer, and at the size of the images' values"
        )


def parts(x: Any) -> Iterator[Tensor]:
    """The tensors that a value consists of."""
    if isinstance(x, SomeSteps):
        yield from parts((x.data, x.rest))
    elif isinstance(x, SpikeTrain):
        yield from parts((x.steps, x.quantum))
    elif isinstance(x, (list, tuple)):
        for part in x:
            yield from parts(part)
    elif isinstance(x := dense(x), Tensor):
        yield x[0] if x.dim() and len(x) > 1 and x.stride(0) == 0 else x  # a still image, seen at every step


@contextmanager
def refuse_non_finite(model: nn.Module) -> Iterator[Finite]:
    """Within the context, sees what goes into every layer of neurons; at its end what is not finite is an error.

    Weights and running statistics are looked at once, before anything runs. `check()`, after each batch if that suits,
    raises the error earlier; `see(name, x)` takes in anything else, such as images and logits. A GPU is asked once a
    `check`, not once a layer.

    Raises:
        ValueError: names the first layer of neurons, in order of execution, and how many there are.
    """
    model = unwrapped(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, FIRING)}
    finite = Finite(layers)
    statistics = ((name, x) for name, x in model.named_buffers() if "running_" in name)  # a mask may hold −∞
    tensors = dict(chain(model.named_parameters(), statistics))
    for name, x in tensors.items():
        finite.see(name, x)
    if bad := finite.bad():
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(
            f"{len(bad)} of {len(tensors)} tensors of {type(model).__name__} are {NOT}: {', '.join(bad[:3])}{more}"
        )
    with ExitStack() as hooks:
        for name, module in layers.items():
            see = partial(_see, finite, name)
            hooks.callback(module.register_forward_pre_hook(see).remove)
        yield finite
        finite.check()


def _see(finite: Finite, name: str, _module: nn.Module, args: tuple) -> None:
    """A hook, which must return nothing."""
    finite.see(name, args[:1])
