"""A run that goes on to more epochs than its recipe had: what follows, what is removed, what is refused."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from spikevit.cli.main import main
from spikevit.files import sha256
from spikevit.report.run_files import read_run
from spikevit.training import resume, run
from spikevit.training.module import Classifier
from spikevit.training.recipe import load_recipe
from spikevit.training.rows import read_rows
from spikevit.training.run import train

CONSTANT = ["optimizer.lr=0.003", "schedule.min_lr=0.003"]  # no schedule: a longer run begins as a shorter one


def same(a, b) -> bool:
    ours, theirs = load_file(a / "last.safetensors"), load_file(b / "last.safetensors")
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def stop_at(monkeypatch, step: int) -> None:
    original = Classifier.training_step

    def stopping(self, *args):
        if self.global_step == step:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(Classifier, "training_step", stopping)


@pytest.mark.parametrize("changes", [[], ["regularisation.ema_decay=0.9"], ["time_steps.target=1.5"]])
def test_without_a_schedule_it_is_the_longer_run(tmp_path, brief, shades, changes):
    """Bit for bit, of an ended run and of an interrupted one, and so are the table and the files that say which run."""
    data = shades()
    train(tmp_path / "whole", brief(*CONSTANT, *changes, "schedule.epochs=5"), data=data, progress=False)
    train(tmp_path / "parts", brief(*CONSTANT, *changes), data=data, progress=False)
    results = train(tmp_path / "parts", data=data, progress=False, epochs=5)
    assert same(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (
        [{k: v for k, v in row.items() if k in ("epoch", "step", "lr", "loss")} for row in read_rows(path)]
        for path in (tmp_path / "whole/metrics.csv", tmp_path / "parts/metrics.csv")
    )
    assert whole == parts and [row["epoch"] for row in parts] == [1, 2, 3, 4, 5]
    text = (tmp_path / "parts/recipe.yaml").read_text()
    assert load_recipe(tmp_path / "parts/recipe.yaml").schedule.epochs == 5
    state = torch.load(tmp_path / "parts/resume.ckpt", weights_only=True)
    assert json.loads(state["spikevit"])["recipe"] == text
    assert json.loads((tmp_path / "parts/results.json").read_text()) == results
    seconds = [row["seconds"] for row in read_rows(tmp_path / "parts/metrics.csv")]
    assert results["seconds"] > sum(seconds) - 0.1, "those of the first three epochs, too"


def test_the_learning_rate_is_that_of_the_new_schedule(tmp_path, brief, shades, capsys):
    """Half a cosine from 1 to 0: two of two epochs end at 0; from there (1 + cos(π · 2/4))/2 = 1/2, and down to 0."""
    seen = []
    original = Classifier.training_step

    def look(self, *args):
        seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return original(self, *args)

    schedule = ["optimizer.lr=0.003", "schedule.min_lr=0", "schedule.epochs=2"]
    train(tmp_path / "run", brief(*schedule), data=shades(), progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", look)
        train(tmp_path / "run", data=shades(), epochs=4)
    steps = [0.003 * (1 + math.cos(math.pi * (2 + k / 3) / 4)) / 2 for k in range(6)]
    assert seen == pytest.approx(steps, rel=1e-9)
    said = " ".join(capsys.readouterr().out.split())
    assert "schedule.epochs=4, was 2: the run goes on with epoch 3" in said
    assert "a schedule of 4 epochs, 0.0015 (the one before: 0)" in said


def test_nothing_of_the_shorter_run_stays(tmp_path, brief, shades, monkeypatch):
    """Interrupted in its first new epoch, it has no results, and goes on as the longer run."""
    data, directory = shades(), tmp_path / "run"
    recipe = brief(*CONSTANT, "early_exit.tolerance=0.5")
    train(directory, recipe, data=data, progress=False)
    (directory / "report.html").write_text("of three epochs")
    stop_at(monkeypatch, 10)
    with pytest.raises(run.Interrupted):
        train(directory, data=data, progress=False, epochs=5)
    monkeypatch.undo()
    left = {path.name for path in directory.iterdir()}
    assert not left & {"results.json", "final.safetensors", "report.html"}
    assert {"best.safetensors", "last.safetensors", "metrics.csv"} <= left
    assert read_run(directory).results is None
    train(directory, data=data, progress=False)
    train(
        tmp_path / "whole", brief(*CONSTANT, "early_exit.tolerance=0.5", "schedule.epochs=5"), data=data, progress=False
    )
    assert same(tmp_path / "whole", directory) and (directory / "final.safetensors").exists()


def test_a_kill_between_the_two_files_is_mended_by_the_same_words(tmp_path, brief, shades, monkeypatch):
    data, directory = shades(), tmp_path / "run"
    train(directory, brief(*CONSTANT), data=data, progress=False)
    old = (directory / "resume.ckpt").read_bytes()
    stop_at(monkeypatch, 9)
    with pytest.raises(run.Interrupted):
        train(directory, data=data, progress=False, epochs=5)
    monkeypatch.undo()
    (directory / "resume.ckpt").write_bytes(old)
    with pytest.raises(ValueError, match="schedule.epochs was 3, is 5"):
        train(directory, data=data, progress=False)
    assert train(directory, data=data, progress=False, epochs=5)["total"] == 8
    assert read_rows(directory / "metrics.csv")[-1]["epoch"] == 5


@pytest.mark.parametrize("epochs", [2, 0, -1, 2.5, "many"])
def test_too_few_epochs(tmp_path, brief, shades, epochs):
    directory = tmp_path / "run"
    train(directory, brief(), data=shades(), progress=False)
    before = {path.name: sha256(path) for path in directory.iterdir() if path.is_file()}
    right = "at least 3: so many epochs of this run have ended" if epochs == 2 else "a whole number"
    with pytest.raises(ValueError, match=rf"schedule\.epochs={epochs!r} must be {right}"):
        train(directory, data=shades(), progress=False, epochs=epochs)
    assert {path.name: sha256(path) for path in directory.iterdir() if path.is_file()} == before


def test_as_many_as_there_are_ends_it_there(tmp_path, brief, shades, monkeypatch):
    """An interrupted run that is called enough: tested, and a whole run from then on."""
    data = shades()
    stop_at(monkeypatch, 7)
    with pytest.raises(run.Interrupted):
        train(tmp_path / "run", brief(*CONSTANT), data=data, progress=False)
    monkeypatch.undo()
    assert train(tmp_path / "run", data=data, progress=False, epochs=2)["best_epoch"] <= 2
    train(tmp_path / "two", brief(*CONSTANT, "schedule.epochs=2"), data=data, progress=False)
    assert same(tmp_path / "run", tmp_path / "two")


def test_other_data_are_refused_before_anything_is_written(tmp_path, brief, shades):
    directory = tmp_path / "run"
    train(directory, brief(), data=shades(), progress=False)
    before = {path.name: sha256(path) for path in directory.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="is of other data: digest of train"):
        train(directory, data=shades(seed=7), progress=False, epochs=5)
    with pytest.raises(ValueError, match="epochs=5 must be left out of a new run"):
        train(tmp_path / "new", brief(), data=shades(), progress=False, epochs=5)
    assert {path.name: sha256(path) for path in directory.iterdir() if path.is_file()} == before


def test_a_directory_of_which_no_epoch_has_ended(tmp_path, brief, shades):
    run.new_run(brief(), tmp_path / "run")
    train(tmp_path / "run", data=shades(), progress=False, epochs=1)
    assert load_recipe(tmp_path / "run/recipe.yaml").schedule.epochs == 1
    assert len(read_rows(tmp_path / "run/metrics.csv")) == 1


# --- the words of the command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "epochs"),
    [(["schedule.epochs=40"], 40), ([], None)],
)
def test_words(tmp_path, monkeypatch, words, epochs):
    asked = {}
    (tmp_path / "recipe.yaml").write_text("")
    monkeypatch.setattr(run, "train", lambda *args, **more: asked.update(more) or {})
    (tmp_path / "recipe.yaml").touch()  # what the directory of a run has
    assert main(["train", "--resume", str(tmp_path), *words, "--quiet"]) == 0
    assert asked["epochs"] == epochs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer.lr=0.1"],
            "without another recipe or changes: optimizer.lr=0.1. Only a single run may go on longer, with schedule",
        ),
        (["schedule.epochs=9", "optimizer.lr=0.1"], "model.start=RUN/last.safetensors"),
        (["digits"], "without another recipe or changes: digits."),
        (["--out", "other"], "--resume goes on in the directory of the run: without --out other"),
        (["schedule.epochs=many"], "schedule.epochs='many' must be a whole number of at least 1"),
        (["schedule.epochs=0"], "schedule.epochs=0 must be a whole number of at least 1"),
    ],
)
def test_wrong_words(capsys, words, message):
    assert main(["train", "--resume", "RUN", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_what_it_removes_is_what_a_run_has_at_its_end():
    assert set(resume.ENDED) - {"report.html"} <= set(run.FILES)
