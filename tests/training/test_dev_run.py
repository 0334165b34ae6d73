"""trainer.fast_dev_run: a few batches, nothing written; what it says of the rest by arithmetic."""

import pytest

from spikevit.cli.main import main
from spikevit.cli.train import duration
from spikevit.training import dev_run
from spikevit.training.module import Classifier
from spikevit.training.run import NonFiniteLoss, train


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize(("value", "batches"), [("true", 1), ("2", 2), ("50", 3)])
def test_so_many_batches_and_nothing_written(here, brief, shades, monkeypatch, value, batches):
    """48 images in batches of 16 are three; of 12 images for validation there is one."""
    steps = []
    original = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", lambda self, *a: (steps.append(1), original(self, *a))[1])
    found = train(here / "run", brief(f"trainer.fast_dev_run={value}"), data=shades(), progress=False)
    assert found["batches"] == len(steps) == batches and not list(here.iterdir())
    assert 0 < found["loss"] < 10 and 0 < found["val_loss"] < 10
    assert found["seconds"] == pytest.approx(3 * found["epoch_seconds"]) and found["memory"] > 2**20


def test_a_directory_in_use_is_refused(here, brief, shades):
    train(here / "run", brief("schedule.epochs=1"), data=shades(), progress=False)
    with pytest.raises(ValueError, match="run is not empty"):
        train(here / "run", brief("trainer.fast_dev_run=true", "optimizer.lr=1"), data=shades(), progress=False)


def test_what_an_epoch_would_take(here, brief, shades, monkeypatch):
    """By a clock of ours: batches of training take 2 s, the first 100 s; those of validation 0.5 s."""
    clock = {"now": 0.0}
    monkeypatch.setattr(dev_run.time, "monotonic", lambda: clock["now"])

    def takes(kind, first, later):
        original, calls = getattr(Classifier, kind), []

        def step(self, *args):
            clock["now"] += later if calls else first
            calls.append(1)
            return original(self, *args)

        monkeypatch.setattr(Classifier, kind, step)

    takes("training_step", 100, 2)
    takes("validation_step", 0.5, 0.5)
    data = shades(train=16 * 10, val=16 * 4)
    found = train(here / "run", brief("trainer.fast_dev_run=3"), data=data, progress=False)
    assert found["epoch_seconds"] == pytest.approx(10 * 2 + 4 * 0.5)
    assert found["seconds"] == pytest.approx(3 * 22)


def test_what_does_not_work_is_said(here, brief, shades, monkeypatch):
    with pytest.raises(ValueError, match="data.batch_size=49 must be at most 48"):
        train(here / "run", brief("trainer.fast_dev_run=true", "data.batch_size=49"), data=shades(), progress=False)
    with pytest.raises(NonFiniteLoss):
        train(here / "run", brief("trainer.fast_dev_run=true", "optimizer.lr=1e30"), data=shades(), progress=False)
    assert not list(here.iterdir())


@pytest.mark.parametrize("value", ["0", "-1", "maybe", "1.5"])
def test_wrong_values(brief, value):
    with pytest.raises(
        ValueError, match="trainer.fast_dev_run=.* must be true or false or a whole number of at least 1"
    ):
        brief(f"trainer.fast_dev_run={value}")


def test_the_verb_says_it(here, capsys):
    words = ["model.config.embed_dim=32", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=2"]
    assert main(["train", "digits", *words, "trainer.fast_dev_run=2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The recipe works: 2 batches trained (loss" in said and "all 30 about" in said
    assert said.endswith("Nothing was written.") and not list(here.iterdir())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 s"),
        (59, "59 s"),
        (119, "119 s"),
        (480, "8 min"),
        (7199, "120 min"),
        (18_720, "5.2 h"),
        (267_840, "3.1 days"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
