"""Images a second, seconds an epoch, and the time that is left: by a clock that the test turns."""

import csv
import io
import warnings
from types import SimpleNamespace

import pytest
from rich.console import Console

from spikevit.cli.train import show
from spikevit.profiling.health import at_chance
from spikevit.training import pace as paces
from spikevit.training.callbacks import Progress
from spikevit.training.pace import Pace, duration
from spikevit.training.rows import append_rows, read_rows
from spikevit.training.run import train


def made(steps=10, validated=3, images=64, epochs=5) -> Pace:
    pace = Pace()
    pace.steps, pace.validated, pace.images, pace.epochs = steps, validated, images, epochs
    return pace


def test_an_estimate_from_the_second_step_on():
    """The first takes 30 s, as it compiles, and those behind it 2 s: an epoch is 10 × 2 s, validation 3 × 2/3 s."""
    pace = made()
    pace.begin(100.0)
    pace.step(130.0)
    assert not pace.settled
    pace.step(132.0)
    assert pace.settled and pace.images_per_second == 32
    assert pace.an_epoch == pytest.approx(22)
    assert pace.left == pytest.approx(5 * 22 - 2 * 2)
    pace.step(138.0)
    assert pace.images_per_second == 64 / 4, "the mean of 2 s and 6 s"


def test_an_epoch_shows_how_long_an_epoch_is():
    pace = made()
    pace.begin(0.0)
    for i in range(10):
        pace.step(1.0 + i)
    pace.trained(16.0)
    assert pace.rate == 640 / 16
    pace.end(25.0)
    assert (pace.an_epoch, pace.left, pace.epochs) == (25, 100, 4)
    pace.begin(25.0)
    pace.step(27.0)
    assert pace.left == pytest.approx(100 - 1), "of a new epoch's first step only that it is done counts"


def test_quick_steps_are_watched_for_two_seconds():
    pace = made(steps=1000)
    pace.begin(0.0)
    for i in range(21):
        pace.step(1.0 + i * 0.09)
    assert not pace.settled
    pace.step(3.1)
    assert pace.settled


def test_in_words():
    pace = made()
    pace.begin(0)
    pace.step(5)
    pace.step(7)
    assert str(pace) == "22 s an epoch, 32 images/s, about 1.8 min left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.351, "0.35 s"),
        (4.21, "4.2 s"),
        (9.97, "10 s"),
        (61, "61 s"),
        (99.4, "99 s"),
        (100, "1.7 min"),
        (720, "12 min"),
        (5900, "98 min"),
        (3600 * 3.5, "3.5 h"),
        (3600 * 47, "47 h"),
        (86400 * 13.2, "13 days"),
        (86400 * 9.5, "9.5 days"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("device", "step", "warned"), [("cpu", 60, True), ("cuda", 60, False), ("cpu", 1, False)])
def test_a_run_of_days_on_a_cpu_is_warned_of_once(monkeypatch, device, step, warned):
    """100 epochs of 50 steps, validation nothing: 60 s a step are 3.5 days, 1 s a step 1.4 hours."""
    clock = iter(step * i for i in range(100))
    monkeypatch.setattr(paces.time, "monotonic", lambda: next(clock))
    trainer = SimpleNamespace(
        **{"strategy": SimpleNamespace(root_device=SimpleNamespace(type=device)), "num_training_batches": 50},
        **{"num_val_batches": [0], "world_size": 1, "max_epochs": 100, "current_epoch": 0, "is_global_zero": True},
    )
    module = SimpleNamespace(recipe=SimpleNamespace(data=SimpleNamespace(batch_size=24)))
    pace = Pace()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pace.on_train_epoch_start(trainer, module)
        for _ in range(5):
            pace.on_train_batch_end(trainer, module)
    words = [str(w.message) for w in seen]
    assert len(words) == warned
    if warned:
        assert words[0].startswith("about 3.5 days on this CPU: 100 epochs of 50 min at 0.4 images a second")


def test_lines_where_there_is_no_terminal(tmp_path, brief, shades, monkeypatch):
    """An estimate after the first steps, then a line an epoch, each there at once."""
    monkeypatch.setattr(paces, "SETTLED", 0.0)
    out = io.StringIO()
    monkeypatch.setattr("spikevit.training.run.Progress", lambda pace: Progress(pace, Console(file=out, width=60)))
    train(tmp_path / "run", brief(), data=shades())
    lines = out.getvalue().splitlines()
    assert len(lines) == 4 and "━" not in out.getvalue()
    assert "an epoch" in lines[0] and "images/s, about" in lines[0] and lines[0].endswith("left")
    for i, line in enumerate(lines[1:], 1):
        assert line.startswith(f"epoch {i:>3}  loss") and "validation" in line and line.endswith("left") == (i < 3)


def test_the_table_says_images_per_second(tmp_path, brief, shades):
    """48 images in three steps of 16: no fewer a second than in the whole epoch, whose seconds are beside it."""
    train(tmp_path / "run", brief(), data=shades(), progress=False)
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-1] == "images_per_second"
    assert all(float(row["images_per_second"]) >= 48 / (float(row["seconds"]) + 0.001) - 0.1 for row in rows)


def test_a_table_of_before_goes_on_without_the_column(tmp_path):
    path = tmp_path / "metrics.csv"
    old = {"epoch": 1, "step": 3, "lr": 0.1, "loss": 2.0, "val_loss": 2.5, "val_work": 4.0, "val_accuracy": 0.5}
    old |= {"seconds": 1.5}
    append_rows(path, [old])
    append_rows(path, [old | {"epoch": 2, "images_per_second": 300.0}])
    assert [row["epoch"] for row in read_rows(path)] == [1, 2]
    assert "images_per_second" not in path.read_text()
    append_rows(path, [old | {"epoch": 1, "images_per_second": 300.0}])
    assert [row["images_per_second"] for row in read_rows(path)] == [300.0], "a table that begins anew has it"


def test_silent_layers_are_said_at_every_epoch(tmp_path, brief, shades, monkeypatch, capsys):
    """With a time constant of 1,000 steps no membrane reaches its threshold in two."""
    out = io.StringIO()
    monkeypatch.setattr("spikevit.training.run.Progress", lambda pace: Progress(pace, Console(file=out, width=99)))
    results = train(tmp_path / "run", brief("model.config.neuron.tau=1000"), data=shades())
    lines = [line for line in out.getvalue().splitlines() if line.startswith("epoch")]
    layers = len({row["layer"] for row in csv.DictReader((tmp_path / "run/spikes.csv").open())})
    assert len(lines) == 3 and all(f"{layers} of {layers} layers silent" in line for line in lines)
    assert results["silence"].startswith(f"{layers} of {layers} layers of neurons are silent on these images")
    assert results["chance"] == 0.5 and at_chance(results["right"], results["total"], 0.5)
    show(results, str(tmp_path / "run"))
    said = " ".join(capsys.readouterr().out.split())
    assert "Accuracy is at chance: 4 of 8 images are right" in said and f"{layers} of {layers} layers" in said
