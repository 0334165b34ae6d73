"""The curve: every row is a separate evaluation and a separate count of the model at that setting."""

import csv
import io

import pytest
import torch

from spikevit import count, create_model, profile
from spikevit.adaptive import add_early_exit, add_halting
from spikevit.data import DataInfo, ImageSet, normalise
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.constants import load_constants
from spikevit.profiling.conventions import exact, paper
from spikevit.report.curve import Curve, curve, operating_points
from spikevit.training.evaluate import evaluate

INFO = DataInfo("noise", tuple("abcde"), 3, (32, 32), (0.5,) * 3, (0.25,) * 3)
FIRST = 6  # images that operations are counted on


@pytest.fixture(scope="module")
def data() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.randint(5, (20,), generator=generator))


def make(data, name="spikformer_tiny", **config):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **{"time_steps": 3} | config).double()
    calibrate(model, shown(data))
    torch.nn.init.normal_(model.head.weight, std=1.5)
    return model.eval()


def shown(data, n: int = FIRST) -> torch.Tensor:
    return normalise(data.images[:n], INFO).double()


def adapted(data):
    return add_early_exit(make(data), 0.75)


@pytest.fixture(scope="module")
def plain_curve(data) -> Curve:
    return curve(make(data), data, INFO, batch_size=8, count_images=FIRST)


@pytest.fixture(scope="module")
def exit_curve(data) -> Curve:
    return curve(adapted(data), data, INFO, batch_size=8, count_images=FIRST)


def test_rows_of_a_model_are_models_of_fewer_steps(data, plain_curve):
    """Built anew with other time steps, and counted and evaluated by hand."""
    assert (plain_curve.knob, plain_curve.work_unit) == ("time_steps", "time steps")
    assert [p.setting for p in plain_curve.points] == [1, 2, 3]
    whole = make(data)
    for p in plain_curve.points:
        model = make(data, time_steps=int(p.setting))
        model.load_state_dict(whole.state_dict())
        assert p.score == evaluate(model, data, INFO) and p.score.work == p.setting
        counts = count(model, shown(data))
        assert (p.macs, p.acs, p.exact_mj) == (exact(counts).macs, exact(counts).acs, exact(counts).mj)
        assert p.paper_mj == pytest.approx(paper(counts).mj, rel=1e-12)
        assert p.wall_ms > 0 and p.chosen == (p.setting == 3)
    assert plain_curve.chosen.setting == 3 and plain_curve.images == FIRST


def test_rows_of_early_exit(data, exit_curve):
    assert exit_curve.knob == "threshold" and len(exit_curve.points) == 13
    own = adapted(data)
    for p in [*exit_curve.points[::4], exit_curve.chosen]:
        model = add_early_exit(own.model, p.setting)
        assert p.score == evaluate(model, data, INFO)
        spent = exact(count(model, shown(data)))
        assert (p.macs, p.acs, p.exact_mj) == (spent.macs, spent.acs, spent.mj)
    assert exit_curve.chosen.setting == 0.75 and [p.chosen for p in exit_curve.points].count(True) == 1
    works = [p.score.work for p in exit_curve.points]
    assert works == sorted(works) and works[0] < exit_curve.chosen.score.work < works[-1] == 3


def test_both_meet_at_their_ends(data, plain_curve, exit_curve):
    """Exit at the first step is a model of one step; never to exit is the model, but for a stem at every step."""
    (one, *_, three), (first, *_, last) = plain_curve.points, exit_curve.points
    assert first.score.work == 1 and first.score == one.score
    assert (first.macs, first.acs) == (one.macs, one.acs)
    assert first.exact_mj == pytest.approx(one.exact_mj, rel=1e-5)  # a running mean is divided by the steps so far
    assert first.paper_mj == pytest.approx(one.paper_mj, rel=1e-5)
    assert last.score == three.score and last.acs == pytest.approx(three.acs)
    assert last.macs == 3 * three.macs
    assert last.paper_mj == pytest.approx(three.paper_mj, rel=0.02)  # rates are means over all steps, or of each


def test_paper_charges_the_stem_at_the_steps_that_ran(data, exit_curve):
    """The first convolution's share is in proportion to the steps that these images took."""
    own = adapted(data)
    (stem, *_) = (c for c in count(own.model, shown(data)).operators if c.stem)
    _, taken = own.run(shown(data))
    c = load_constants("fp32")
    assert exit_curve.chosen.macs == stem.macs / FIRST * float(taken.double().mean()) / stem.macs * stem.tally.inbounds
    ran = count(own, shown(data))
    others = paper(ran, stem="once").acs
    wanted = (c.mac * stem.macs / FIRST * float(taken.double().mean()) + c.add * others) * 1e-9
    assert exit_curve.chosen.paper_mj == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("front", "steps"), [("one", 1), ("average", 3)])
def test_paper_charges_the_stem_of_halting_as_often_as_it_steps(data, front, steps):
    model = add_halting(make(data), front=front).eval()
    ran = count(model, shown(data))
    (stem,) = (c for c in ran.operators if c.stem)
    c, others = load_constants("fp32"), paper(ran, stem="once").acs
    wanted = (c.mac * stem.macs / FIRST * steps + c.add * others) * 1e-9
    found = curve(model, data, INFO, count_images=FIRST)
    assert found.chosen.paper_mj == pytest.approx(wanted, rel=1e-12)
    assert (found.knob, found.work_unit) == (model.knob, model.work_unit)


def test_shares_weights_and_leaves_the_model_alone(data):
    model = make(data).train()
    for setting, at in operating_points(model):
        assert at.config.time_steps == setting
        assert all(a is b for a, b in zip(model.parameters(), at.parameters(), strict=True))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    curve(model, data, INFO, count_images=1)
    assert model.training and model.blocks[0].training and model.config.time_steps == 3
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_model_without_time_steps_is_one_point(data):
    model = make(data, "ge2mst_tiny", time_steps=4)
    found = curve(model, data, INFO, count_images=2)
    (point,) = found.points
    assert (model.knob, found.knob, point.chosen) == ("none", "none", True)
    assert point.score == evaluate(model, data, INFO)
    report = profile(model, shown(data, 2))
    assert point.exact_mj == pytest.approx(report.costs["exact"].energy.mj)
    assert point.paper_mj == pytest.approx(report.costs["paper"].energy.mj)


def test_constants_and_batches_and_progress(data, plain_curve):
    told = []
    found = curve(
        make(data),
        data,
        INFO,
        batch_size=7,
        count_images=100,
        constants="int8",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(i + 1, 9) for i in range(9)], "three settings of three batches"
    assert found.images == len(data) and found.constants.name == "int8"
    assert [p.score for p in found.points] == [p.score for p in plain_curve.points]
    whole = exact(count(make(data), shown(data, 20)), load_constants("int8"))
    assert found.chosen.exact_mj == pytest.approx(whole.mj)


def test_refuses_no_images_to_count_on(data):
    with pytest.raises(ValueError, match="count_images=0 must be at least 1"):
        curve(make(data), data, INFO, count_images=0)


def test_as_plain_values(exit_curve):
    values = exit_curve.to_dict()
    assert (values["model"], values["data"], values["images"]) == ("spikformer_tiny", "noise", FIRST)
    assert values["constants"]["name"] == "fp32" and "not measurement" in values["note"]
    rows = list(csv.DictReader(io.StringIO(exit_curve.to_csv())))
    assert len(rows) == len(values["points"]) == 13
    for row, point in zip(rows, values["points"], strict=True):
        assert (row.pop("knob"), row.pop("work_unit")) == ("threshold", "time steps")
        assert row == {key: str(value) for key, value in point.items()}
        assert point["accuracy"] == point["right"] / point["total"]


def test_table(exit_curve, plain_curve):
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(exit_curve)
    text = console.export_text()
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["★"] and "0.75" in line]
    p = exit_curve.chosen
    assert line.split()[1:4] == ["0.75", f"{p.score.accuracy:.2%}", f"{p.score.work:.2f}"]
    assert (
        f"{p.exact_mj * 1e3:.3f}" in line
        and "µJ, exact" in text
        and "model, not measurement" in text
        and f"first {FIRST} images" in text
    )
    assert "threshold" in text and "time steps, mean" in text
    console.print(plain_curve)
    assert "time steps, mean" in console.export_text()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_picture(exit_curve, tmp_path, kind):
    path = exit_curve.plot(tmp_path / f"curve.{kind}")
    assert path.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[kind])
    with pytest.raises(ValueError, match="curve.pdf: a plot is written as .svg or .png"):
        exit_curve.plot(tmp_path / "curve.pdf")


def test_picture_has_every_point(exit_curve, tmp_path, monkeypatch):
    """What is drawn, not how: the figure's points are the rows."""
    from matplotlib.axes import Axes

    drawn = []
    scatter = Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda *a, **k: drawn.append(a[1:3]) or scatter(*a, **k))
    exit_curve.plot(tmp_path / "curve.svg")
    y = [p.score.accuracy * 100 for p in exit_curve.points]
    (energy, all_y), own_energy, (work, _), own_work = drawn
    scale = energy[0] / exit_curve.points[0].exact_mj
    assert scale in (pytest.approx(1), pytest.approx(1e3))
    assert energy == [pytest.approx(p.exact_mj * scale) for p in exit_curve.points] and all_y == y
    assert work == [p.score.work for p in exit_curve.points]
    assert own_work == ([exit_curve.chosen.score.work], [exit_curve.chosen.score.accuracy * 100])
    assert own_energy[0] == [pytest.approx(exit_curve.chosen.exact_mj * scale)]
