"""What a report says first: how good a network is, whether that means anything, and how runs compare."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch

from spikevit import create_model, load_model, save_model
from spikevit.checkpoint import OWN, read_about
from spikevit.cli.main import main
from spikevit.data import load_data, normalise
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.conventions import CONVENTIONS
from spikevit.report import speed
from spikevit.report.html import page, write_report
from spikevit.report.look import Look, look
from spikevit.report.run_files import Results, Stage, read_run
from spikevit.report.sections.base import Shown, told_apart
from spikevit.report.sections.compare import epochs_of, seconds_of
from spikevit.report.sections.energy import ABOUT
from spikevit.training.evaluate import evaluate

TINY = ["model.config.embed_dim=16", "model.config.num_heads=2", "model.config.depth=1", "model.time_steps=3"]
WORDS = [*TINY, "schedule.epochs=1", "schedule.warmup_epochs=0", "data.batch_size=256"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short run, whose network fires in all layers."""
    where = tmp_path_factory.mktemp("run") / "own"
    assert main(["train", "digits", *WORDS, "--quiet", "--no-report", "--out", str(where)]) == 0
    model, data = load_model(where / "best.safetensors"), load_data("digits", image_size=16)
    calibrate(model, normalise(data.train.images[:64], data.info))
    about = {key: value for key, value in read_about(where / "best.safetensors").items() if key not in OWN}
    save_model(model, where / "best.safetensors", **about)
    (where / "results.json").unlink()
    return where


@pytest.fixture(scope="module")
def seen(run) -> Shown:
    found = read_run(run)
    model = load_model(found.checkpoint)
    return Shown(found, model, look(model, load_data("digits", image_size=16), count_images=2), name="own")


def scored(seen: Shown, right: int, name: str = "own", **changes) -> Shown:
    """The same, as if so many images were right and all layers fired."""
    labels = seen.look.labels
    wrong = torch.arange(len(labels)) >= right
    found = {"predictions": (labels + wrong.long()) % 10, "silence": ""}
    return replace(seen, look=replace(seen.look, **found | changes), name=name)


def text(*shown: Shown) -> str:
    """The overview in words."""
    found = page(list(shown))
    found = found[found.index("<main") : found.index('id="curves"')]
    return unescape(" ".join(re.sub(r"<pre.*?</pre>|<[^>]+>", " ", found, flags=re.S).split()))


def test_the_verdict_comes_first(seen):
    said = text(scored(seen, 324))
    costs = seen.look.costs
    cheapest = min(costs.baselines, key=lambda name: costs.baselines[name].energy.mj)
    ratio = costs.costs["exact"].energy.mj / costs.baselines[cheapest].energy.mj
    assert f"90.0% of 360 test images are right, at {ratio:.2g} × the energy of its fairest opponent" in said
    assert (
        said.index("90.0%")
        < said.index("All layers fire; accuracy is well above chance: the most frequent class alone is 10%")
        < said.index("Accuracy")
    )
    low = min(cost.energy.mj for name, cost in costs.costs.items() if name != "memory") * 1e3
    high = max(cost.energy.mj for name, cost in costs.costs.items() if name != "memory") * 1e3
    assert f"{low:.3g} to {high:.3g} µJ by 6 conventions, {costs.costs['memory'].energy.mj * 1e3:.3g} with data" in said


@pytest.mark.parametrize("kind", ["silent", "chance"])
def test_what_a_sick_network_costs_is_not_praised(seen, kind):
    warning = "4 of 9 layers of neurons are silent on these images"
    sick = scored(seen, 300, silence=warning) if kind == "silent" else scored(seen, 37)
    said, whole = text(sick), page([sick])
    warning = warning if kind == "silent" else "Accuracy is at chance: 37 of 360 images are right"
    assert warning in said and re.search(r'<p class="health fail"[^>]*>' + warning, whole)
    assert "All layers fire" not in said and "×" not in said and "fairest opponent," not in said
    ratios = re.search(r'<table id="opponents-0".*?</table>', whole, re.S)[0]
    assert not re.findall(r"<tr>.*?</th><td[^>]*>[^<]+</td><td[^>]*data-value", ratios), "no ratio"
    assert "they would cost as much as" not in whole and "says nothing about one that works" in whole


def test_above_chance_of_uneven_classes_is_more_than_the_largest(seen):
    labels = torch.zeros(360, dtype=torch.long)
    labels[300:] = 1
    uneven = replace(seen.look, labels=labels, predictions=torch.zeros(360, dtype=torch.long))
    assert uneven.chance == 300 / 360
    assert "300 of 360 images are right, and 300 would be" in replace(seen, look=uneven).luck


def test_mistakes_are_said_with_chance_beside(seen):
    whole = unescape(page([scored(seen, 0)]))
    assert re.search(r"<span>\d → \d</span><small>\d+% sure; a guess is 10%</small>", whole)
    assert "what they are → what they were taken for" in whole


# --- several runs -----------------------------------------------------------------------------------------------------


def test_intervals_of_differences():
    """Against the examples of Newcombe (1998), method 10: intervals that hold zero, or do not."""
    for a, b, apart in (
        ((56, 70), (48, 80), True),  # 0.0524 … 0.3339
        ((9, 10), (3, 10), True),  # 0.1705 … 0.8090
        ((6, 7), (2, 7), True),  # 0.0582 … 0.8062
        ((5, 56), (0, 29), False),  # -0.0381 … 0.1926
        ((10, 10), (10, 10), False),
        ((10, 10), (7, 10), False),  # 0.3 − √(0.2775² + 0.1922²), by the tables of Wilson's interval
        ((3, 10), (0, 10), False),  # 0.3 − √(0.1922² + 0.2775²)
    ):
        assert told_apart(a, b) == told_apart(b, a) == apart, (a, b)


def test_one_table_of_runs(seen):
    """The best first and in bold; who is within the interval is said to be so."""
    shown = [
        scored(seen, right, name) for right, name in ((30, "luck"), (324, "second"), (330, "best"), (200, "worse"))
    ]
    whole = page(shown)
    rows = re.findall(r"<tr>.*?</tr>", re.search(r'<table id="runs".*?</tbody>', whole, re.S)[0], re.S)[1:]
    assert [re.search(r'scope="row">(\w+)', row)[1] for row in rows] == ["best", "second", "worse", "luck"]
    assert ["best" in re.search(r'<td class="([^"]*)"', row)[1] for row in rows] == [True, False, False, False]
    assert ["not told from the best" in row for row in rows] == [False, True, False, False]
    assert "at chance" in rows[3] and 'class="facts"' not in whole, "no cards to contradict it"
    said = text(*shown)
    assert "Best is best: 91.7% of 360 test images are right; 1 of the 3 other runs cannot be told from it" in said
    assert "luck: Accuracy is at chance: 30 of 360" in said


def test_twelve_runs_stay_readable(seen):
    shown = [scored(seen, 300 + i, f"a-run-of-a-sweep-{i}") for i in range(12)]
    whole = page(shown)
    assert len(re.findall(r'<details class="run">', whole)) == 24, "folded: images and costs of each"
    assert whole.count('id="energy-bars') == 0 and whole.count('data-name="energy-bars" ') == 2
    assert len(whole) < 12e6


def test_epochs_of_stages_add_up(run):
    """A run inside has epochs and a recipe of its own, which are not those of the run."""
    found = read_run(run)
    row = {"epoch": 1.0, "seconds": 2.0}
    stage = Stage("exact", Results(0.5, 1, 2, "test"), [row] * 3, "# of exact")
    both = replace(found, epochs=[row] * 25, stages=[stage])
    assert epochs_of(both) == "25 + 3" and seconds_of(both) == 56.0 and epochs_of(found) == "1"


# --- figures ----------------------------------------------------------------------------------------------------------


def test_calibration(seen):
    """By hand: |1 − 0.95| / 4 + |0 − 0.85| / 4 + |1/2 − 0.55| · 2/4 = 0.25; 0.8 ends the bin from 0.7."""
    few = Look(
        **vars(seen.look)
        | {
            "labels": torch.tensor([0, 1, 2, 3]),
            "predictions": torch.tensor([0, 2, 2, 0]),
            "confidence": torch.tensor([0.95, 0.85, 0.52, 0.58]),
        }
    )
    assert [(round(b.low, 1), b.images) for b in few.calibration()] == [(0.5, 2), (0.8, 1), (0.9, 1)]
    assert few.calibration_error == pytest.approx(0.25)
    edges = replace(few, confidence=torch.tensor([1.0, 0.8, 0.0, 0.75], dtype=torch.float64))
    assert [(round(b.low, 1), b.images) for b in edges.calibration()] == [(0.0, 1), (0.7, 2), (0.9, 1)]


def test_accuracy_over_time_is_that_of_fewer_steps(seen):
    data = load_data("digits", image_size=16)
    own = [evaluate(seen.model.at(t), data.test, data.info).accuracy for t in (1, 2, 3)]
    assert seen.look.over_time == pytest.approx(own) and seen.look.over_time[-1] == seen.look.right / 360
    staircases = create_model("ge2mst_tiny", in_channels=1, image_size=16, num_classes=10)
    calibrate(staircases, normalise(data.train.images[:16], data.info))
    assert look(staircases, data, images=8, count_images=2).over_time == []


def test_accuracy_by_class(seen):
    whole = page([scored(seen, 360)])
    table = re.search(r'<table id="classes-0".*?</table>', whole, re.S)[0]
    rows = re.findall(r'<tr><th scope="row".*?</tr>', table, re.S)
    assert len(rows) == 10 and all("100.0%" in row for row in rows)
    images = [int(re.search(r"<td[^>]*>(\d+)</td>", row)[1]) for row in rows]
    assert sorted(images) == sorted(seen.look.labels.bincount().tolist())


def test_speed_is_measured_within_bounds(seen):
    one, many = seen.look.speeds
    assert (one.batch, many.batch) == (1, 64) and one.seconds > 0 < many.seconds and one.runs >= 1 <= many.runs
    assert many.images_per_second == pytest.approx(64 / many.seconds)
    x = torch.zeros(3, 1, 16, 16)
    assert [s.batch for s in speed.speeds(seen.model, x, slow=0.1)] == [1, 8], "8 take less than a second"
    assert [s.batch for s in speed.speeds(seen.model, x, slow=5.0)] == [1]
    assert "1 thread" in speed.machine(torch.device("cpu")) or "threads" in speed.machine(torch.device("cpu"))


def test_every_convention_is_explained():
    assert ABOUT.keys() == CONVENTIONS.keys() and all(said.endswith(".") for said in ABOUT.values())


def test_a_run_without_data_has_no_health(run, tmp_path):
    """What is not known is not said to be well."""
    here = tmp_path / "run"
    shutil.copytree(run, here)
    about = {key: value for key, value in read_about(here / "best.safetensors").items() if key not in (*OWN, "data")}
    save_model(load_model(here / "best.safetensors"), here / "best.safetensors", **about)
    whole = write_report([here]).read_text(encoding="utf-8")
    assert "How many images it gets right is not known." in whole and "All layers fire" not in whole
