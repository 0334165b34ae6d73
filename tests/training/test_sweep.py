"""Sweeps: which runs, refused or failed in part, gone on with, compared."""

import json

import pytest
import yaml

from spikevit.cli.main import main
from spikevit.training import sweep
from spikevit.training.module import Classifier
from spikevit.training.recipe import load_recipe
from spikevit.training.sweep import combinations, values

TINY = ["model.config.embed_dim=16", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=1"]
TINY += ["data.batch_size=256", "schedule.epochs=1", "schedule.warmup_epochs=0", "data.limit=256"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1e-3,5e-3", ["1e-3", "5e-3"]),
        ("0.1", ["0.1"]),
        ("[0.9, 0.95]", ["[0.9, 0.95]"]),
        ("[0.9, 0.95],[0.8,0.9]", ["[0.9, 0.95]", "[0.8,0.9]"]),
        ("{a: 1, b: [2, 3]},{}", ["{a: 1, b: [2, 3]}", "{}"]),
        ("'a,b'", ["'a,b'"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("1,", ["1", ""]),
        ("", [""]),
    ],
)
def test_values(text, found):
    assert values(text) == found


def test_combinations():
    runs = combinations(["optimizer.lr=1e-3,5e-3", "optimizer.betas=[0.8, 0.9]", "trainer.seed=0,1"])
    assert list(runs) == [f"optimizer.lr={lr},trainer.seed={seed}" for lr in (0.001, 0.005) for seed in (0, 1)]
    assert runs["optimizer.lr=0.005,trainer.seed=0"] == [
        *("optimizer.lr=5e-3", "optimizer.betas=[0.8, 0.9]", "trainer.seed=0")
    ]
    assert combinations(["optimizer.lr=1e-3"]) == {"": ["optimizer.lr=1e-3"]}
    assert next(iter(combinations(["model.start=a/b.safetensors,c.safetensors"]))) == "model.start=a_b.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lr=1e-3,-1", r"optimizer\.lr=-1: optimizer\.lr=-1 must be a number above 0"),
        ("optimizer.lr=1e-3,", r"optimizer\.lr: there is an empty value between commas"),
        ("optimizer.lr=1e-3,0.001", r"optimizer\.lr=0\.001: a value comes twice"),
        ("optimizer.lrr=1,2", r"optimizer\.lrr=1: unknown key 'optimizer\.lrr'; did you mean optimizer\.lr"),
        ("model.config.num_heads=2,3", r"model\.config\.num_heads=3: .*3"),
        ("data.batch_size=16,300", r"data\.batch_size=300: data\.batch_size=300 must be at most 256"),
        ("trainer.fast_dev_run=1,2", "trainer.fast_dev_run=1 tries one recipe"),
        ("trainer.devices=1,2", "a sweep is of recipes for one process"),
    ],
)
def test_a_bad_value_is_refused_before_the_first_run(tmp_path, capsys, change, message):
    import re

    assert main(["train", "digits", *TINY, change, "--out", str(tmp_path / "sweep"), "--quiet"]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "sweep").exists()


def test_a_sweep(tmp_path, capsys, monkeypatch):
    """Four runs of which one fails; it is named, the others are there, and --resume tries that one alone again."""
    directory, trained = tmp_path / "sweep", []
    original = sweep.train

    def train(path, **more):
        trained.append(path.name)
        if path.name.endswith("lr=0.01,trainer.seed=1") and not (tmp_path / "mended").exists():
            raise RuntimeError("out of memory")
        return original(path, **more)

    monkeypatch.setattr(sweep, "train", train)
    reports = []
    monkeypatch.setattr("spikevit.cli.report.attempt", lambda runs, out: reports.append((runs, out)))
    words = ["train", "digits", *TINY, "optimizer.lr=1e-3,1e-2", "trainer.seed=0,1", "--out", str(directory), "--quiet"]
    names = [f"optimizer.lr={lr},trainer.seed={seed}" for lr in (0.001, 0.01) for seed in (0, 1)]
    assert main(words) == 1
    assert trained == names and yaml.safe_load((directory / "sweep.yaml").read_text()) == names
    said = " ".join(capsys.readouterr().out.split())
    assert f"failed: {names[3]}: out of memory" in said and f"spikevit train --resume {directory}" in said
    for name in names[:3]:
        results = json.loads((directory / name / "results.json").read_text())
        assert f"{results['accuracy']:.2%} {results['total']} 1" in said
        recipe = load_recipe(directory / name / "recipe.yaml")
        assert f"optimizer.lr={recipe.optimizer.lr},trainer.seed={recipe.trainer.seed}" == name
    assert reports == [([directory / name for name in names[:3]], directory / "report.html")]

    (tmp_path / "mended").touch()
    trained.clear()
    assert main(["train", "--resume", str(directory), "--quiet"]) == 0
    assert trained == names[3:]
    assert reports[1] == ([directory / name for name in names], directory / "report.html")
    assert main(words) == 2
    assert f"{directory} is not empty; take another directory, or go on with" in capsys.readouterr().err
    assert main(["train", "--resume", str(directory), "schedule.epochs=3"]) == 2
    assert "Only a single run may go on longer" in capsys.readouterr().err


def test_an_interrupted_sweep_goes_on(tmp_path, capsys, monkeypatch):
    directory = tmp_path / "sweep"
    original = Classifier.training_step
    monkeypatch.setattr(
        Classifier,
        "training_step",
        lambda self, *args: (
            (_ for _ in ()).throw(KeyboardInterrupt) if self.recipe.trainer.seed else original(self, *args)
        ),
    )
    words = ["train", "digits", *TINY, "trainer.seed=0,1", "--out", str(directory), "--quiet", "--no-report"]
    assert main(words) == 130
    assert f"go on with: spikevit train --resume {directory}" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["train", "--resume", str(directory), "--quiet", "--no-report"]) == 0
    assert all((directory / f"trainer.seed={seed}/results.json").is_file() for seed in (0, 1))


def test_the_comparison_is_a_report(tmp_path):
    directory = tmp_path / "sweep"
    assert main(["train", "digits", *TINY, "trainer.seed=0,1", "--out", str(directory), "--quiet"]) == 0
    page = (directory / "report.html").read_text()
    assert "trainer.seed=0" in page and "trainer.seed=1" in page
