"""Energy by every convention: by hand on made-up counts, and the figures that papers print."""

from dataclasses import replace
from math import inf
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from firing import firing, images
from torch import nn

from spikevit import count, create_model, record_spikes
from spikevit.adaptive import add_early_exit, add_halting, allocate_time_steps
from spikevit.conversion.convert import convert
from spikevit.conversion.quantise import quantise
from spikevit.neurons import IF
from spikevit.profiling.baselines import dense, dense_memory, headroom, matched_bits
from spikevit.profiling.check import check, load_rule
from spikevit.profiling.constants import Constants, load_constants
from spikevit.profiling.conventions import (
    CONVENTIONS,
    Energy,
    exact,
    memory,
    neurobench,
    paper,
    paper_charge,
    syops,
    with_rates,
)
from spikevit.profiling.count import count_shapes
from spikevit.profiling.counts import Counts, NeuronCount, Operand, OperatorCount, OtherCount, Tally
from spikevit.profiling.metrics import metrics
from spikevit.profiling.origins import Origin
from spikevit.profiling.profile import profile
from spikevit.profiling.twin import without_spikes
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
HEAD = OperatorCount(
    "head", "linear", [real("mean")], Tally(1, 70, 70, 70, outputs=10, nonzero=(5, 0), size=(7, 0)), head=True
)
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


def test_layers_of_paper_add_up():
    for counts in (made_up(STEM, FC, PRODUCT, SUM, HEAD), made_up(STEM, FC, HEAD, frames=True)):
        for stem in ("every step", "once"):
            parts = [paper_charge(c, counts, stem=stem) for c in counts.operators]
            assert sum(e.mj for e in parts) / 2 == pytest.approx(paper(counts, stem=stem).mj)


class Tail(nn.Module):
    """Convolution, spikes, and whatever reads them."""

    def __init__(self, *tail: nn.Module):
        super().__init__()
        self.conv, self.tail = nn.Conv2d(1, 2, 3), nn.ModuleList(tail)

    def forward(self, x):
        x = (self.conv(x) > 0).to(x.dtype).flatten(1)
        for module in self.tail:
            x = module(x)
        return x


class Threshold(nn.Module):
    """Neurons that are not ours."""

    def forward(self, x):
        return (x >= 0.1).to(x.dtype)


@pytest.mark.parametrize(
    ("tail", "heads"),
    [
        ([nn.Linear(32, 3)], ["tail.0"]),  # whatever it is called
        ([nn.Linear(32, 8), nn.Linear(8, 3)], ["tail.1"]),
        ([nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(-1)], ["tail.2"]),
        ([nn.Linear(32, 8), Threshold(), nn.Linear(8, 3)], ["tail.2"]),
        ([nn.Linear(32, 3), Threshold()], []),  # spikes are read out
        ([nn.Linear(32, 3), IF()], []),
        ([], []),  # of the first convolution, which is charged
    ],
)
def test_the_head_is_what_is_read_out(tail, heads):
    counts = count(Tail(*tail), torch.randn(2, 1, 6, 6))
    assert [c.module for c in counts.operators if c.head] == heads
    free = sum(c.macs * c.rate() for c in counts.operators if c.head)
    everything = sum(c.macs * c.rate() for c in counts.operators if not c.stem)
    assert paper(counts).acs == pytest.approx((everything - free) / 2)


@pytest.mark.parametrize("name", ["spikformer_tiny", "sdt_tiny", "ge2mst_tiny"])
@pytest.mark.parametrize("adapt", [lambda m: m, lambda m: add_early_exit(allocate_time_steps(m), 0.9).eval()])
def test_heads_of_the_zoo(name, adapt):
    model = firing(name)
    if not model.time_axis and adapt(firing("sdt_tiny")).methods:
        return
    heads = [c.module for c in count(adapt(model), images(2)).operators if c.head]
    assert [module.split(".")[-1] for module in heads] == ["head"]


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
    stem = 900 * 3 + 2 * 900 * 2 + 40 * 2  # MACs; weights and inputs; outputs
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


ONCE = [replace(STEM, tally=replace(STEM.tally, once=800))] + [
    replace(c, tally=replace(c.tally, once=n)) for c, n in ((FC, 300), (PRODUCT, 50))
]


@pytest.mark.parametrize("frames", [False, True])
def test_zeros_skipped(frames):
    """Two images: 350 products of one pass have no zero, the first convolution sees an image, which has none."""
    counts = made_up(*ONCE, frames=frames)
    stem = 900 / 2 / (4 if frames else 1)
    assert dense(counts, skip_zeros=True) == Energy(macs=stem + 350 / 2)
    narrow = dense(counts, bits=3, skip_zeros=True)
    assert narrow.mj * 1e9 == pytest.approx(MAC * stem + 175 * (0.9 + 3.7 * 3 / 32))


@pytest.mark.parametrize(("bits", "activation"), [(None, 5), (3, 5 * 3 / 32)])
@pytest.mark.parametrize("skip_zeros", [False, True])
def test_memory_of_baselines(bits, activation, skip_zeros):
    """Weights and outputs of 32 bits, 5 pJ each, and activations of `bits`; outputs of one pass."""
    counts = made_up(*ONCE)
    products = 175 if skip_zeros else 2500 / 4 / 2
    outputs = (40 + (50 + 25) / 4) / 2
    moved = 450 * (5 + 5) + products * (5 + activation) + outputs * 5
    arithmetic = dense(counts, bits=bits, skip_zeros=skip_zeros).mj
    found = dense_memory(counts, bits=bits, skip_zeros=skip_zeros)
    assert found.mj * 1e9 == pytest.approx(arithmetic * 1e9 + moved)


@pytest.mark.parametrize("bits", [None, 3])
@pytest.mark.parametrize("constants", ["fp32", "int8"])
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("operators", [[STEM, FC], [STEM, FC, SUM], [STEM, CODED, PRODUCT, HEAD]])
def test_headroom(bits, constants, frames, operators):
    """With all operands so many times as active the spiking network costs as much: sums and products, too."""
    constants = load_constants(constants)
    counts = made_up(*operators, frames=frames)
    baseline = dense(counts, constants, bits=bits)
    f = headroom(counts, baseline)

    def more(c):
        t = c.tally
        times = 1 if c.stem else f ** len(c.operands)
        return replace(c, tally=replace(t, active=times * t.active, weighted=tuple(times * w for w in t.weighted)))

    busier = exact(replace(counts, operators=[more(c) for c in counts.operators]), constants)
    if f:
        assert busier.mj == pytest.approx(baseline.mj)
    else:
        assert busier.mj >= baseline.mj, "what does not depend on spikes costs more already"


def test_headroom_of_sums():
    """An operand of sums of spikes: 150 accumulates of 600 products, whatever its 30 % of non-zero entries say."""
    counts = made_up(SUM)
    assert headroom(counts, dense(counts)) == pytest.approx(600 * 4.6 / 4 / (150 * 0.9))
    assert headroom(counts, Energy(macs=50 * 0.9 / 4.6)) == pytest.approx(2 / 3)
    assert headroom(made_up(STEM), dense(made_up(STEM))) in (0.0, inf)


def test_headroom_of_a_network_is_where_it_costs_as_much():
    """QKFormer's sums of spikes: products have non-zero operands about twice as often as neurons fire."""
    model, x = firing("qkformer_tiny"), images(3)
    report = profile(model, x)
    assert report.counts.activity > 1.5 * report.counts.firing_rate
    for row in report.opponents():
        if row["activity"] is not None:
            assert (row["activity"] < 1) == (row["ratio"] > 1), row["name"]
    fired = sum(int(s.count_nonzero()) for s in record_spikes(model, x).values())
    cells = sum(s.numel() for s in record_spikes(model, x).values())
    assert report.counts.firing_rate == pytest.approx(fired / cells)


@pytest.mark.parametrize("what", ["firing_rate", "activity", "check", "metrics", "headroom"])
def test_shapes_alone_have_no_rates(what):
    counts = shapes("spikformer_tiny")
    found = {
        "check": lambda: check(counts, load_rule("accumulate-only")),
        "metrics": lambda: metrics(firing(), counts),
        "headroom": lambda: headroom(counts, Energy(macs=1e6)),
    }
    with pytest.raises(ValueError, match="needs the values of a run, and these counts are of shapes alone"):
        found.get(what, lambda: getattr(counts, what))()
    assert counts.silence == "" and counts.macs > 0


@pytest.mark.parametrize("convention", [exact, syops, neurobench, memory, paper])
def test_shapes_alone_have_no_cost_in_spikes(convention):
    counts = shapes("spikformer_tiny")
    with pytest.raises(ValueError, match="needs .*shapes alone"):
        convention(counts)
    with pytest.raises(ValueError, match="skip_zeros needs the values of a run"):
        dense(counts, skip_zeros=True)
    if convention is not paper:
        with pytest.raises(ValueError, match="needs the values of a run.*given rates"):
            convention(with_rates(counts, {"*": 0.1})[0])
    assert dense(counts).mj > 0


# --- steps of the run -------------------------------------------------------------------------------------------------


def test_steps_are_those_of_the_frames():
    """Eight equal frames are one image shown eight times: the ANN is the same, the bits are those of eight steps."""
    model, x = firing("spikformer_tiny"), images(2)
    still, frames = profile(model, x), profile(model, x.expand(8, *x.shape).contiguous())
    assert (still.counts.time_steps, frames.counts.time_steps) == (4, 8)
    assert frames.baselines["ANN"].energy.macs == pytest.approx(still.baselines["ANN"].energy.macs)
    assert list(still.baselines)[2] == "3-bit ANN" and list(frames.baselines)[2] == "4-bit ANN"
    assert frames.costs["paper"].energy.macs == pytest.approx(2 * still.costs["paper"].energy.macs)


def test_averages_over_time_are_found_at_any_number_of_frames():
    class Average(nn.Module):
        def forward(self, x, stream=None):
            return x.mean(0, keepdim=True).expand(x.shape)

    model = firing("stmixer_tiny")
    model.blocks[1] = Average()
    for steps in (4, 8, 3):
        counts = count(model, torch.randn(steps, 2, 3, 16, 16, dtype=torch.float64))
        reasons = [v.reason for v in check(counts, load_rule("asynchronous")).verdicts if not v.passed]
        assert "average over time inside the network" in reasons, steps


def test_frames_of_different_lengths_are_refused():
    x = torch.randn(8, 2, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match="batches of 8 and of 4 time steps"):
        count(firing("spikformer_tiny"), [x, x[:4]])


# --- the network without spikes ---------------------------------------------------------------------------------------


def test_twins():
    """An early exit, halted tokens and closed steps spare the spiking network work, and no opponent."""
    model, x = firing("spikformer_tiny"), images(3)
    plain = profile(model, x).baselines
    for adapted in (
        add_early_exit(model, 0.3),
        add_halting(model, beta=5.0, gamma=4.0),
        allocate_time_steps(model, steps={"blocks.*": 2}).eval().freeze(),
    ):
        found = profile(adapted.eval(), x)
        assert found.costs["exact"].energy.mj != profile(model, x).costs["exact"].energy.mj
        assert found.baselines["ANN"] == replace(plain["ANN"], headroom=found.baselines["ANN"].headroom)
        if "time_steps" not in dict(adapted.methods):
            assert found.baselines["ANN, zeros skipped"] == plain["ANN, zeros skipped"]
    frozen = count(adapted, x)
    with without_spikes(adapted) as twin:
        masked = count(twin, x)
    assert sum(c.macs for c in frozen.operators) < sum(c.macs for c in masked.operators)
    assert exact(frozen).acs == pytest.approx(exact(count(adapted, x)).acs), "skipping is back"


def test_twin_of_spikes_is_the_staircase_network():
    model, x = firing("ge2mst_tiny").float(), images(2).float()
    spiking, certificate = convert(quantise(model), x)
    reference = count(quantise(model).eval(), x)
    found = profile(spiking, x)
    assert certificate.differing == 0 and found.counts.operators != reference.operators
    products = sum(c.tally.active for c in reference.operators if not c.stem)
    stem = sum(c.tally.inbounds for c in reference.operators if c.stem)
    assert found.baselines["ANN, zeros skipped"].energy.macs == pytest.approx((stem + products) / 2)
    assert found.baselines["ANN"].energy.macs == pytest.approx(sum(c.tally.inbounds for c in reference.operators) / 2)


def test_networks_whose_time_steps_are_not_known_have_no_zeros_to_skip():
    model = Tail(nn.Linear(32, 3))
    model.config = SimpleNamespace(time_steps=4)
    report = profile(model, torch.randn(2, 1, 6, 6))
    assert list(report.baselines) == ["ANN", "3-bit ANN"]
    with pytest.raises(ValueError, match="time steps are not known"):
        dense(report.counts, skip_zeros=True)


# --- parts of attention -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "mixer", "names"),
    [
        ("spikformer_tiny", {}, "blocks.0.attn", "qkv"),
        ("qkformer_tiny", {}, "stages.0.0.attn", "qk"),
        ("ge2mst_tiny", {"neuron": {"kind": "lif"}}, "stages.2.0.attn", "qkv"),
        ("ge2mst_tiny", {}, "stages.2.0.attn", "qkv"),
    ],
)
def test_rates_of_q_k_v(name, config, mixer, names):
    model, x = firing(name, **config), images(2)
    sent = record_spikes(model, x)[f"{mixer}.proj_in.lif"]
    (count_of,) = [n for n in count(model, x).neurons if n.module == f"{mixer}.proj_in.lif"]
    assert "".join(count_of.parts) == names
    width = sent.shape[-1] // len(names)
    for i, part in enumerate(count_of.parts.values()):
        mine = sent[..., i * width : (i + 1) * width]
        if model.time_axis:
            assert (part.spikes, part.updates) == (int(mine.count_nonzero()), mine.numel())
        else:  # codes 0 … 15, spelt in binary over four steps
            ones = sum(bin(int(k)).count("1") for k in mine.flatten())
            assert (part.spikes, part.updates) == (ones, 4 * mine.numel())


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
        ("add: 1", "mine.yaml: Constants lacks multiply"),
        ("[1, 2]", r"mine.yaml: Constants=\[1, 2\] must be a mapping of name, about, add, multiply, "),
        ("add: 1\nmultiply: 2\nmultipy: 3", "mine.yaml: unknown key 'multipy'; did you mean multiply"),
        ("add: -1\nmultiply: 2", "mine.yaml: add=-1 must be a number of at least 0 and at most 1,000,000,000"),
        ("add: cheap\nmultiply: 2", "add='cheap' must be a number of at least 0"),
        ("add: true\nmultiply: 2", "add=True must be a number of at least 0"),
        ("add: .nan\nmultiply: 2", "add=nan must be a number of at least 0"),
        ("add: 1\nmultiply: 1e300", "mine.yaml: multiply=1e.300 must be a number of at least 0 and at most"),
        ("add: 1\nmultiply: 2\nmemory_bits: 0", "memory_bits=0 must be"),
        ("add: 1\nmultiply: 2\nbits: 0", "bits=0 must be"),
        ("add: [1\n", "mine.yaml is not a table of constants: while parsing"),
    ],
)
def test_own_constants_that_are_wrong(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_constants(tmp_path / "mine.yaml")


def test_unknown_constants():
    with pytest.raises(ValueError, match="unknown constants 'int9'; did you mean int8"):
        load_constants("int9")
    with pytest.raises(ValueError, match="there is no table of constants none.yaml"):
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
