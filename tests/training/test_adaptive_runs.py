"""Runs with methods of adaptive computation: what they train towards, what they leave behind, and going on."""

import csv
import json

import pytest
import torch

from spikevit import load_model, save_model
from spikevit.adaptive import DynamicTimeSteps, EarlyExit, Halting, exit_steps
from spikevit.checkpoint import read_about
from spikevit.data import load_data, normalise
from spikevit.training import callbacks
from spikevit.training.evaluate import evaluate, logits_per_step
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build, train

SMALL = ["model.config.embed_dim=32", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=3"]
SHORT = [*SMALL, "data.batch_size=128", "schedule.epochs=3", "schedule.warmup_epochs=1"]


def rows(directory) -> list[dict]:
    with open(directory / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_dynamic_time_steps(tmp_path):
    changes = ["time_steps.target=2.0", "time_steps.weight=30", "time_steps.lr=0.05"]
    results = train(tmp_path / "run", load_recipe("digits_dynamic", [*SHORT, *changes]), progress=False)
    best, final = (load_model(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "final"))
    assert isinstance(best, DynamicTimeSteps) and not best.frozen and final.frozen
    assert best.table() == final.table() and best.mean_steps <= 2.0, "the best epoch is one that met the target"
    data = load_data("digits")
    score = evaluate(final, data.split("test"), data.info)
    assert (results["accuracy"], results["work"]) == (score.accuracy, score.work) == (score.accuracy, best.mean_steps)
    assert (
        results["work_unit"] == "time steps, mean over layers"
        and json.loads((tmp_path / "run/results.json").read_text()) == results
    )
    assert float(rows(tmp_path / "run")[-1]["val_work"]) <= 2.0
    about = read_about(tmp_path / "run/final.safetensors")
    assert about["data"]["name"] == "digits" and "frozen" in dict(about["methods"])["time_steps"]


def test_best_has_met_the_target(tmp_path, monkeypatch):
    """Epochs that have not come down to the target are chosen from only as long as none has."""
    met = iter([False, False, True, True])
    accuracies = iter([0.9, 0.95, 0.5, 0.4])
    original = callbacks.epoch_row
    monkeypatch.setattr(callbacks, "epoch_row", lambda *args: original(*args) | {"val_accuracy": next(accuracies)})
    monkeypatch.setattr(DynamicTimeSteps, "meets_target", property(lambda self: next(met)))
    changes = ["schedule.epochs=4", "time_steps.target=2.0"]
    results = train(tmp_path / "run", load_recipe("digits_dynamic", [*SHORT, *changes]), progress=False)
    assert results["best_epoch"] == 3


def test_halting(tmp_path):
    results = train(tmp_path / "run", load_recipe("digits_stas", [*SHORT, "halting.beta=12"]), progress=False)
    model = load_model(tmp_path / "run/best.safetensors")
    assert isinstance(model, Halting) and model.halting.beta == 12 and results["work_unit"] == "cells a token"
    assert not (tmp_path / "run/final.safetensors").exists(), "nothing is left to fix"
    assert 1 <= results["work"] <= 3 and 1 <= float(rows(tmp_path / "run")[-1]["val_work"]) <= 3


def test_both(tmp_path):
    recipe = load_recipe(
        "digits_stas", [*SHORT, "schedule.epochs=1", "schedule.warmup_epochs=0", "time_steps.target=2"]
    )
    train(tmp_path / "run", recipe, progress=False)
    final = load_model(tmp_path / "run/final.safetensors")
    assert isinstance(final, Halting) and isinstance(final.model, DynamicTimeSteps) and final.model.frozen


def test_early_exit(tmp_path):
    """The threshold keeps the accuracy of all steps on the validation images."""
    results = train(tmp_path / "run", load_recipe("digits_exit", SHORT), progress=False)
    final = load_model(tmp_path / "run/final.safetensors")
    assert isinstance(final, EarlyExit) and results["work"] <= 3
    data = load_data("digits")
    logits, labels = logits_per_step(final.model, data.split("val"), data.info)
    x = normalise(data.split("val").images, data.info)
    torch.testing.assert_close(logits, final.model(x, per_step=True))
    taken, early = exit_steps(logits, final.threshold)
    assert (early.argmax(-1) == labels).sum() >= (logits.mean(0).argmax(-1) == labels).sum()
    torch.testing.assert_close(final.run(x)[1], taken)


def test_resume_is_exact(tmp_path):
    """Scores are part of what goes on, and so is the best epoch, with its target."""
    changes = ["time_steps.target=1.5", "time_steps.weight=30", "time_steps.lr=0.05", "schedule.epochs=4"]
    recipe = load_recipe("digits_dynamic", [*SHORT, *changes])
    train(tmp_path / "whole", recipe, progress=False)

    class Stop(Exception):
        pass

    def stop(self, *args):
        if self.current_epoch == 2:
            raise Stop
        return original(self, *args)

    from spikevit.training.module import Classifier

    original = Classifier.training_step
    Classifier.training_step = stop
    try:
        with pytest.raises(Stop):
            train(tmp_path / "parts", recipe, progress=False)
    finally:
        Classifier.training_step = original
    train(tmp_path / "parts", progress=False)
    for name in ("last", "best", "final"):
        a, b = (load_model(tmp_path / run / f"{name}.safetensors") for run in ("whole", "parts"))
        assert all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items()) and a.table() == b.table()


def test_start_from_an_ann(tmp_path):
    relu = [
        *SHORT,
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
        "model.time_steps=1",
        "model.config.neuron.kind=relu",
    ]
    train(tmp_path / "ann", load_recipe("digits", relu), progress=False)
    ann = tmp_path / "ann/last.safetensors"
    model, _ = build(load_recipe("digits_dynamic", [*SHORT, f"model.ann={ann}"]))
    assert [name for name, _ in model.methods] == ["thresholds", "time_steps"]
    for name, tensor in load_model(ann).state_dict().items():
        assert torch.equal(model.base.state_dict()[name], tensor)
    save_model(model.base, tmp_path / "started.safetensors")
    again, _ = build(load_recipe("digits_dynamic", [*SHORT, f"model.start={tmp_path}/started.safetensors"]))
    assert dict(again.methods)["thresholds"] == dict(model.methods)["thresholds"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["early_exit.tolerance=0.1", "halting.beta=5"], "early_exit does not combine with halting"),
        (["early_exit.tolerance=2"], "early_exit.tolerance=2 must be a number of at least 0 and below 1"),
        (["early_exit.measure=sure"], "unknown early_exit.measure 'sure'"),
        (["halting.bta=5"], "unknown key 'halting.bta'; did you mean halting.beta"),
        (["time_steps.lr=0"], "time_steps.lr=0 must be a number above 0"),
        (["halting.front=two"], "unknown front 'two'"),
        (["time_steps.targt=2"], "unknown key 'time_steps.targt'; did you mean time_steps.target"),
        (["model.start=a", "model.ann=b"], "model.start and model.ann are two checkpoints"),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("digits", changes)


def test_bad_combinations():
    for changes, message in (
        (["time_steps.target=9"], "target=9.0 must be .* at most max_steps=4"),
        (["model.name=sdt_tiny", "halting.beta=5"], "halting is for encoders of"),
        (["model.name=ge2mst_tiny", "time_steps.target=2"], "ge2mst_tiny has no common axis of time steps"),
        (["model.name=ge2mst_tiny", "early_exit.tolerance=0"], "early exit needs a model with time steps; ge2mst_tiny"),
    ):
        with pytest.raises(ValueError, match=message):
            build(load_recipe("digits", changes))
