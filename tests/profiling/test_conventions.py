"""Energy by every convention: by hand on made-up counts, and the figures that papers print."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from firing import firing, images

from spikevit import count, create_model
from spikevit.profiling.constants import Constants, load_constants
from spikevit.profiling.conventions import (
    CONVENTIONS,
    Energy,
    break_even,
    dense,
    exact,
    matched_bits,
    memory,
    neurobench,
    paper,
    syops,
    with_rates,
)
from spikevit.profiling.count import Counts, NeuronCount, Operand, OperatorCount, OtherCount, Tally, count_shapes
from spikevit.profiling.origins import Origin
from spikevit.profiling.profile import profile
from spikevit.profiling.values import Values

AC, MAC = 0.9, 4.6


def operand(*values: float, made_by: str = "neuron") -> Operand:
    seen = Values()
    seen.add(torch.tensor(values or [0.0]).double())
    return Operand(seen, Origin(made_by))


def real(made_by: str = "add") -> Operand:
    return Operand(Values(None), Origin(made_by))


SPIKES, SUMS, CODES, SILENT = operand(1), operand(0.5, 1, 1.5), operand(1, 2, 4), operand()
STEM = OperatorCount(
    "stem.0", "conv", [real("image")], Tally(1, 1000, 900, 800, outputs=40, nonzero=(9, 0), size=(10, 0))
)
FC = OperatorCount(
    "blocks.0.fc", "linear", [SPIKES], Tally(1, 2000, 2000, 400, outputs=50, nonzero=(1, 0), size=(4, 0))
)
SUM = OperatorCount(
    "blocks.1.fc", "linear", [SUMS], Tally(1, 600, 600, 90, (75.0, 0.0), outputs=20, nonzero=(3, 0), size=(10, 0))
)
CODED = OperatorCount("blocks.2.fc", "linear", [CODES], Tally(1, 300, 300, 30, outputs=7, nonzero=(1, 0), size=(10, 0)))
PRODUCT = OperatorCount(
    "blocks.0.attn", "matmul", [SPIKES, SUMS], Tally(1, 500, 500, 60, (60.0, 55.0), 25, (3, 1), (10, 10))
)
HEAD = OperatorCount("head", "linear", [real("mean")], Tally(1, 70, 70, 70, outputs=10, nonzero=(5, 0), size=(7, 0)))
NEURONS = [NeuronCount("blocks.0.lif", 100, 20), NeuronCount("blocks.1.lif", 60, 10)]


def made_up(*operators: OperatorCount, **others) -> Counts:
    """Of two images, four steps."""
    return Counts(2, 4, operators=list(operators), **others)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_energy():
    assert Energy(macs=2e9, acs=3e9, shifts=1e9, other_pj=5e8).mj == pytest.approx(2 * 4.6 + 3 * 0.9 + 0.1 + 0.5)
    assert Energy(macs=2e9, constants=load_constants("int8")).mj == pytest.approx(2 * 0.23)
    assert Energy(1, 2, 3, 4) + Energy(10, 20, 30, 40) == Energy(11, 22, 33, 44)
    assert Energy(2, 4, 6, 8).per(2) == Energy(1, 2, 3, 4)


def test_paper():
    e = paper(made_up(STEM, FC, PRODUCT, SUM, HEAD))
    sops = 2000 / 4 + 500 * 0.1 + 600 * 0.3  # the sparser operand of a product; the head is free
    assert e.macs == 4 * 1000 / 2 and e.acs == pytest.approx(sops / 2)
    assert e.mj == pytest.approx((MAC * 2000 + AC * sops / 2) * 1e-9)
    once = paper(made_up(STEM, FC, PRODUCT, SUM, HEAD), stem="once")
    assert (once.macs, once.acs) == (500, e.acs)
    assert paper(made_up(STEM, frames=True)).macs == 500  # it ran at every step


def test_what_a_head_is():
    deep = [replace(FC, module=name) for name in ("head", "head.fc", "header", "blocks.head")]
    assert paper(made_up(*deep)).acs == 2 * paper(made_up(FC)).acs


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (STEM, Energy(macs=900)),
        (FC, Energy(acs=400)),
        (SUM, Energy(acs=75 / 0.5)),
        (CODED, Energy(acs=30, shifts=7)),
        (PRODUCT, Energy(acs=60)),
        (replace(PRODUCT, operands=[SUMS, real()]), Energy(acs=60 / 0.5)),
        (replace(PRODUCT, operands=[SUMS, SUMS]), Energy(acs=55 / 0.5)),  # the cheaper way round
        (replace(PRODUCT, operands=[real(), real()]), Energy(macs=500)),
        (replace(FC, operands=[operand()], tally=Tally(1, 2000, 2000)), Energy()),
        (HEAD, Energy(macs=70)),
    ],
)
def test_exact(operator, expected):
    assert exact(made_up(operator)) == expected.per(2)


def test_exact_with_integers_multiplied():
    assert exact(made_up(SUM), integers="multiply") == Energy(macs=90).per(2)
    assert exact(made_up(FC, CODED, PRODUCT), integers="multiply") == exact(made_up(FC, CODED, PRODUCT))


def test_syops():
    norm = OtherCount("x", "batch norm", "batch norm", Origin("add"), elements=30)
    mixing = replace(FC, layer=False)  # a product with a parameter, in no linear map: both tools do not see it
    other = OtherCount("x", "add", "elementwise", Origin("add"), elements=1000)
    folded = replace(FC, folded_norm=True)
    e = syops(made_up(STEM, folded, mixing, SUM, PRODUCT, HEAD, neurons=NEURONS, elementwise=[norm, other]))
    assert e.macs == (1000 + 600 + 70 + 2 * 50 + 2 * 30) / 2  # attention is not seen; sums of spikes are MACs
    assert e.acs == (2000 / 4 + 160) / 2


def test_neurobench():
    scaled, signed = replace(FC, operands=[operand(0.125)]), replace(FC, operands=[operand(-1, 1)])
    e = neurobench(
        made_up(STEM, FC, replace(FC, layer=False), scaled, signed, SUM, PRODUCT, replace(FC, operands=[SILENT]))
    )
    assert (e.macs, e.acs) == ((800 + 400 + 90) / 2, (400 + 400 + 400) / 2)


def test_memory():
    """With words of 16 bits at 2 pJ and spikes of 1 bit."""
    constants = Constants("mine", "", add=1, multiply=2, shift=0, memory=4, memory_bits=32, bits=16, spike_bits=1)
    assert (constants.access(16), constants.access(1)) == (2, 0.125)
    e = memory(made_up(STEM, FC, neurons=NEURONS), constants)
    stem = 900 * 3 + 2 * 900 * 2 + 40 * 2 + 9 * 2  # MACs; weights and inputs; outputs; inputs
    fc = 400 * 1 + 3 * 400 * 2 + 1 * 0.125  # ACs; weights, membranes in and out; spikes
    neurons = 160 * 2 * 2 + 30 * 0.125
    assert e.mj * 1e9 == pytest.approx((stem + fc + neurons) / 2)
    assert replace(e, other_pj=0.0) == exact(made_up(STEM, FC), constants)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_any_number_of_images_costs_as_much_each(name):
    one = made_up(STEM, FC, SUM, CODED, PRODUCT, HEAD, neurons=NEURONS)
    twice = Counts(4, 4)
    for c in one.operators:
        tally = Tally()
        tally += c.tally
        tally += c.tally
        twice.operators.append(replace(c, tally=tally))
    twice.neurons = [NeuronCount(n.module, 2 * n.updates, 2 * n.spikes) for n in NEURONS]
    a, b = CONVENTIONS[name](one, load_constants()), CONVENTIONS[name](twice, load_constants())
    assert a.mj == pytest.approx(b.mj) and a.mj > 0


def test_constants_go_through_every_convention():
    ten = Constants("ten", "", add=9.0, multiply=37.0, shift=1.0, memory=50.0)
    counts = made_up(STEM, FC, SUM, CODED, PRODUCT, HEAD, neurons=NEURONS)
    for name, convention in CONVENTIONS.items():
        assert convention(counts, ten).mj == pytest.approx(10 * convention(counts, load_constants()).mj), name


# --- baselines -------------------------------------------------------------------------------------------------------


def test_dense():
    counts = made_up(STEM, FC, PRODUCT)
    assert dense(counts).macs == 900 / 2 + (2000 + 500) / 2 / 4  # one step each; the stem ran once
    assert dense(replace(counts, frames=True)).macs == (900 + 2500) / 2 / 4


def test_matched_bits():
    assert [matched_bits(t) for t in (1, 2, 3, 4, 7, 8, 15)] == [1, 2, 2, 3, 3, 4, 4]
    quantised = dense(made_up(STEM, FC), bits=3)
    assert quantised.mj * 1e9 == pytest.approx(MAC * 450 + 250 * (0.9 + 3.7 * 3 / 32))
    assert dense(made_up(STEM, FC), bits=32).mj == pytest.approx(dense(made_up(STEM, FC)).mj)


@pytest.mark.parametrize("bits", [None, 3])
@pytest.mark.parametrize("constants", ["fp32", "int8"])
@pytest.mark.parametrize("frames", [False, True])
def test_break_even(bits, constants, frames):
    """At that rate the spiking network costs as much."""
    counts = made_up(STEM, FC, replace(PRODUCT, operands=[SPIKES, SPIKES]), frames=frames)
    baseline = dense(counts, load_constants(constants), bits=bits)
    rate = break_even(counts, baseline)
    at_it = [
        c if c.stem else replace(c, tally=replace(c.tally, active=rate * c.tally.inbounds)) for c in counts.operators
    ]
    assert exact(replace(counts, operators=at_it), load_constants(constants)).mj == pytest.approx(baseline.mj)


def test_break_even_of_a_stem_alone():
    assert np.isnan(break_even(made_up(STEM), dense(made_up(STEM))))


# --- constants -------------------------------------------------------------------------------------------------------


def test_constants():
    table = {name: load_constants(name) for name in ("fp32", "fp16", "int8")}
    assert {name: (c.add, c.multiply, round(c.mac, 9)) for name, c in table.items()} == {
        "fp32": (0.9, 3.7, 4.6),
        "fp16": (0.4, 1.1, 1.5),
        "int8": (0.03, 0.2, 0.23),
    }
    assert {name: c.bits for name, c in table.items()} == {"fp32": 32, "fp16": 16, "int8": 8}
    assert load_constants(table["int8"]) is table["int8"]
    assert table["fp32"].to_dict()["mac"] == pytest.approx(4.6) and table["fp32"].to_dict()["memory"] == 5.0


def test_own_constants(tmp_path):
    (tmp_path / "mine.yaml").write_text("add: 1\nmultiply: 2\nmemory: 3\nabout: mine alone\n")
    c = load_constants(tmp_path / "mine.yaml")
    assert c == Constants("mine", "mine alone", 1, 2, 0.0, 3)
    assert load_constants(str(tmp_path / "mine.yaml")) == c


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("add: 1", "mine.yaml lacks multiply"),
        ("[1, 2]", "must be a YAML mapping of about, add, .*; got list"),
        ("add: 1\nmultiply: 2\nmultipy: 3", "unknown constant in .*mine.yaml 'multipy'; did you mean multiply"),
        ("add: -1\nmultiply: 2", "mine.yaml: add=-1 must be a number of at least 0"),
        ("add: cheap\nmultiply: 2", "add='cheap' must be a number"),
        ("add: true\nmultiply: 2", "add=True must be a number"),
        ("add: .nan\nmultiply: 2", "add=nan must be a number"),
        ("add: 1\nmultiply: 2\nmemory_bits: 0", "memory_bits=0 must be"),
        ("add: 1\nmultiply: 2\nbits: 0", "bits=0 must be"),
        ("add: [1\n", "mine.yaml is not valid YAML"),
    ],
)
def test_own_constants_that_are_wrong(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_constants(tmp_path / "mine.yaml")


def test_unknown_constants():
    with pytest.raises(ValueError, match="unknown constants 'int9'; did you mean int8"):
        load_constants("int9")
    with pytest.raises(OSError, match="none.yaml"):
        load_constants("none.yaml")


# --- published figures -----------------------------------------------------------------------------------------------


def shapes(name: str, **config) -> Counts:
    with torch.device("meta"):
        return count_shapes(create_model(name, **config).eval())


def test_dense_flops_of_spikformer_8_512():
    """ImageNet, T = 4: all from the architecture; the stem runs once, as it is executed."""
    t, d, n, h = 4, 512, 14 * 14, 8
    stem = 224**2 * 9 * 3 * 64 + t * 9 * (112**2 * 64 * 128 + 56**2 * 128 * 256 + 28**2 * 256 * 512 + 14**2 * 512 * 512)
    projections, attention, mlp = 4 * n * d * d, 2 * h * n * (d // h) * min(n, d // h), 8 * n * d * d
    counts = shapes("spikformer_8_512")
    assert counts.macs == stem + t * (8 * (projections + attention + mlp) + d * 1000)
    assert not counts.uncounted and counts.time_steps == t and counts.images == 1


def test_dense_flops_of_qkformer_10_512():
    t, d = 4, 512

    def block(n: int, c: int, parts: int) -> int:
        return n * c * c * (parts + 1 + 4 + 4)  # projections in and out, MLP

    stem = 9 * (112**2 * 64 * 128 + 56**2 * 128 * 128) + 56**2 * 64 * 128
    second = 9 * (56**2 * 128 * 256 + 28**2 * 256 * 256) + 28**2 * 128 * 256
    third = 9 * (28**2 * 256 * 512 + 14**2 * 512 * 512) + 14**2 * 256 * 512
    blocks = block(56**2, 128, 2) + 2 * block(28**2, 256, 2) + 7 * (block(14**2, 512, 3) + 2 * 14**2 * 512 * 64)
    first = 224**2 * 9 * 3 * 64
    assert shapes("qkformer_10_512").macs == first + t * (stem + second + third + blocks + d * 1000)


SPIKFORMERS = {  # SOPs, mJ, parameters of the first convolution as it should have been
    "spikformer_8_384": (6.82e9, 7.734, 48),
    "spikformer_6_512": (8.69e9, 9.417, 64),
    "spikformer_8_512": (11.09e9, 11.577, 64),
    "spikformer_10_512": (13.67e9, 13.899, 64),
    "spikformer_8_768": (22.09e9, 21.477, 96),
}


@pytest.mark.parametrize("name", SPIKFORMERS)
def test_published_energy_of_spikformer(name):
    """Its SOPs, and the first convolution of the model of width 512 at every step, whatever the width."""
    sops, published, width = SPIKFORMERS[name]
    counts = shapes(name)
    beside_stem_and_head = sum(c.macs for c in counts.operators if not c.stem and c.module != "head")
    counts, missing = with_rates(counts, {"*": sops / beside_stem_and_head})
    ours = paper(counts)
    assert missing == [] and ours.acs == pytest.approx(sops, rel=1e-3)
    first = shapes("spikformer_8_512").operators[0]
    assert first.macs == 86_704_128
    as_printed = replace(ours, macs=4.0 * first.macs)
    assert as_printed.mj == pytest.approx(published, rel=1e-3)
    right = 4.6e-9 * 4 * 224**2 * 27 * width + 0.9e-9 * sops
    assert ours.mj == pytest.approx(right, rel=1e-3)
    assert (abs(ours.mj - published) < 0.002 * published) == (width == 64)


def test_published_energy_of_spikingformer_8_512():
    counts = shapes("spikingformer_8_512")
    beside = sum(c.macs for c in counts.operators if not c.stem and c.module != "head")
    e = paper(with_rates(counts, {"*": 6.518e9 / beside})[0])
    assert e.macs == pytest.approx(0.347e9, rel=1e-3)
    assert e.mj == pytest.approx(7.4635, rel=1e-3)


def test_published_rates_of_qkformer():
    """What the paper prints is not enough: what is missing is named."""
    counts = shapes("qkformer_10_768")
    rates = {
        "stages.0.*.attn.proj_out": 0.0832,
        "stages.1.*.attn.proj_out": 0.0350,
        "stages.0.*.mlp.fc1": 0.0518,
        "stages.1.*.mlp.fc1": 0.0246,
        "stages.0.*.mlp.fc2": 0.2733,
        "stages.1.*.mlp.fc2": 0.1869,
    }
    known, missing = with_rates(counts, rates)
    c1, c2, n1, n2 = 192, 384, 56**2, 28**2
    sops = n1 * c1**2 * (0.0832 + 4 * 0.0518 + 4 * 0.2733) + 2 * n2 * c2**2 * (0.0350 + 4 * 0.0246 + 4 * 0.1869)
    assert paper(known).acs == pytest.approx(4 * sops, rel=1e-6)
    assert missing[:2] == ["patch_embed.0.proj.1", "patch_embed.0.proj.2"] and len(missing) == len(set(missing))
    third = {f"stages.2.{i}.{part}" for i in range(7) for part in ("attn", "attn.proj_in", "mlp.fc1", "mlp.fc2")}
    assert third < set(missing) and "head" not in missing and "stages.0.0.attn.proj_in" in missing


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"blocks.0.atn": 0.1}, r"rates\['blocks.0.atn'\]: no module"),
        ({"blocks.0.attn": 1.1}, r"rates\['blocks.0.attn'\]=1.1 must be a share"),
        ({"blocks.0.attn": -0.1}, "must be a share"),
        ({"blocks.0.attn": float("nan")}, "must be a share"),
    ],
)
def test_wrong_rates(rates, message):
    with pytest.raises(ValueError, match=message):
        with_rates(shapes("spikformer_tiny"), rates)


def test_rates_of_a_run_give_its_energy():
    """Rates alone, as measured in a run, say the same as the run."""
    model, x = firing(), images()
    run = count(model, x)
    assert len({c.module for c in run.operators}) == len(run.operators) - 2  # two products of attention in two blocks
    rates = {c.module: c.rate() for c in run.operators if c.operator != "matmul"}
    alone = [c for c in run.operators if c.operator != "matmul"]
    known, missing = with_rates(replace(shapes("spikformer_tiny", image_size=16)), rates)
    assert missing == ["blocks.0.attn", "blocks.1.attn"]
    expected = paper(replace(run, operators=alone))
    assert paper(known).mj == pytest.approx(expected.mj, rel=1e-2)  # rates of few entries, rounded to whole spikes


def test_exact_does_not_take_shapes_for_silence():
    """The stem's operations are known without a run."""
    known, _ = with_rates(shapes("spikformer_tiny"), {"*": 0.2})
    assert exact(known).macs > 0


# --- spread ----------------------------------------------------------------------------------------------------------


def test_spread_is_that_of_single_images():
    model, x = firing("spikingformer_tiny"), images(4)
    report = profile(model, x.split(1))
    singles = [profile(model, image[None]) for image in x]
    for name, cost in report.costs.items():
        each = [single.costs[name].energy.mj for single in singles]
        assert cost.spread == pytest.approx(np.std(each, ddof=1)), name
        assert cost.energy.mj == pytest.approx(np.mean(each)), name
    assert profile(model, x).costs["exact"].spread is None, "one batch says nothing of it"


def test_spread_of_batches_stands_for_images():
    model, x = firing("spikingformer_tiny"), images(6)
    whole = profile(model, x.split(2)).costs["exact"]
    means = [profile(model, pair).costs["exact"].energy.mj for pair in x.split(2)]
    assert whole.spread == pytest.approx(np.std(means, ddof=1) * 2**0.5)
