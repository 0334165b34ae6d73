"""`spikevit eval`: what an image took, the curve in all its forms, and one line for what the user got wrong."""

import csv
import json
from pathlib import Path

import pytest
import torch

from spikevit import create_model, load_model, save_model
from spikevit.adaptive import add_early_exit, add_halting
from spikevit.checkpoint import OWN, read_about
from spikevit.data import load_data, normalise
from spikevit.profiling.calibrate import calibrate
from spikevit.report.curve import curve
from spikevit.training.evaluate import evaluate
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build

SMALL = ["model.config.embed_dim=16", "model.config.num_heads=2", "model.config.depth=1", "model.time_steps=3"]
TIMES = "wall_ms"  # measured, so never the same


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "180")
    monkeypatch.delenv("SPIKEVIT_TRACEBACK", raising=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """As the trainer saves one: untrained, but its neurons fire and its logits are far apart."""
    recipe = load_recipe("digits", SMALL)
    model, data = build(recipe)
    calibrate(model, normalise(data.train.images[:64], data.info))
    torch.nn.init.normal_(model.head.weight, std=4)
    path = tmp_path_factory.mktemp("run") / "plain.safetensors"
    save_model(model, path, data=data.info.to_dict() | {"source": vars(recipe.data)})
    return path


@pytest.fixture(scope="module")
def early(plain) -> Path:
    """The same with early exit at a threshold that some images reach."""
    path = plain.with_name("early.safetensors")
    save_model(add_early_exit(load_model(plain), 0.6), path, data=read_about(plain)["data"])
    return path


def digits(path: Path):
    data = load_data("digits", image_size=16)
    return data, evaluate(load_model(path), data.test, data.info)


def without_times(rows):
    return [{key: value for key, value in row.items() if key != TIMES} for row in rows]


def test_what_an_image_took(cli, plain, early):
    _, score = digits(plain)
    right = f"{score.accuracy:.2%}: {score.right} of 360 test images of digits right"
    assert cli("eval", plain)[1].startswith(f"{right}, 3 of 3 time steps\n")
    _, score = digits(early)
    assert 1 < score.work < 3
    right = f"{score.accuracy:.2%}: {score.right} of 360 test images of digits right"
    assert cli("eval", early)[1].startswith(f"{right}, {round(score.work, 2)} of 3 time steps\n")
    _, out, _ = cli("eval", early, "--json")
    answer = {"accuracy": score.accuracy, "right": score.right, "total": 360, "split": "test"}
    assert json.loads(out).items() >= (answer | {"work": score.work, "work_unit": "time steps"}).items()


def test_curve(cli, early):
    status, out, err = cli("eval", early, "--curve", "c.csv", "--plot", "c.svg", "--count-images", 3)
    assert (status, err) == (0, "")
    data, score = digits(early)
    wanted = curve(load_model(early), data.test, data.info, count_images=3)
    rows = list(csv.DictReader(Path("c.csv").read_text().splitlines()))
    assert without_times(rows) == without_times(csv.DictReader(wanted.to_csv().splitlines()))
    lines = out.splitlines()
    assert lines[0].startswith(f"{score.accuracy:.2%}: {score.right} of 360 test images of digits right, ")
    table = [line.split() for line in lines if line.count("%") == 1 and "right" not in line]
    assert [row[-8] for row in table] == [f"{p.setting:g}" for p in wanted.points]
    assert [row[-7] for row in table] == [f"{p.score.accuracy:.2%}" for p in wanted.points]
    assert "first 3 images" in out and out.endswith("Curve: c.csv\nPicture: c.svg\n")
    assert Path("c.svg").read_text().startswith("<?xml")


def test_curve_of_a_plain_model(cli, plain):
    status, out, err = cli("eval", plain, "--curve", "c.csv", "--split", "val", "--count-images", 1)
    assert (status, err) == (0, "")
    rows = list(csv.DictReader(Path("c.csv").read_text().splitlines()))
    assert [(row["knob"], row["setting"], row["chosen"]) for row in rows] == [
        ("time_steps", str(t), str(t == 3)) for t in (1, 2, 3)
    ]
    assert f"{float(rows[2]['accuracy']):.2%}: {rows[2]['right']} of {rows[2]['total']} val images" in out
    assert out.endswith("Curve: c.csv\n")


def test_plot_alone_and_json(cli, plain):
    status, out, err = cli("eval", plain, "--plot", "c.png", "--json", "--count-images", 1)
    assert (status, err) == (0, "")
    answer = json.loads(out)
    points = answer["curve"]["points"]
    assert [p["setting"] for p in points] == [1, 2, 3] and answer["curve"]["images"] == 1
    assert points[2]["accuracy"] == answer["accuracy"] and points[2]["work"] == answer["work"] == 3
    assert Path("c.png").read_bytes().startswith(b"\x89PNG") and [p.name for p in Path().iterdir()] == ["c.png"]


def test_halting_maps(cli, plain):
    """As many cells at each token as it visited, in words of the model's own maximum."""
    model = add_halting(load_model(plain), beta=5.0)
    save_model(model, "h.safetensors", **{k: v for k, v in read_about(plain).items() if k not in OWN})
    status, out, err = cli("eval", "h.safetensors", "--maps", "maps.svg")
    _, score = digits("h.safetensors")
    assert (status, err) == (0, "") and f", {round(score.work, 2):g} of {model.cells} cells a token\n" in out
    assert out.endswith("Halting maps: maps.svg\n") and "cells visited" in Path("maps.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--maps", "m.png"], "--maps m.png: tokens of spikformer_tiny do not halt"),
        (["--maps", "m.jpg"], "m.jpg: a plot is written as .svg or .png"),
        (["--curve", "c.txt"], "c.txt: a curve is written as .csv; give it such an ending"),
        (["--plot", "c.pdf"], "c.pdf: a plot is written as .svg or .png; give it such an ending"),
        (["--curve", "there.csv"], "there.csv exists already and is not overwritten; name another with --curve"),
        (["--plot", "there.svg"], "there.svg exists already and is not overwritten; name another with --plot"),
        (["--curve", "c.csv", "--count-images", 0], "--count-images 0 must be at least 1"),
        (["--curve", "c.csv", "--batch-size", 0], "--batch-size 0 must be at least 1"),
        (["--curve", "c.csv", "--split", "tset"], "argument --split: invalid choice: 'tset'"),
    ],
)
def test_refuses(refused, plain, words, message):
    for name in ("there.csv", "there.svg"):
        Path(name).write_text("kept")
    assert message in refused("eval", plain, *words)
    assert {p.name: p.read_text() for p in Path().iterdir()} == {"there.csv": "kept", "there.svg": "kept"}


# --- fewer time steps -------------------------------------------------------------------------------------------------


def test_fewer_time_steps(cli, plain):
    """As the model at that setting; of all steps, as without the option."""
    data = load_data("digits", image_size=16)
    for steps in (1, 2, 3):
        status, out, _ = cli("eval", plain, "--time-steps", steps, "--json")
        answer, score = json.loads(out), evaluate(load_model(plain).at(steps), data.test, data.info)
        assert status == 0 and (answer["right"], answer["total"]) == (score.right, score.total)
        assert (answer["time_steps"], answer["trained_time_steps"], answer["work"]) == (steps, 3, steps)
    whole = json.loads(cli("eval", plain, "--json")[1])
    assert whole == {key: answer[key] for key in whole} and "time_steps" not in whole
    out = cli("eval", plain, "--time-steps", 2)[1]
    assert "2 of 2 time steps" in out and "Run with 2 time steps; it was trained with 3." in out


def test_time_steps_that_are_not_there(refused, plain, early, tmp_path):
    for steps in (0, -1, 4):
        assert f"--time-steps: time_steps={steps} must be a whole number from 1 to 3" in refused(
            "eval", plain, "--time-steps", steps
        )
    assert "--time-steps 2: computation of spikformer_tiny with early_exit is set by its threshold" in refused(
        "eval", early, "--time-steps", 2
    )
    about = read_about(plain)["data"]
    save_model(create_model("ge2mst_tiny", in_channels=1, image_size=16), tmp_path / "values.safetensors", data=about)
    assert "--time-steps 2: ge2mst_tiny has no time axis" in refused(
        "eval", tmp_path / "values.safetensors", "--time-steps", 2
    )


def test_a_network_without_a_head(refused, cli, tmp_path):
    """It has no classes to be right about; what it costs can be said."""
    path = tmp_path / "features.safetensors"
    save_model(create_model("spikformer_tiny", num_classes=0, in_channels=1, image_size=16), path)
    for words in (["eval", path], ["eval", path, "--data", "digits"], ["predict", path, "x.png", "--data", "digits"]):
        assert "features.safetensors has no head (num_classes=0) and names no classes" in refused(*words)
    assert cli("profile", path, "--data", "digits", "--images", 1)[0] == 0
