"""Counting operations where they happen: every product of tensors that torch executes, by module.

At the level of tensor operators, so that functional products and custom attention are seen too, of any model. Nothing
is kept but counts.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import frexp
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.attention.mixer import Mixer
from spikevit.models import SpikingModel
from spikevit.models.running import ORDER, evaluating, inputs_of, unwrapped, zoo_model
from spikevit.neurons import SomeSteps, SpikeTrain, Staircase
from spikevit.profiling.counts import (
    SHAPES,
    SHIFT,
    VALUES,
    Counts,
    NeuronCount,
    Operand,
    OperatorCount,
    OtherCount,
    Tally,
)
from spikevit.profiling.finite import FIRING, refuse_non_finite
from spikevit.profiling.measure import measure, once_products
from spikevit.profiling.observe import fired, seen, spikes_of
from spikevit.profiling.operators import PRODUCTS, Product, Watch, tensors_in, work_of
from spikevit.profiling.origins import Origin, Origins

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
KEPT_BATCHES = 1000  # of which the numbers of single batches are kept, for the spread
COMPARISONS = ("ge", "gt", "le", "lt", "heaviside", "sign")  # inside a module: neurons that are not ours


class _Counter(Watch):
    """Sees every operator; `running` are the modules that run, the innermost last, each with its operators so far."""

    def __init__(self, modules: dict[str, nn.Module], time_steps: int) -> None:
        super().__init__()
        self.modules = modules
        self.time_steps = time_steps
        self.running: list[tuple[str, Counter[str]]] = [("", Counter())]
        self.inside_neuron = 0
        self.origins = Origins()
        self.operators: dict[tuple[str, str, int], OperatorCount] = {}
        self.neurons: dict[str, NeuronCount] = {}
        self.others: dict[tuple[str, str, str], OtherCount] = {}
        self.batch: dict[tuple[str, str, int], Tally] = {}
        self.batch_neurons: dict[str, NeuronCount] = {}
        self.parts = {
            f"{name}.proj_in.lif": m.parts for name, m in modules.items() if isinstance(m, Mixer) and len(m.parts) > 1
        }
        self.head: tuple[str, str, int] | None = None  # the last product with a weight, until neurons follow it
        self.one_pass = True

    def call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        inputs = list(tensors_in(args))
        values_first = sorted(inputs, key=lambda x: not x.is_floating_point())  # then indices and masks
        origin = self.origins.first(values_first) or self.origins.first(tensors_in(kwargs.values()))
        out = func(*args, **kwargs)
        if origin is None:
            return out
        steps = max((o.steps for x in inputs if (o := self.origins[x])), default=1)
        name, work = work_of(func)
        product = PRODUCTS[func](*args, **kwargs) if func in PRODUCTS else None
        if product and product.countable and any(map(self._is_data, product.operands)):  # not of its summand alone
            name = self._product(product, out)
        elif work == "moves":
            name = ""
        elif not self.inside_neuron:
            name = self._other(name, work, inputs, args, out, origin)
            if name in ("mean", "sum") and self._over_time(inputs[0], args):
                steps = 1
        alone = not product and work != "unknown" and sum(map(self._is_data, inputs)) == 1
        still_the_image = alone and origin.operator == "image"
        if name and not still_the_image:
            origin = Origin(name, self.running[-1][0], steps)
        elif steps > origin.steps:
            origin = origin._replace(steps=steps)
        for tensor in tensors_in((out,)):
            self.origins[tensor] = origin
        return out

    def _is_data(self, x: Tensor) -> bool:
        return self.origins[x] is not None

    def _product(self, product: Product, out: Tensor) -> str:
        """Counts it; returns what it is: conv, linear or matmul."""
        data = [i for i in (0, 1) if self._is_data(product.operands[i])]
        operator = "linear" if product.operator == "matmul" and len(data) == 1 else product.operator
        module, seen = self.running[-1]
        key = module, operator, seen[operator]  # the n-th of its kind in one forward of the module
        seen[operator] += 1
        if key not in self.operators:
            owner = self.modules[module]
            bn = getattr(owner, "bn", None)
            self.operators[key] = OperatorCount(
                module,
                operator,
                [Operand() for _ in data],
                folded_norm=isinstance(bn, nn.Module) and not bn.training,
                layer=isinstance(owner, LAYERS) or hasattr(owner, "bn"),
            )
        record = self.operators[key]
        if len(record.operands) != len(data):
            raise ValueError(
                f"{operator} of {module or 'the model'} had {len(record.operands)} data operands, now {len(data)}"
            )
        for operand, i in zip(record.operands, data, strict=True):
            operand.origin = self.origins[product.operands[i]] or operand.origin
        self.head = key if len(data) == 1 and not record.stem else None
        with _named(operator, module):
            tally = measure(product, out, data, record.operands)
            steps = [operand.origin.steps for operand in record.operands]
            tally.once = tally.active
            if max(steps) > 1 and not out.is_meta:
                once = once_products(product, out, data, steps)
                self.one_pass &= once is not None
                tally.once = once or 0
        record.tally += tally
        self.batch.setdefault(key, Tally()).__iadd__(tally)
        return operator

    def _other(self, name: str, work: str, inputs: list[Tensor], args: tuple, out: Any, origin: Origin) -> str:
        """Lists an operator that is no product; returns what to call it."""
        module, remark = self.running[-1][0], ""
        if work not in ("elementwise", "unknown"):
            name = work
        if name == "batch norm":
            remark = "folds" if origin.operator in ("conv", "linear") else "cannot fold"
        elif name in ("mean", "sum") and module and self._over_time(inputs[0], args):
            remark = "over time"
        elif name in ("mul", "div") and len(data := [o for x in inputs if (o := self.origins[x])]) > 1:
            spikes = name == "mul" and all(o.operator in ("neuron", "staircase") for o in data)
            remark = "of spikes" if spikes else "of activations"
        if name in COMPARISONS and module:
            self.head = None
        operator = SHIFT if name in ("mul", "div") and _is_power_of_two(args[1:2], self._is_data) else name
        record = self.others.setdefault(
            (module, operator, remark), OtherCount(module, operator, work, origin, remark=remark)
        )
        record.calls += 1
        record.elements += next((tensor.numel() for tensor in tensors_in((out,))), 0)  # not indices or statistics
        if name.endswith(" pool") and not inputs[0].is_meta:
            with _named(name, module):
                record.values.add(inputs[0])
        return name

    def _over_time(self, x: Tensor, args: tuple) -> bool:
        return self.time_steps > 1 and x.dim() > 2 and len(x) == self.time_steps and 0 in _dims(x, args)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Follows which module runs, and counts neurons."""
        with ExitStack() as stack:
            for name, module in self.modules.items():
                neuron = isinstance(module, FIRING)
                stack.callback(module.register_forward_pre_hook(self._enter(name, neuron), prepend=True).remove)
                stack.callback(module.register_forward_hook(self._leave(name, neuron)).remove)
            stack.enter_context(self)
            yield

    def _enter(self, name: str, neuron: bool):
        def enter(*_) -> None:
            self.running.append((name, Counter()))
            self.inside_neuron += neuron

        return enter

    def _leave(self, name: str, neuron: bool):
        def leave(module, _args, out) -> None:
            self.running.pop()
            if neuron:
                spikes = out.steps if isinstance(out, SpikeTrain) else out.data if isinstance(out, SomeSteps) else out
                code = module.code.time_steps if isinstance(module, Staircase) else 1
                number, cells = (0, spikes.numel() * code) if spikes.is_meta else fired(module, out)
                if isinstance(out, SomeSteps):  # membranes that were not computed are no updates
                    cells = out.computed * out.shape[1:].numel()
                count = self.neurons.setdefault(name, NeuronCount(name))
                count.add(cells, number)
                self.batch_neurons.setdefault(name, NeuronCount(name)).add(cells, number)
                if name in self.parts and not spikes.is_meta:
                    names = self.parts[name]
                    for part, sent in zip(names, seen(module, out).chunk(len(names), -1), strict=True):
                        rows = count.parts.setdefault(part, NeuronCount(part))
                        rows.add(cells // len(names), spikes_of(module, sent))
                kind = "staircase" if isinstance(module, Staircase) else "neuron"
                steps = 1 if isinstance(module, Staircase) else min(len(spikes), self.time_steps)
                self.origins[spikes] = Origin(kind, name, steps)
                self.head = None
            self.inside_neuron -= neuron  # last: what this hook computes is not the model's

        return leave


@contextmanager
def _named(operator: str, module: str) -> Iterator[None]:
    """Says where an operand was found that is not finite."""
    try:
        yield
    except FloatingPointError as error:
        raise ValueError(f"{operator} of {module or 'the model'}: {error}") from None


def _is_power_of_two(factors: tuple, is_data: Callable[[Tensor], bool]) -> bool:
    """Whether the one factor is a constant ±2^k."""
    for factor in factors:
        if isinstance(factor, Tensor):
            if factor.dim() or factor.is_meta or is_data(factor):
                return False
            factor = factor.item()
        return isinstance(factor, (int, float)) and abs(frexp(factor)[0]) == 0.5
    return False


def _dims(x: Tensor, args: tuple) -> list[int]:
    """The axes that a sum or mean of x goes over."""
    dims = args[1] if len(args) > 1 and args[1] is not None else range(x.dim())
    return [d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)]


@torch.no_grad()
def count(model: nn.Module, images: Tensor | Iterable[Any]) -> Counts:
    """Runs the model over batches of images (or one batch), in evaluation mode, and counts its operators.

    What is executed is what is counted: a convolution that is shared by all time steps counts once. Out of its wrapper
    (DataParallel, torch.compile, …) the model runs alone; of any other network that has one of ours inside, the time
    steps are those of the model inside.

    Args:
        images: one batch, or batches: a tensor (B, ...), of ours also frames (T, B, C, H, W); (images, labels), labels
            left out; or, for a model that is not ours, a tuple of all its arguments, images first.

    Raises:
        ValueError: no images; inputs the model does not take; frames of different lengths; weights, images or
            activations that are not finite, with their module.
    """
    from torch.backends import mha
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = unwrapped(model)
    ours = zoo_model(model)
    traits: Any = ours or model
    steps = getattr(getattr(traits, "config", None), "time_steps", 1) if getattr(traits, "time_axis", True) else 1
    counter, counts = _Counter(dict(model.named_modules()), steps), Counts(time_steps=steps)
    heads: set[Any] = set()
    keys: dict[tuple[str, str, int], int] = {}
    fast = mha.get_fastpath_enabled()
    try:
        mha.set_fastpath_enabled(False)  # its kernel hides products; so do those of fused attention
        with evaluating(model), sdpa_kernel(SDPBackend.MATH), refuse_non_finite(model) as finite, counter.watch():
            for inputs in inputs_of(model, images):
                x = inputs[0]
                frames = ours is not None and x.dim() == 5
                taken = len(x) if frames else steps
                if counts.images and taken != counts.time_steps:
                    raise ValueError(f"batches of {counts.time_steps} and of {taken} time steps: count each by itself")
                counter.time_steps = counts.time_steps = taken
                counter.origins.forget()
                counter.batch, counter.batch_neurons, counter.head = {}, {}, None
                for tensor in tensors_in(inputs):
                    counter.origins[tensor] = Origin("image", steps=taken if frames else 1)
                out = model(*inputs)
                counter.origins.forget()  # what follows is not the model's
                finite.see("outputs", out)
                finite.check()
                heads.add(counter.head)
                counts.frames = frames or not getattr(traits, "shares_stem", True)
                counts.images += x.shape[frames]
                counts.known = SHAPES if x.is_meta else VALUES
                _warn_of_time(model, x, out, ours)
                for key in counter.batch:
                    keys.setdefault(key, len(keys))
                if len(counts.batches) < KEPT_BATCHES:
                    tallies = {keys[key]: tally for key, tally in counter.batch.items()}
                    counts.batches.append((x.shape[frames], tallies, counter.batch_neurons))
    finally:
        mha.set_fastpath_enabled(fast)
    if not counts.images:
        raise ValueError("data holds no images: there is nothing to count")
    counts.operators = [replace(counter.operators[key], head=key in heads) for key in keys]
    counts.one_pass = counter.one_pass and (ours is not None or steps == 1)
    counts.neurons = list(counter.neurons.values())
    for other in counter.others.values():
        (counts.uncounted if other.work == "unknown" else counts.elementwise).append(other)
    return counts


def _warn_of_time(model: nn.Module, x: Tensor, out: Any, ours: SpikingModel | None) -> None:
    """Says where the first axis of a network that is not ours was taken for images, but the second is of outputs."""
    if ours is None and x.dim() == 5 and isinstance(out, Tensor) and out.shape[:1] == x.shape[1:2] != x.shape[:1]:
        warnings.warn(
            f"{tuple(x.shape)} counts as {len(x)} images, but {type(model).__name__} gives {len(out)} outputs: figures "
            f"an image are too small by {len(x)} to {len(out)} if time comes first ({ORDER})"
        )


def count_shapes(model: SpikingModel) -> Counts:
    """Counts of one image from shapes alone, with a model on the meta device: no values, so no rates or classes.

    The first convolution runs once for a still image, as it is executed.

    Raises:
        ValueError: the model is on another device: made under `torch.device("meta")`, it has no values.
    """
    if model.device.type != "meta":
        raise ValueError(
            f"a model on {model.device} has values: make it under torch.device('meta'), or count it on images"
        )
    c = model.config
    return count(model, torch.empty(1, c.in_channels, *c.image_size, device="meta", dtype=model.dtype))
