"""What a run executed, as plain numbers: products, neurons and other work, by module. Nothing here sees a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

from spikevit.profiling.health import silence
from spikevit.profiling.origins import Origin
from spikevit.profiling.values import BINARY, UNKNOWN, Kind, Values

SHIFT = "shift"  # what an entry costs that is scaled by a power of two
VALUES, RATES, SHAPES = "values", "rates", "shapes"  # what counts can be of


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

    def need(self, what: str, *known: str) -> None:
        """Refuses counts that lack what is asked of them: nothing is silently zero.

        Raises:
            ValueError: they are of something else than `known`.
        """
        if self.known not in known:
            needs = "firing rates" if RATES in known else "the values of a run"
            has = "shapes alone" if self.known == SHAPES else "shapes and given rates"
            raise ValueError(
                f"{what} needs {needs}, and these counts are of {has}: count the model on images"
                f"{', or give rates (with_rates)' if RATES in known else ''}"
            )

    @property
    def silence(self) -> str:
        """What to say of layers of neurons that never fired; "" where all did, or no values are known."""
        if self.known != VALUES:
            return ""
        return silence({n.module: n.rate for n in self.neurons if n.updates})

    @property
    def firing_rate(self) -> float:
        """Share of all (step, neuron) cells that fired."""
        self.need("the firing rate", VALUES)
        updates = sum(n.updates for n in self.neurons)
        return sum(n.spikes for n in self.neurons) / updates if updates else 0.0

    @property
    def activity(self) -> float:
        """Share of the products in bounds, behind the first convolution, of which no factor is zero."""
        self.need("the activity", VALUES)
        behind = [c.tally for c in self.operators if not c.stem]
        inbounds = sum(tally.inbounds for tally in behind)
        return sum(tally.active for tally in behind) / inbounds if inbounds else 0.0
