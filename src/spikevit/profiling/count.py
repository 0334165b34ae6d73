"""Counting operations where they happen: every product of tensors that torch executes, by module.

At the level of tensor operators, so that functional products and custom attention are seen too, of any model. Nothing
is kept but counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from math import frexp, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spikevit.attention.mixer import Mixer
from spikevit.models import SpikingModel
from spikevit.neurons import SomeSteps, SpikeTrain, Staircase
from spikevit.profiling.observe import FIRING, fired, seen, spikes_of
from spikevit.profiling.operators import PRODUCTS, Product, dense_macs, spread_of, work_of
from spikevit.profiling.origins import Origin, Origins
from spikevit.profiling.values import BINARY, UNKNOWN, Kind, Values

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SHIFT = "shift"  # what an entry costs that is scaled by a power of two
KEPT_BATCHES = 1000  # of which the numbers of single batches are kept, for the spread
COMPARISONS = ("ge", "gt", "le", "lt", "heaviside", "sign")  # inside a module: neurons that are not ours
VALUES, RATES, SHAPES = "values", "rates", "shapes"


@dataclass
class Tally:
    """Numbers of one operator, summed over calls.

    macs: multiply-accumulates of the dense operation, padding included. inbounds: those that do not meet padding.
    active: those of inbounds whose two entries, weights too, are not zero. weighted: the same, each weighted with the
    size of the first, of the second data operand's entry (of whole-number codes: how many additions it stands for).
    once: active ones of one pass over all time steps, an entry being zero there if it is zero at every step.
    outputs: entries that came out. nonzero, size: of each data operand.
    """

    calls: int = 0
    macs: int = 0
    inbounds: int = 0
    active: int = 0
    weighted: tuple[float, float] = (0.0, 0.0)
    outputs: int = 0
    nonzero: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    once: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for f in fields(self):
            mine, more = getattr(self, f.name), getattr(other, f.name)
            both = tuple(map(sum, zip(mine, more, strict=True))) if isinstance(mine, tuple) else mine + more
            setattr(self, f.name, both)
        return self


@dataclass
class Operand:
    """Data that went into a product. values: which; origin: what made it."""

    values: Values = field(default_factory=Values)
    origin: Origin = field(default_factory=lambda: Origin(""))

    @property
    def kind(self) -> Kind:
        """Class of all values that were seen; of a silent neuron's, that of spikes."""
        kind = self.values.kind
        return Kind(BINARY) if kind.name == UNKNOWN and self.origin.operator == "neuron" else kind


@dataclass
class OperatorCount:
    """What one product of one module did, over all calls: a convolution, a linear map, or a product of activations.

    Weights are not data: convolution and linear map have one operand, a product of two activations has two.
    folded_norm: the module's batch norm is part of the weight. layer: the module is a linear map or a convolution, not
    one that multiplies with a parameter of its own. head: it is the last product with a weight, and no neurons follow:
    what the network reads out.
    """

    module: str
    operator: str
    operands: list[Operand] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    folded_norm: bool = False
    layer: bool = True
    head: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense operation, padding included."""
        return self.tally.macs

    @property
    def calls(self) -> int:
        """How often it ran."""
        return self.tally.calls

    def rate(self, i: int = 0) -> float:
        """Share of non-zero entries of the i-th operand: for spikes, the firing rate."""
        return self.tally.nonzero[i] / self.tally.size[i] if self.tally.size[i] else 0.0

    @property
    def stem(self) -> bool:
        """Whether it works on the image itself."""
        return any(operand.origin.operator == "image" for operand in self.operands)


@dataclass
class NeuronCount:
    """A layer of neurons: membrane updates (neurons · steps), and spikes, summed over images.

    parts: updates and spikes of q, k, v, …, where one call of neurons gives them all.
    """

    module: str
    updates: int = 0
    spikes: int = 0
    parts: dict[str, NeuronCount] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Share of the updates that fired."""
        return self.spikes / self.updates if self.updates else 0.0

    def add(self, updates: int, spikes: int) -> None:
        """More of both."""
        self.updates += updates
        self.spikes += spikes


@dataclass
class OtherCount:
    """An operator that is no product. work: its list in operators.yaml; origin: of its input; elements: it gave."""

    module: str
    operator: str
    work: str
    origin: Origin
    calls: int = 0
    elements: int = 0
    remark: str = ""
    values: Values = field(default_factory=Values)


@dataclass
class Counts:
    """What a run over `images` images executed. Lists are in order of execution.

    time_steps: of the run, those of its frames where it had frames.
    known: "values" of a run; "shapes" alone (`count_shapes`); or "rates" that were given for shapes (`with_rates`).
    one_pass: whether `Tally.once` is known; not of a network of several time steps that is not ours.
    elementwise: additions, norms, pools, activation functions: no convention charges them, except batch norm.
    frames: the first convolution ran at every step by itself, as of sequences of images; of a still one it is shared.
    uncounted: operators on data that this counter does not know, and so what the totals lack.
    batches: images and tallies of single batches, in the order of `operators`, for the spread.
    """

    images: int = 0
    time_steps: int = 1
    frames: bool = False
    known: str = VALUES
    one_pass: bool = True
    operators: list[OperatorCount] = field(default_factory=list)
    neurons: list[NeuronCount] = field(default_factory=list)
    elementwise: list[OtherCount] = field(default_factory=list)
    uncounted: list[OtherCount] = field(default_factory=list)
    batches: list[tuple[int, dict[int, Tally], dict[str, NeuronCount]]] = field(default_factory=list)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all products as dense operations, padding included."""
        return sum(c.macs for c in self.operators)

    def per_batch(self) -> Iterator[Counts]:
        """The counts of single batches; operands are classed by the whole run."""
        for images, tallies, neurons in self.batches:
            yield Counts(
                images,
                self.time_steps,
                self.frames,
                self.known,
                self.one_pass,
                [replace(c, tally=tallies[i]) for i, c in enumerate(self.operators) if i in tallies],
                list(neurons.values()),
            )

    @property
    def firing_rate(self) -> float:
        """Share of all (step, neuron) cells that fired."""
        updates = sum(n.updates for n in self.neurons)
        return sum(n.spikes for n in self.neurons) / updates if updates else 0.0

    @property
    def activity(self) -> float:
        """Share of the products in bounds, behind the first convolution, of which no factor is zero."""
        behind = [c.tally for c in self.operators if not c.stem]
        inbounds = sum(tally.inbounds for tally in behind)
        return sum(tally.active for tally in behind) / inbounds if inbounds else 0.0


class _Counter(TorchDispatchMode):
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

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in PRODUCTS and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        inputs = list(_tensors(args))
        values_first = sorted(inputs, key=lambda x: not x.is_floating_point())  # then indices and masks
        origin = self.origins.first(values_first) or self.origins.first(_tensors(kwargs.values()))
        steps = max((o.steps for x in inputs if (o := self.origins[x])), default=1)
        out = func(*args, **kwargs)
        if origin is None:
            return out
        name, work = work_of(func)
        product = PRODUCTS[func](*args, **kwargs) if func in PRODUCTS else None
        if product and product.countable and any(map(self._is_data, product.operands)):  # not of its summand alone
            name = self._product(product, out)
        elif work == "moves":
            name = ""
        elif not self.inside_neuron:
            name = self._other(name, work, inputs, args, out, origin)
            if name in ("mean", "sum") and steps == len(inputs[0]) > 1 and 0 in _dims(inputs[0], args):
                steps = 1
        alone = not product and work != "unknown" and sum(map(self._is_data, inputs)) == 1
        still_the_image = alone and origin.operator == "image"
        if name and not still_the_image:
            origin = Origin(name, self.running[-1][0], steps)
        elif steps > origin.steps:
            origin = origin._replace(steps=steps)
        for tensor in _tensors((out,)):
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
            tally = _measure(product, out, data, record.operands)
            steps = [operand.origin.steps for operand in record.operands]
            tally.once = tally.active
            if max(steps) > 1 and not out.is_meta:
                once = _once(product, out, data, steps)
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
        record.elements += next((tensor.numel() for tensor in _tensors((out,))), 0)  # not indices or statistics
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
                stack.callback(module.register_forward_pre_hook(self._enter(name, neuron)).remove)
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


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _measure(product: Product, out: Tensor, data: list[int], operands: list[Operand]) -> Tally:
    """One call: how many of its multiplications have non-zero operands. data: which of the two tensors are data."""
    macs = dense_macs(product, out)
    tally = Tally(1, macs, macs, outputs=out.numel())
    nonzero, size, weighted = [0, 0], [0, 0], [0.0, 0.0]
    for n, i in enumerate(data):
        x, operand = product.operands[i], operands[n]
        size[n] = x.numel()
        if not x.is_meta:
            nonzero[n] = operand.values.add(x, spikes=operand.origin.operator == "neuron")
    if product.operator == "conv":
        tally.inbounds = product.operands[0].shape[:2].numel() * int(spread_of(product, out).sum())
    if not out.is_meta:
        tally.active, *weighted = _active(product, out, data, operands)
    tally.nonzero, tally.size, tally.weighted = tuple(nonzero), tuple(size), tuple(weighted)  # type: ignore[assignment]
    return tally


def _active(product: Product, out: Tensor, data: list[int], operands: list[Operand]) -> tuple[int, float, float]:
    """Products in bounds of two non-zero entries; the same weighted with the first, the second data operand's size.

    A weight of zero is no connection: it counts for nothing. Without one, sums over the entries are enough.
    """
    looks = [_Look(x, operands[data.index(i)] if i in data else None) for i, x in enumerate(product.operands)]
    if product.operator == "conv":
        x, weight = looks
        if weight.full:
            meets = spread_of(product, out)
            return int((x.fired((0, 1)) * meets).sum()), float((x.sizes((0, 1)) * meets).sum()), 0.0
        fired, there = x.x.ne(0).double(), weight.x.ne(0).double()
        sums = [product.again(there)(x.x.abs().double()), product.again(weight.x.abs().double())(fired)]
        sizes = [float(sums[i].sum()) for i in data] + [0.0]
        return int(product.again(there)(fired).sum()), sizes[0], sizes[1]
    a, b = looks
    a_fired, b_fired = a.fired((-2,)), b.fired((-1,))
    by_size = {0: (a.sizes((-2,)) * b_fired).sum(), 1: (a_fired * b.sizes((-1,))).sum()}
    weighted = [float(by_size[i]) for i in data] + [0.0]
    return int((a_fired * b_fired).sum()), weighted[0], weighted[1]


def _once(product: Product, out: Tensor, data: list[int], steps: list[int]) -> int | None:
    """Active products of one pass: each data operand is non-zero where it is at any of its `steps`.

    None: where operands have different numbers of steps, or their first axis is not that of time.
    """
    most = max(steps)
    found: list[Tensor] = []
    for i, x in enumerate(product.operands):
        batched = x.dim() > 2 and product.operator == "matmul"
        if i in data and steps[data.index(i)] == most:
            if len(x) % most or not (i == 0 or batched):
                return None
            x = x.unflatten(0, (most, -1)).ne(0).any(0).to(x.dtype)
        elif batched:  # the same at every step
            x = x[: len(x) // most]
        found.append(x)
    ones = [Operand(Values({"1": 1.0})) for _ in data]
    return _active(replace(product, operands=(found[0], found[1])), out, data, ones)[0]


class _Look:
    """A tensor that goes into a product: sums over some axes of what is not zero. operand: what is known of data."""

    def __init__(self, x: Tensor, operand: Operand | None):
        self.x, self.values = x, operand.values if operand else None
        self.full = operand is None and int(x.count_nonzero()) == x.numel()

    def fired(self, over: tuple[int, ...]) -> Tensor:
        """How many entries are not zero (float64)."""
        if self.full:
            shape = [n for i, n in enumerate(self.x.shape) if i not in {d % self.x.dim() for d in over}]
            return torch.full(shape, float(prod(self.x.shape[d] for d in over)), device=self.x.device).double()
        single = self.values.single if self.values else None
        if single is None:
            return self.x.ne(0).sum(over).double()
        return (self._sum(self.x, over) / single).round_()  # spikes: their sum is their number, exactly

    def sizes(self, over: tuple[int, ...]) -> Tensor:
        """The sum of their absolute values (float64), where that is asked for: not of real values."""
        if self.values is None or self.values.distinct is None:
            return torch.zeros((), dtype=torch.float64, device=self.x.device)
        return self._sum(self.x if self.values.single else self.x.abs(), over).abs_()

    @staticmethod
    def _sum(x: Tensor, over: tuple[int, ...]) -> Tensor:
        many = prod(x.shape[d] for d in over) > 2**20  # float32 would round
        return x.sum(over, dtype=torch.float64 if many else torch.promote_types(x.dtype, torch.float32)).double()


@torch.no_grad()
def count(model: nn.Module, batches: Tensor | Iterable[Any]) -> Counts:
    """Runs the model over batches of images (or one batch) and counts its operators.

    What is executed is what is counted: a convolution that is shared by all time steps counts once. A batch is a
    tensor (B, ...), or a tuple of all arguments of the model, images first. The mode of the model stays as it is.

    Raises:
        ValueError: no images; inputs the model does not take; frames of different lengths; activations that are not
            finite, with their module.
    """
    from torch.backends import mha
    from torch.nn.attention import SDPBackend, sdpa_kernel

    ours = isinstance(model, SpikingModel)
    config: Any = getattr(model, "config", None)
    steps = getattr(config, "time_steps", 1) if getattr(model, "time_axis", True) else 1
    counter, counts = _Counter(dict(model.named_modules()), steps), Counts(time_steps=steps)
    heads: set[Any] = set()
    keys: dict[tuple[str, str, int], int] = {}
    fast = mha.get_fastpath_enabled()
    try:
        mha.set_fastpath_enabled(False)  # its kernel hides products; so do those of fused attention
        with sdpa_kernel(SDPBackend.MATH), counter.watch():
            for batch in [batches] if isinstance(batches, Tensor) else batches:
                inputs = tuple(batch) if isinstance(batch, (list, tuple)) else (batch,)
                if not inputs or not isinstance(inputs[0], Tensor) or not len(inputs[0]):
                    raise ValueError(f"a batch must be a tensor of at least one image; got {_shown(inputs)}")
                if ours and len(inputs) > 1:
                    raise ValueError(f"{type(model).__name__} takes images alone, no labels; got {_shown(inputs)}")
                frames = ours and inputs[0].dim() == 5
                taken = len(inputs[0]) if frames else steps
                if counts.images and taken != counts.time_steps:
                    raise ValueError(f"batches of {counts.time_steps} and of {taken} time steps: count each by itself")
                counter.time_steps = counts.time_steps = taken
                counter.origins.forget()
                counter.batch, counter.batch_neurons, counter.head = {}, {}, None
                for x in _tensors(inputs):
                    counter.origins[x] = Origin("image", steps=taken if frames else 1)
                try:
                    model(*inputs)
                except TypeError as error:
                    raise ValueError(
                        f"{type(model).__name__} does not take {_shown(inputs)}: {error}; "
                        "a batch may be a tuple of all its arguments"
                    ) from error
                heads.add(counter.head)
                counts.frames = frames or not getattr(model, "shares_stem", True)
                images = inputs[0].shape[1 if frames else 0]
                counts.images += images
                counts.known = SHAPES if inputs[0].is_meta else VALUES
                for key in counter.batch:
                    keys.setdefault(key, len(keys))
                if len(counts.batches) < KEPT_BATCHES:
                    tallies = {keys[key]: tally for key, tally in counter.batch.items()}
                    counts.batches.append((images, tallies, counter.batch_neurons))
    finally:
        mha.set_fastpath_enabled(fast)
    if not counts.images:
        raise ValueError("batches is empty: there is no image to count on")
    counts.operators = [replace(counter.operators[key], head=key in heads) for key in keys]
    counts.one_pass = counter.one_pass and (ours or steps == 1)
    counts.neurons = list(counter.neurons.values())
    for other in counter.others.values():
        (counts.uncounted if other.work == "unknown" else counts.elementwise).append(other)
    return counts


def _shown(inputs: tuple) -> str:
    return ", ".join(f"{tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)[:40] for x in inputs) or "nothing"


def count_shapes(model: SpikingModel) -> Counts:
    """Counts of one image from shapes alone, with a model on the meta device: no values, so no rates or classes.

    The first convolution runs once for a still image, as it is executed.
    """
    c = model.config
    return count(model, torch.empty(1, c.in_channels, *c.image_size, device="meta", dtype=model.dtype))
