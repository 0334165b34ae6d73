"""Looking at neurons while a model runs: a hook per neuron, in firing order, that keeps nothing itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.adaptive.adapted import own_name
from spikevit.models.running import evaluating, inputs_of, unwrapped, zoo_model
from spikevit.neurons import ExpGIF, Neuron, Staircase, dense
from spikevit.neurons.expg import histogram
from spikevit.neurons.staircase import spike_count, spike_pattern
from spikevit.profiling.finite import FIRING, parts, refuse_non_finite
from spikevit.profiling.health import silence
from spikevit.schema import wrong


def seen(neuron: nn.Module, out: Any) -> Tensor:
    """What neurons of any kind sent: spikes (T, …), or the codes of a staircase."""
    if isinstance(neuron, Staircase):
        return (out / neuron.quantum).round_().to(neuron.code.dtype)
    return out.steps if isinstance(neuron, ExpGIF) else dense(out)


def spikes_of(neuron: nn.Module, sent: Tensor) -> int:
    """How many spikes that is (of `seen`), or stands for."""
    return int(spike_count(sent, neuron.code).sum() if isinstance(neuron, Staircase) else sent.count_nonzero())


def fired(neuron: nn.Module, out: Any) -> tuple[int, int]:
    """How many spikes that is, or stands for, and of how many (step, neuron) cells."""
    sent = seen(neuron, out)
    return spikes_of(neuron, sent), sent.numel() * (neuron.code.time_steps if isinstance(neuron, Staircase) else 1)


@contextmanager
def observe(model: nn.Module, fn: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within the context, calls fn(name, spikes) each time a neuron of the model has fired.

    name is the neuron's module name, spikes its output (T, B, …), not copied. Of a converted network T is the layer's
    own; a staircase network has codes (1, B, …), whole numbers, instead. Names are those of the model out of its
    wrapper (DataParallel, torch.compile, …). The hooks go with the context.
    """
    if not callable(fn):
        raise wrong("fn", fn, "a function fn(name, spikes)")
    model = unwrapped(model)
    ours = zoo_model(model)
    one_step = set(ours.modules()) if ours else set()  # where values are (1, B, …), so that spikes are (T, 1, B, …)

    def hook(name: str):
        def look(module, _args, out) -> None:  # what a hook returns would take the place of the spikes
            sent = seen(module, out)
            fn(name, sent[:, 0] if isinstance(module, ExpGIF) and module in one_step else sent)

        return look

    handles = [
        module.register_forward_hook(hook(name)) for name, module in model.named_modules() if isinstance(module, FIRING)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Fired:
    """Which layers of neurons have fired within the context; costs a reduction a layer, and asks no device before the
    end. Layers of which nothing was computed, whose steps are all closed, are not among them.
    """

    def __init__(self, model: nn.Module):
        self.model = unwrapped(model)
        self.most: dict[str, Tensor] = {}  # the largest that each layer sent
        self.stack = ExitStack()

    def __enter__(self) -> Fired:
        for name, module in self.model.named_modules():
            if isinstance(module, FIRING):
                self.stack.callback(module.register_forward_hook(partial(self._see, name)).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def _see(self, name: str, _module: nn.Module, _args: Any, out: Any) -> None:
        for part in parts(out):
            if part.numel():
                least, most = part.detach().aminmax()
                most = torch.maximum(most, -least) if part.dtype.is_signed else most
                self.most[name] = torch.maximum(self.most[name], most) if name in self.most else most

    @property
    def silent(self) -> str:
        """How many layers never fired, in short; "" where all did."""
        silent = sum(not most for most in self.most.values())
        return f"{silent} of {len(self.most)} layers silent" if silent else ""

    def silence(self, where: str = "on these images") -> str:
        """What to say of layers that never fired, by their names in the model of the zoo; "" where all did."""
        return silence({own_name(name): float(most) for name, most in self.most.items()}, where)


def record_spikes(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Every neuron's spikes (T, B, …) for one batch, a tensor, by module name in firing order; no gradients.

    The model runs in evaluation mode. Everything is kept at once: for rates use `firing_rates`.

    Raises:
        ValueError: weights, images or membrane currents that are not finite.
    """
    spikes: dict[str, Tensor] = {}

    def new_batch() -> None:
        if spikes:
            raise ValueError("images are several batches; record_spikes takes one batch, firing_rates takes several")

    with observe(model, spikes.__setitem__):
        run(model, images, new_batch)
    return spikes


class StepRates:
    """Firing rates of every layer at each of its steps, over any number of batches; keeps only counts.

    Within the context the model's neurons are counted; `new_batch` says that the next run starts at the first step. A
    layer that fires again before is at its next step, as in models that run step by step; cells that are not computed
    there do not count. A staircase has no spikes yet, but the pattern of a code is a closed form: rates follow from how
    often each code occurs.
    """

    def __init__(self, model: nn.Module):
        self.model = unwrapped(model)
        self.codes: dict[str, Tensor] = {}
        self.fired: dict[str, list[list[int]]] = {}  # of each step: spikes, cells
        self.at: dict[str, int] = {}  # the step that each layer is at; "": how many the first neurons sent
        self.alive = Fired(model)
        self.stack = ExitStack()

    def __enter__(self) -> StepRates:
        self.stack.enter_context(observe(self.model, self._count))
        self.stack.enter_context(self.alive)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def new_batch(self) -> None:
        """Another batch begins."""
        self.at = {}

    def _count(self, name: str, sent: Tensor) -> None:
        neuron: Any = self.model.get_submodule(name)
        if isinstance(neuron, Staircase):
            self.codes[name] = self.codes.get(name, 0) + histogram(sent, neuron.code.levels)
            return
        if isinstance(neuron, Neuron) and len(sent) > (steps := self.at.setdefault("", len(sent))):
            sent = sent.unflatten(0, (steps, -1))  # of the batch-axis defect, which lays time through the batch
        first = self.at.get(name, 0)
        self.at[name] = first + len(sent)
        known = self.fired.setdefault(name, [])
        known += [[0, 0] for _ in range(first + len(sent) - len(known))]
        for step, spikes in zip(known[first:], sent, strict=False):
            step[0] += int(spikes.count_nonzero())
            step[1] += spikes.numel()

    def rates(self) -> dict[str, Tensor]:
        """By layer, in firing order: (groups, steps), one group but for staircases."""
        neurons: Any = self.model.get_submodule
        return {
            name: neurons(name).code.by_group(rates) if name in self.codes else rates[None]
            for name, rates in self.over_time().items()
        }

    def over_time(self) -> dict[str, Tensor]:
        """By layer, in firing order: (steps,), of staircases those of all groups in the order in which they fire."""
        found = {}
        for name, count in self.codes.items():
            code: Any = self.model.get_submodule(name).code
            pattern = spike_pattern(torch.arange(code.levels + 1, device=count.device), code).double()
            found[name] = (pattern @ count.double() / count.sum()).cpu()
        for name, steps in self.fired.items():
            found[name] = torch.tensor([n / max(1, cells) for n, cells in steps], dtype=torch.float64)
        return found

    def means(self) -> dict[str, float]:
        """By layer: of all cells of all steps that were computed."""
        found = {name: float(rates.mean()) for name, rates in self.rates().items() if name in self.codes}
        for name, steps in self.fired.items():
            fired, cells = map(sum, zip(*steps, strict=True))
            found[name] = fired / max(1, cells)
        return found


def firing_rates(model: nn.Module, images: Tensor | Iterable[Any]) -> dict[str, float]:
    """Share of (step, neuron) cells that fired, by module name, over all batches of images; keeps only counts.

    The model runs in evaluation mode. Layers that never fired are said in a warning.

    Args:
        images: one batch, or batches, of images or of (images, labels), as in `count`.

    Raises:
        ValueError: no images; weights, images or membrane currents that are not finite.
    """
    counted = _counted(model, images)
    if said := counted.alive.silence():
        warnings.warn(said)
    return counted.means()


def step_rates(model: nn.Module, images: Tensor | Iterable[Any]) -> dict[str, Tensor]:
    """Share of neurons that fired at each step, (groups, steps) by module name: see `StepRates`."""
    return _counted(model, images).rates()


def _counted(model: nn.Module, images: Tensor | Iterable[Any]) -> StepRates:
    with StepRates(model) as counted:
        if not run(model, images, counted.new_batch):
            raise ValueError("data holds no images: there are no rates")
    return counted


@torch.no_grad()
def run(model: nn.Module, images: Tensor | Iterable[Any], new_batch: Callable[[], None] = lambda: None) -> int:
    """Runs the model over batches, in evaluation mode, refusing what is not finite; returns how many there were."""
    model, batches = unwrapped(model), 0
    with evaluating(model), refuse_non_finite(model) as finite:
        for inputs in inputs_of(model, images):
            new_batch()
            finite.see("images", inputs[0])
            finite.see("outputs", model(*inputs))
            finite.check()
            batches += 1
    return batches
