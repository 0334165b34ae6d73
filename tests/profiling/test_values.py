"""Classes of operands: what values they held over all calls, with a constant factor taken out."""

import pytest
import torch

from spikevit.profiling.counts import Operand
from spikevit.profiling.origins import Origin
from spikevit.profiling.values import BINARY, INTEGER, POWER_OF_TWO, REAL, UNKNOWN, Kind, Values

MANY = torch.randint(0, 2, (9000,))  # more than the sample that is looked at first


def kind(*batches, dtype=torch.float32) -> Kind:
    values = Values()
    for batch in batches:
        values.add(torch.as_tensor(batch).to(dtype))
    return values.kind


def drawn(*values: float, n: int = 9000) -> torch.Tensor:
    return torch.tensor(values).double()[torch.randint(len(values), (n,))]


CLASSES = {
    "spikes": ([0, 1, 1], (BINARY, 1, 1)),
    "scaled spikes": (drawn(0, 0.125), (BINARY, 0.125, 1)),
    "negative": (drawn(0, -3), (BINARY, -3, 1)),
    "one value, nowhere zero": ([2.0, 2.0], (BINARY, 2, 1)),
    "nothing": ([0, 0], (UNKNOWN, 1, 1)),
    "1 and 2 are no code": ([0, 1, 2], (INTEGER, 1, 2)),
    "code": (drawn(0, 1, 2, 4), (POWER_OF_TWO, 1, 4)),
    "scaled code, with a gap": (drawn(0, 0.25, 0.5, 4), (POWER_OF_TWO, 0.25, 16)),
    "negative code": (drawn(0, -1, -2, -4), (INTEGER, 1, 4)),
    "sum of spikes": (drawn(0, 1, 2, 3), (INTEGER, 1, 3)),
    "scaled sum": (drawn(0, 0.125, 0.25, 0.375, 2), (INTEGER, 0.125, 16)),
    "signed": (drawn(-1, 0, 1), (INTEGER, 1, 1)),
    "mean over 49": (torch.arange(50) / 49, (INTEGER, 1 / 49, 49)),
    "mean over 49, summed": (torch.full((10, 49), 1 / 49).cumsum(1), (INTEGER, 1 / 49, 49)),
    "up to the limit": (torch.arange(257), (INTEGER, 1, 256)),
    "beyond the limit": ([1, 2, 3, 257], (REAL, 1, 1)),
    "too many": (torch.arange(300) / 7, (REAL, 1, 1)),
    "not multiples": ([0, 1, 1.5], (REAL, 1, 1)),
    "nearly multiples": ([0, 1, 2.001], (REAL, 1, 1)),
    "noise": (torch.linspace(-1, 1, 5000), (REAL, 1, 1)),
    "a rare smallest one": (torch.cat([drawn(0, 2, 4), torch.tensor([1.0])]), (POWER_OF_TWO, 1, 4)),
    "a rare real one": (torch.cat([drawn(0, 1, 2), torch.tensor([0.3])]), (REAL, 1, 1)),
    "a rare other sign": (torch.cat([drawn(0, 1), torch.tensor([-1.0])]), (INTEGER, 1, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_classes(name, dtype):
    x, (expected, unit, top) = CLASSES[name]
    found = kind(x, dtype=dtype)
    assert (found.name, found.top) == (expected, top) and found.unit == pytest.approx(unit, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype):
    assert kind(MANY, dtype=dtype) == Kind(BINARY, 1, 1)
    assert kind(drawn(0, 0.125, 0.25, 0.375), dtype=dtype) == Kind(INTEGER, 0.125, 3)
    assert kind(drawn(0, 1, 2, 4), dtype=dtype) == Kind(POWER_OF_TWO, 1, 4)
    assert kind(torch.randn(9000), dtype=dtype).name == REAL
    assert kind([60000, 50000, 40000], dtype=dtype).name == REAL, "all of them finite"


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool], ids=str)
def test_whole_number_types(dtype):
    assert kind(MANY, dtype=dtype) == Kind(BINARY, 1, 1)
    if dtype != torch.bool:
        assert kind(drawn(0, 1, 2, 3, -3), dtype=dtype) == Kind(INTEGER, 1, 3)


def test_over_batches():
    assert kind([0, 2, 2], [0, 1, 0]) == Kind(INTEGER, 1, 2)
    assert kind([0, 2], [0, 4], [1]) == Kind(POWER_OF_TWO, 1, 4)
    assert kind([0, 0], [0, 1], [0]) == Kind(BINARY, 1, 1)
    assert kind([0, 1], [0.3]).name == kind(torch.randn(500), [0, 1]).name == REAL
    assert kind(*(torch.arange(150) + 150 * i for i in range(2))).name == REAL  # too many in the end
    assert kind([1.0], [257.0]).name == REAL


def test_rounding_is_no_second_value():
    """A sum of thirds is a third more or less: the same value in both calls."""
    third = torch.tensor([1.0]) / 3
    assert kind(third, third + 3e-8) == Kind(BINARY, float(third), 1)


def test_the_unit_keeps_its_digits():
    assert kind(torch.arange(50).double() / 49, dtype=torch.float64).unit == 1 / 49


def test_number_of_entries():
    values = Values()
    assert values.add(torch.tensor([[0.0, 1], [2, 0]])) == 2
    assert values.add(torch.zeros(3)) == 0
    assert values.add(torch.randn(700)) == 700
    assert values.add(torch.tensor([0.0, 5])) == 1
    assert values.add(torch.tensor([0.0, 1]), spikes=True) == 1


def test_single():
    values = Values()
    assert values.single is None
    values.add(torch.tensor([0, 0.5]))
    assert values.single == 0.5
    values.add(torch.tensor([1.0]))
    assert values.single is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rest", [[0.0, 1.0], [0.0, 0.0], list(range(400))], ids=["spikes", "zeros", "real"])
def test_not_finite(bad, rest):
    values = Values()
    values.add(torch.randn(500))  # real values are looked at, too
    with pytest.raises(FloatingPointError, match="not finite"):
        values.add(torch.tensor([*rest, bad]))


def test_a_silent_neuron_sends_spikes():
    """What made an operand says what it is where its values do not."""
    silent = Values()
    silent.add(torch.zeros(3))
    assert Operand(silent, Origin("neuron", "lif")).kind.name == BINARY
    assert Operand(silent, Origin("add")).kind.name == UNKNOWN


def test_float32_sums_are_exact():
    """Beyond 2²⁴ a sum of float32 is none of numbers of spikes."""
    from spikevit import count

    x = torch.ones(2**24 + 3, 1)
    x[7] = 0
    (c,) = count(torch.nn.Linear(1, 1), x).operators
    assert c.tally.active == 2**24 + 2
    third = torch.full((2**22, 1), 1 / 3)
    (c,) = count(torch.nn.Linear(1, 1), third).operators
    assert c.tally.active == 2**22
