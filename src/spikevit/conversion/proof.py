"""Whether every sum of a run is exact: on which grid each number lies, how large it can get, and what it is added in.

Every tensor that the images go into is followed through torch's operators, in any network, as (unit, top): all that it
can hold are whole multiples of `unit`, a power of two, of at most `top` in size.

    neurons                         Δ                          L·Δ, whatever comes in
    product with weights W          unit_W · unit              top · Σ|W|, of the output with the most
    product of two, over K entries  unit_a · unit_b            K · top_a · top_b
    sum of K entries                unit                       K · top
    a + b                           the smaller unit           top_a + top_b
    2^e · a                         2^e · unit                 2^e · top

So what is found behind the first neurons is true of every image. A sum that stays below 2^24 units in float32, or 2^53
in float64, rounds in no order of its terms. Weights are taken for what they are: the unit of an output's weights is the
largest power of two that divides them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import reduce
from math import inf, log2, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikevit.layers.grid import FLOAT32, FLOAT64, float32_is_whole
from spikevit.models.running import evaluating
from spikevit.neurons import Staircase
from spikevit.profiling.operators import PRODUCTS, Product, Watch, tensors_in, work_of
from spikevit.profiling.origins import Origins

HOLDS = {torch.float64: FLOAT64, torch.float32: FLOAT32, torch.float16: 2**11, torch.bfloat16: 2**8}
ITSELF = "the model itself"
FEWER = 2**8  # where factors of float32 may be rounded, at worst to bfloat16

# Why a network is not exact; behind it stand the modules.
DELTA = "Δ is no power of two"
NO_GRID = "numbers on no grid are added up"
SCALED = "spikes are scaled by no power of two"
REDUCED = "products of float32 may be computed in fewer bits"


class Numbers(NamedTuple):
    """What a tensor can hold: whole multiples of `unit`, of at most `top` in size.

    Of unit 0 it holds what both networks round alike, such as a seventh of an exact number: equal, on no grid. spikes:
    it is steps of spikes in the spiking network, which are scaled before they are decoded.
    """

    unit: float
    top: float
    spikes: bool = False

    @property
    def units(self) -> float:
        """The largest, in units."""
        return self.top / self.unit if self.unit else inf

    def times(self, other: Numbers, terms: int = 1) -> Numbers:
        """Sums of so many products."""
        if not self.unit or not other.unit:
            return NOWHERE
        return Numbers(self.unit * other.unit, self.top * other.top * terms, self.spikes or other.spikes)

    def plus(self, other: Numbers) -> Numbers:
        """Sums of one and the other."""
        return Numbers(min(self.unit, other.unit), self.top + other.top)

    def beside(self, other: Numbers) -> Numbers:
        """One or the other."""
        return Numbers(min(self.unit, other.unit), max(self.top, other.top), self.spikes and other.spikes)


NOWHERE = Numbers(0.0, inf)
IMAGE = Numbers(0.0, inf)  # by identity: made of the image alone, and measured where it meets anything else


class Sum(NamedTuple):
    """The largest sum of a module, in units of its grid. image: of terms that are made of the image alone.

    type: the narrowest that the module adds up in.
    """

    bound: float = 0.0
    image: bool = False
    type: torch.dtype = torch.float64


def unit_of(x: Tensor) -> Tensor:
    """Of each entry the largest power of two that divides it (float64); of 0, 2^100."""
    mantissa, exponent = torch.frexp(x.detach().double())
    whole = mantissa.mul(2.0**53).long()
    lowest = (whole & -whole).double()
    return torch.where(whole == 0, 2.0**100, torch.ldexp(lowest, exponent - 53))


def measured(x: Tensor | float) -> Numbers:
    """Numbers as they are."""
    x = x.detach().double() if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)
    if not x.numel():
        return Numbers(2.0**100, 0.0)
    return Numbers(float(unit_of(x).min()), float(x.abs().max())) if x.isfinite().all() else NOWHERE


class _Enough(Exception):
    """Nothing more is to be seen in this run."""


class _ModelWatch(Watch):
    """Sees every operator of a model; `running` are the modules that run."""

    running: list[str]

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class Proof(_ModelWatch):
    """Follows a model: `sums` has the largest of every module, `reasons` the modules in which something rounds.

        proof = Proof(model); proof.look(images); ...; proof.conclude()

    The image, and what is made of it alone, can hold what it held in all batches that were looked at. All else is the
    same for every image, so that the model runs as a whole on two of them.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.neurons: dict[str, Any] = {name: m for name, m in model.named_modules() if isinstance(m, Staircase)}
        self.sums: dict[str, Sum] = {}
        self.reasons: dict[str, dict[str, None]] = {}  # of each, the modules in order of execution
        self.numbers: Any = Origins()
        self.images: list[Numbers] = []  # at each place where the image meets anything else
        self.sample: Tensor | None = None

    def look(self, images: Tensor) -> None:
        """Takes in what the image holds in one more batch."""
        if self.sample is None:
            self.sample = images[:2]
            self._run(self.sample)
        if self.images:
            self._run(images, len(self.images))

    def conclude(self) -> None:
        """Says what follows from all that was looked at."""
        assert self.sample is not None
        self._run(self.sample)

    @torch.no_grad()
    def _run(self, images: Tensor, places: int | None = None) -> None:
        """Follows the model on these images, as far as the image met anything else at so many places."""
        self.sums, self.reasons, self.place, self.places = {}, {}, 0, places
        self.numbers.forget()
        self.numbers[images] = IMAGE
        with evaluating(self.model), running(self.model) as self.running, ExitStack() as stack, suppress(_Enough):
            for name, neuron in self.neurons.items():
                stack.callback(neuron.register_forward_hook(self._fired(name)).remove)
            stack.enter_context(self)
            self.model(images)

    def _fired(self, name: str):
        def look(neuron: Any, _args: Any, out: Tensor) -> None:
            quantum = neuron.quantum
            if (torch.frexp(quantum)[0] != 0.5).any():
                self._because(DELTA, name)
            self.numbers[out] = Numbers(float(quantum.min()), float(quantum.max()) * neuron.code.levels, spikes=True)

        return look

    def call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Runs one operator and says what its output can hold."""
        data = [n for x in tensors_in((args, tuple(kwargs.values()))) if (n := self.numbers[x]) is not None]
        if not data or self.running[-1] in self.neurons:
            return func(*args, **kwargs)
        still_the_image = func not in PRODUCTS and all(n is IMAGE for n in data)
        result = (lambda _: IMAGE) if still_the_image else self._rule(func, args, kwargs)  # before anything is changed
        out = func(*args, **kwargs)
        numbers = result(out)
        for x in tensors_in((out,)):
            part = func._schema.is_mutable and x.numel() * x.element_size() < x.untyped_storage().nbytes()
            beside = part and numbers is not IMAGE  # of what was not changed
            self.numbers[x] = numbers.beside(self.numbers[x] or NOWHERE) if beside else numbers
        return out

    def _rule(self, func: Any, args: tuple, kwargs: dict) -> Callable[[Any], Numbers]:
        """What an operator makes of its operands, as a function of its output."""
        name, work = work_of(func)
        if func in PRODUCTS:
            return self._product(name, PRODUCTS[func](*args, **kwargs), args, kwargs)
        if name in ("add", "sub", "rsub") and kwargs.get("alpha", 1) == 1 and len(args) == 2:
            a, b = map(self._of, args)
            return lambda out: self._plus(a, b, out)
        if name in ("mul", "neg"):
            a, b = self._of(args[0]), self._of(args[1] if len(args) > 1 else 1.0)
            return lambda out: self._fits(a.times(b), out)
        if name == "div" and not kwargs and self._known(args[1]) is None:
            a, divisor = self._of(args[0]), torch.as_tensor(args[1], dtype=torch.float64)
            shift = bool((torch.frexp(divisor)[0].abs() == 0.5).all())
            return lambda out: self._fits(a.times(measured(1 / divisor) if shift else NOWHERE), out, a.spikes)
        if is_sum(name):
            x, a = args[0], self._of(args[0])
            return lambda out: self._sum(name, args, x, a, out)
        if work == "moves":
            return self._move(func, name, args, kwargs)
        self._because(f"{name} may round")
        return lambda _: NOWHERE

    def _known(self, x: Any) -> Numbers | None:
        return self.numbers[x] if isinstance(x, Tensor) else None

    def _of(self, x: Any) -> Numbers:
        """Of an operand, be it data or a constant."""
        known = self._known(x)
        if known is not IMAGE:
            return known or measured(x)
        found = measured(x)
        if self.place == len(self.images):
            self.images.append(found)
        found = self.images[self.place] = found.beside(self.images[self.place])
        self.place += 1
        if self.place == self.places:
            raise _Enough
        return found

    def _product(self, name: str, product: Product, args: tuple, kwargs: dict) -> Callable[[Tensor], Numbers]:
        """With weights, for each output its own sum and unit; or of two operands that are both data."""
        a, b = product.operands
        first, second = self._known(a), self._known(b)
        image = first is IMAGE or second is IMAGE
        conv = product.operator == "conv"
        bias = (args[2:3] if conv else args[:1] if name.startswith(("add", "badd")) else ())[0:1]
        if any(kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta")) or (conv and second is not None):
            self._because(f"{name} may round")
            return lambda _: NOWHERE
        if first is not None and second is not None:
            found = self._of(a).times(self._of(b), a.shape[-1])
            bound = found.units
        else:
            x, weight = (a, b) if second is None else (b, a)
            rows = _rows(weight, right=x is a, conv=conv, transposed=conv and product.geometry[3])
            sums, units, n = rows.double().abs().sum(1), unit_of(rows).amin(1), self._of(x)
            found = n.times(Numbers(float(units.min()), float(sums.max())))
            bound = float((sums / units).max()) * n.units if found.unit else inf
        if bias and bias[0] is not None:
            found = found.plus(self._of(bias[0]))
            bound = max(bound, found.units)

        def result(out: Tensor) -> Numbers:
            self._add_up(bound, image, a, b, out)
            if FEWER < bound < inf and a.dtype == torch.float32 and not float32_is_whole(a.device):
                self._because(REDUCED)
            return found._replace(spikes=False)

        return result

    def _plus(self, a: Numbers, b: Numbers, out: Tensor) -> Numbers:
        """Entry by entry, in both networks: where it rounds, it does so alike."""
        return self._fits(a.plus(b), out) if a.unit and b.unit else NOWHERE

    def _fits(self, found: Numbers, out: Tensor, spikes: bool = False) -> Numbers:
        """What was scaled, or got another type: where it is rounded, both networks do the same, but not to spikes."""
        if found.units <= holds(out.dtype):
            return found
        if found.spikes or spikes:
            self._because(SCALED)
        return NOWHERE

    def _sum(self, name: str, args: tuple, x: Tensor, a: Numbers, out: Tensor) -> Numbers:
        """A sum or mean of entries; all windows of a pool are taken for as large as the largest."""
        terms, alike = _window(name, args) if "pool" in name else (-(-x.numel() // max(1, out.numel())), True)
        if terms == 1 and alike:
            return a
        total = Numbers(a.unit, a.top * terms, a.spikes) if a.unit else NOWHERE
        self._add_up(total.units, False, x, out)
        if name == "sum":
            return total
        shift = alike and log2(terms).is_integer()
        return self._fits(total.times(measured(1 / terms)) if shift else NOWHERE, out, a.spikes)

    def _move(self, func: Any, name: str, args: tuple, kwargs: dict) -> Callable[[Tensor], Numbers]:
        """Entries are chosen, those of constants too."""
        operands = [x for x in tensors_in((args, tuple(kwargs.values()))) if x.is_floating_point()]
        if name == "copy":
            operands = operands[1:]
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        values = [named[key] for key in ("value", "fill_value") if isinstance(named.get(key), (int, float))]
        values += [1.0] if "ones" in name else []
        if name.startswith("rand") or not operands:
            self._because(f"{name} may round")
            return lambda _: NOWHERE
        found = reduce(Numbers.beside, map(self._of, [*operands, *values]))
        return lambda out: self._fits(found, out) if isinstance(out, Tensor) else found

    def _add_up(self, units: float, image: bool, *tensors: Tensor) -> None:
        """A sum of so many units, of and into these tensors."""
        name, narrow = self.running[-1], min((x.dtype for x in tensors), key=holds)
        known = self.sums.get(name, Sum(type=narrow))
        self.sums[name] = Sum(max(units, known.bound), image or known.image, min(narrow, known.type, key=holds))
        if units == inf:
            self._because(NO_GRID)
        elif units > holds(narrow):
            self._because(outgrown(narrow))

    def _because(self, reason: str, module: str | None = None) -> None:
        self.reasons.setdefault(reason, {})[self.running[-1] if module is None else module] = None

    def compare(self, types: Types) -> None:
        """With what the spiking network adds up in: its sums are these, taken step by step, and no larger on the way.

        Weights of steps are positive, so that every partial sum of W·s_t, or of all pairs of steps, is at most the
        sum of the values that the spikes stand for.
        """
        for name, known in self.sums.items():
            theirs = types.narrowest.get(name, known.type)
            if holds(theirs) < min(known.bound, holds(known.type)):
                self._because(outgrown(theirs), name)


class Types(_ModelWatch):
    """Sees in which types a model adds up: `narrowest`, by module."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.narrowest: dict[str, torch.dtype] = {}

    @contextmanager
    def run(self) -> Iterator[None]:
        """Sees what runs inside."""
        with running(self.model) as self.running, self:
            yield

    def call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Runs one operator and notes its types where it adds up."""
        out = func(*args, **kwargs)
        if func in PRODUCTS or is_sum(work_of(func)[0]):
            name = self.running[-1]
            seen = [x.dtype for x in tensors_in((*args, out)) if x.is_floating_point()]
            self.narrowest[name] = min([*seen, self.narrowest.get(name, torch.float64)], key=holds)
        return out


@contextmanager
def running(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules that run, the innermost last; the model itself is called ""."""
    names = [""]

    def leave(*_: Any) -> None:  # what a hook returns would take the place of the output
        names.pop()

    with ExitStack() as stack:
        for name, m in model.named_modules():
            stack.callback(m.register_forward_pre_hook(lambda *_, name=name: names.append(name)).remove)
            stack.callback(m.register_forward_hook(leave).remove)
        yield names


def holds(dtype: torch.dtype) -> int:
    """How many units it counts without rounding."""
    return HOLDS.get(dtype, 0)


def outgrown(dtype: torch.dtype) -> str:
    """A reason: sums that the type does not hold."""
    return f"sums can outgrow what {str(dtype).removeprefix('torch.')} holds"


def is_sum(operator: str) -> bool:
    """Whether it adds up entries, and only that."""
    return operator in ("sum", "mean") or "avg_pool" in operator


def _window(name: str, args: tuple) -> tuple[int, bool]:
    """How many entries a pool's largest window has, and whether it divides by that number in all of them."""
    x, kernel = args[:2]
    if "adaptive" in name:
        sides = list(zip(x.shape[-len(kernel) :], kernel, strict=True))
        alike = all(size % side == 0 for size, side in sides)
        return prod(-(-size // side) + (not alike) for size, side in sides), alike
    dims = int(name.removesuffix("d")[-1])
    defaults: tuple[Any, ...] = ([], [0], False, True, None)
    _, padding, ceil, padding_counts, divisor = args[2:7] + defaults[len(args[2:7]) :]
    alike = not ceil and divisor is None and (padding_counts or not any(padding))
    return prod(kernel) ** (dims // len(kernel)), alike


def _rows(weight: Tensor, *, right: bool, conv: bool, transposed: bool) -> Tensor:
    """Weights of each output. right: of x @ weight. Of a transposed convolution all of them, as if of one output."""
    if conv:
        return weight.detach().flatten()[None] if transposed else weight.detach().flatten(1)
    return (weight.mT if right else weight).detach().reshape(-1, weight.shape[-2 if right else -1])
