"""`spikevit plan`: the table, the files, and one line for what the user got wrong."""

import json
from pathlib import Path

import pytest
import torch

from spikevit import load_model, save_model
from spikevit.checkpoint import read_about
from spikevit.conversion.planner import plan
from spikevit.data import load_data, normalise
from spikevit.neurons import Staircase
from spikevit.profiling.calibrate import calibrate
from spikevit.training.evaluate import evaluate
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build

SMALL = ["model.config.widths=[8,16,32]", "model.config.depths=[1,1,1]", "data.val_fraction=0.8"]
LIMITS = ["--max-steps", 4, "--max-shift", 3, "--max-error", 0.15]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "180")
    monkeypatch.delenv("SPIKEVIT_TRACEBACK", raising=False)


@pytest.fixture
def checkpoint() -> Path:
    """As the trainer saves one, with batch norm set by images but untrained."""
    recipe = load_recipe("ge2mst_digits", SMALL)
    model, data = build(recipe)
    calibrate(model, normalise(data.train.images[:64], data.info))
    save_model(model, "m.safetensors", data=data.info.to_dict() | {"source": vars(recipe.data)}, recipe="kept")
    return Path("m.safetensors")


def test_plan(cli, checkpoint):
    status, out, err = cli("plan", checkpoint, *LIMITS, "--out", "p.safetensors", "--plot", "front.svg")
    assert (status, err) == (0, "")
    before, after = load_model(checkpoint), load_model("p.safetensors")
    for name, m in after.named_modules():
        if isinstance(m, Staircase):
            (row,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
            assert f"4, 1 → {m.code.steps}, {m.code.groups}" in row and f"15 → {m.code.levels}" in row
            assert m.code.time_steps <= 4 and m.code.steps <= 3
    assert torch.equal(before.stem.conv.weight, after.stem.conv.weight)
    data = load_data("digits", val_fraction=0.8)
    one, other = (evaluate(model, data.test, data.info).accuracy for model in (before, after))
    assert f"Accuracy on 360 test images: {one:.2%} before, {other:.2%} after, without fine-tuning." in out
    assert out.endswith("Planned model: p.safetensors\nFront: front.svg\n")
    assert Path("front.svg").read_text().startswith("<?xml")
    about = read_about("p.safetensors")
    assert about["recipe"] == "kept" and about["data"] == read_about(checkpoint)["data"]


def test_json_and_that_training_images_are_looked_at(cli, checkpoint):
    """All of them here, so that their order does not matter."""
    data = load_data("digits", val_fraction=0.8)
    x = normalise(data.train.images, data.info)
    status, out, err = cli("plan", checkpoint, *LIMITS, "--images", 5000, "--json")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    model = load_model(checkpoint)
    wanted = plan(model, x, max_steps=4, max_shift=3, max_error=0.15).check(model, x).to_dict()
    assert answer["images"] == len(x) == wanted["images"]
    assert answer["layers"] == wanted["layers"] and answer["front"] == wanted["front"]
    assert answer["limits"] == {"max_steps": 4, "max_shift": 3, "max_error": 0.15, "objective": "spikes"}
    assert answer["accuracy"].keys() == {"before", "after", "split", "images"}
    assert not list(Path().glob("*.svg")) and len(list(Path().iterdir())) == 1


def test_some_images_are_the_same_every_time(cli, checkpoint):
    one, same, other = (json.loads(cli("plan", checkpoint, "--images", n, "--json")[1]) for n in (20, 20, 30))
    assert one == same and one["images"] == 20 and other["images"] == 30
    assert one["before"] != other["before"]
    data = load_data("digits", val_fraction=0.8)
    first = plan(load_model(checkpoint), normalise(data.train.images[:20], data.info)).to_dict()
    assert one["before"]["spikes"] != first["before"]["spikes"], "of all of them, not the first: folders are sorted"


def test_an_objective(cli, checkpoint):
    words = ["plan", checkpoint, "--max-steps", 6, "--images", 64, "--json", "--objective"]
    error, steps = (json.loads(cli(*words, name)[1])["after"] for name in ("error", "steps"))
    assert error["error"] < steps["error"] and steps["T"] < error["T"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-steps", 0], "max_steps=0 must be a whole number of at least 1"),
        (["--max-steps", 2, "--max-error", 0.01], "no codes within max_steps=2 and max_shift=8 satisfy it; the least"),
        (["--objective", "spike"], "unknown objective 'spike'; did you mean spikes?"),
        (["--images", 0], "--images 0 must be at least 1"),
        (["--plot", "front.pdf"], "front.pdf: a plot is written as .svg or .png"),
        (["--out", "m.safetensors"], "m.safetensors exists already and is not overwritten; name another with --out"),
        (["--data", "digts"], "unknown data set 'digts'; did you mean digits?"),
    ],
)
def test_plan_refuses(refused, checkpoint, words, message):
    was = checkpoint.read_bytes()
    assert message in refused("plan", checkpoint, *words)
    assert checkpoint.read_bytes() == was and len(list(Path().iterdir())) == 1


def test_plan_refuses_a_checkpoint(refused, checkpoint):
    assert "there is no checkpoint none.safetensors" in refused("plan", "none.safetensors")
    save_model(load_model(checkpoint), "nodata.safetensors")
    assert "does not say what data it was trained on: name a data set" in refused("plan", "nodata.safetensors")
    model, data = build(load_recipe("digits", ["model.config.embed_dim=16", "model.config.num_heads=2"]))
    save_model(model, "lif.safetensors", data=data.info.to_dict() | {"source": {"name": "digits"}})
    assert "Spikformer has no staircase neurons: there is nothing to plan" in refused("plan", "lif.safetensors")
