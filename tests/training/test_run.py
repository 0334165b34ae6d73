"""Runs: exact continuation, interruption, processes, bad losses, and what is left on disk."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from spikevit import load_model
from spikevit.checkpoint import read_about
from spikevit.data import load_data, normalise
from spikevit.training import callbacks, run
from spikevit.training.module import Classifier, InStep
from spikevit.training.recipe import load_recipe
from spikevit.training.run import Interrupted, NonFiniteLoss, new_run, train

SMALL = ["model.config.embed_dim=32", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=2"]
SHORT = [*SMALL, "data.batch_size=256", "schedule.epochs=4", "schedule.warmup_epochs=1"]


def rows(directory) -> list[dict]:
    with open(directory / "metrics.csv") as file:
        return [
            {k: float(v) for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in csv.DictReader(file)
        ]


def start(directory, *changes):
    return new_run(load_recipe("digits", [*SHORT, *changes]), directory)


@pytest.fixture
def steps(monkeypatch):
    """Losses of every step, in order; set `steps.stop_at` to interrupt there as Ctrl-C does."""

    class Steps(list):
        stop_at = None

    seen = Steps()
    original = Classifier.training_step

    def step(self, batch, batch_idx):
        if seen.stop_at is not None and self.global_step == seen.stop_at:
            raise KeyboardInterrupt
        loss = original(self, batch, batch_idx)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(Classifier, "training_step", step)
    return seen


@pytest.mark.parametrize("changes", [[], ["regularisation.ema_decay=0.9", "augmentation.mixup=0.4", "data.workers=1"]])
def test_resume_is_exact(tmp_path, steps, changes):
    train(start(tmp_path / "whole", *changes), progress=False)
    whole = list(steps)

    steps.clear()
    steps.stop_at = 13  # in the third epoch of five steps
    start(tmp_path / "broken", *changes)
    with pytest.raises(Interrupted, match="spikevit train --resume"):
        train(tmp_path / "broken", progress=False)
    assert steps == whole[:13]
    assert len(rows(tmp_path / "broken")) == 2

    steps.clear()
    steps.stop_at = None
    train(tmp_path / "broken", progress=False)
    assert steps == whole[10:], "it goes on with the third epoch, with the same losses"
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    ours, theirs = (load_model(tmp_path / name / "last.safetensors").state_dict() for name in ("broken", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("broken", "whole"))
    assert a["accuracy"] == b["accuracy"]


def test_average_is_what_is_saved(tmp_path):
    directory = start(tmp_path / "run", "regularisation.ema_decay=0.999")
    train(directory, progress=False)
    saved = load_model(directory / "last.safetensors").state_dict()
    state = torch.load(directory / "resume.ckpt", weights_only=True)["state_dict"]
    key = "head.weight"
    assert torch.equal(saved[key], state[f"average.module.{key}"])
    assert not torch.equal(saved[key], state[f"model.{key}"])


def test_results_are_reproduced_by_another_process(tmp_path):
    directory = start(tmp_path / "run")
    results = train(directory, progress=False)
    command = [sys.executable, "-m", "spikevit.cli.main", "eval", str(directory / "best.safetensors"), "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert answer["right"] == results["right"] and answer["accuracy"] == results["accuracy"]


def test_nan_loss_stops(tmp_path, monkeypatch):
    directory = start(tmp_path / "run", "schedule.epochs=3")
    original = Classifier.training_step

    def step(self, batch, batch_idx):
        if self.global_step == 7:
            torch.nn.init.constant_(self.model.head.bias, math.nan)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(
        NonFiniteLoss, match=r"loss is nan at epoch 1, step 7; .* last\.safetensors|last good checkpoint"
    ) as error:
        train(directory, progress=False)
    assert "step 7" in str(error.value) and "last.safetensors" in str(error.value)
    assert all(t.isfinite().all() for t in load_model(directory / "last.safetensors").state_dict().values())


def test_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    directory = start(tmp_path / "run", "schedule.epochs=3")
    saved = callbacks.save_model

    def full(model, path, **about):
        if about["epoch"] == 2:
            monkeypatch.setattr(
                "safetensors.torch.save_file",
                lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")),
            )
        return saved(model, path, **about)

    monkeypatch.setattr(callbacks, "save_model", full)
    with pytest.raises(
        OSError, match=r"could not save .*last\.safetensors \(the file that was there is untouched\).*No space left"
    ):
        train(directory, progress=False)
    monkeypatch.undo()
    load_model(directory / "last.safetensors")
    assert not list(directory.glob(".*tmp"))
    assert rows(train_again(directory))[-1]["epoch"] == 3


def train_again(directory):
    train(directory, progress=False)
    return directory


def test_directory_is_not_overwritten(tmp_path):
    directory = start(tmp_path / "run")
    (directory / "last.safetensors").write_text("of an epoch")
    with pytest.raises(ValueError, match="not empty; take another directory, or go on with"):
        start(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no recipe\.yaml"):
        train(tmp_path)


def test_data_decides_the_shape(tmp_path):
    with pytest.raises(ValueError, match=r"model\.config sets \['num_classes'\]"):
        run.build(load_recipe("digits", ["model.config.num_classes=7"]))


def test_ctrl_c_from_outside(tmp_path):
    """The real thing: a process, a signal, and the rest of the run in another process."""
    directory = tmp_path / "run"
    command = [sys.executable, "-m", "spikevit.cli.main", "train"]
    changes = [*SHORT, "schedule.epochs=8"]
    process = subprocess.Popen(
        [*command, "digits", *changes, "--out", str(directory)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (directory / "resume.ckpt").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with: spikevit train --resume" in stderr

    assert len(rows(directory)) < 8
    subprocess.run([*command, "--resume", str(directory), "--quiet", "--no-report"], check=True, timeout=120)
    assert [row["epoch"] for row in rows(directory)] == list(range(1, 9))


def test_two_processes_equal_one(tmp_path):
    """Two half-batches side by side, or one after the other: the same losses and weights.

    The 144 validation images are one batch, so that one of the processes has none of them.
    """
    changes = [
        *SMALL,
        "data.batch_size=200",
        "schedule.epochs=2",
        "schedule.warmup_epochs=1",
        "trainer.precision=64-true",
    ]
    changes += ["trainer.accelerator=cpu", "augmentation.crop_padding=2", "regularisation.ema_decay=0.9"]
    command = [sys.executable, "-m", "spikevit.cli.main", "train", "digits", *changes, "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, extra in (("one", ["trainer.accumulate=2"]), ("two", ["trainer.devices=2", "trainer.strategy=ddp"])):
        done = subprocess.run(
            [*command, *extra, "--out", str(tmp_path / name)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == 2
    for a, b in zip(one, two, strict=True):
        assert a["step"] == b["step"] and a["lr"] == b["lr"]
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-9)
    data, model = load_data("digits", image_size=16), load_model(tmp_path / "two/last.safetensors")
    images, labels = data.val.images, data.val.labels
    with torch.no_grad():
        logits = model(normalise(images, data.info).double())
    assert two[-1]["val_accuracy"] == int((logits.argmax(-1) == labels).sum()) / 144
    assert two[-1]["val_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    states = (torch.load(tmp_path / n / "resume.ckpt", weights_only=True)["state_dict"] for n in ("one", "two"))
    ours, theirs = ({k: v for k, v in s.items() if k.startswith("model.")} for s in states)
    parameters = {name for name, _ in load_model(tmp_path / "one" / "last.safetensors").named_parameters()}
    for name in parameters:
        torch.testing.assert_close(ours[f"model.{name}"], theirs[f"model.{name}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n", "batch", "world"), [(159, 64, 2), (10, 64, 2), (159, 20, 3), (64, 64, 1), (5, 2, 4)])
def test_processes_validate_in_step(n, batch, world):
    """As many batches for each process; of those that count, every image exactly once."""
    ranks = [InStep(n, batch, seed=0, shuffle=False, drop_last=False, rank=r, world_size=world) for r in range(world)]
    found = [list(rank) for rank in ranks]
    whole = -(-n // batch)
    assert {len(batches) for batches in found} == {len(rank) for rank in ranks} == {-(-whole // world)}
    counted = [i for r, batches in enumerate(found) for k, b in enumerate(batches) for i in b if k * world + r < whole]
    assert sorted(counted) == list(range(n))
    assert all(batches and all(batches) for batches in found), "none is empty"


@torch.no_grad()
def test_what_only_keeps_a_process_in_step_counts_for_nothing(brief, shades):
    """The second of two processes: of batches 0, 1, 2 of 4, 4 and 2 images it has the second, and then stands by."""
    data, recipe = shades(val=10), brief("data.batch_size=4")
    model, _ = run.build(recipe, data)
    module = Classifier(recipe, model.eval(), data)
    module._trainer = type("One", (), {"global_rank": 1, "world_size": 2})()
    module.on_validation_epoch_start()
    for i, batch in enumerate(module.val_dataloader()):
        module.validation_step(batch, i)
    logits = model(normalise(data.val.images[4:8], data.info))
    right = int((logits.argmax(-1) == data.val.labels[4:8]).sum())
    assert i == 1 and module.sums[1:].tolist() == [right, 2 * 4, 4]


def test_best_is_by_accuracy_then_loss(tmp_path, monkeypatch):
    """Of epochs that are equally accurate, the one that is surer; of a resumed run too."""
    figures = iter([(0.5, 2.0), (0.9, 1.0), (0.9, 0.5), (0.9, 0.7), (0.8, 0.1)])
    original = callbacks.epoch_row

    def row(*args):
        accuracy, loss = next(figures)
        return original(*args) | {"val_accuracy": accuracy, "val_loss": loss}

    monkeypatch.setattr(callbacks, "epoch_row", row)
    train(start(tmp_path / "run", "schedule.epochs=5"), progress=False)
    assert read_about(tmp_path / "run" / "best.safetensors")["epoch"] == 3
    assert read_about(tmp_path / "run" / "last.safetensors")["epoch"] == 5
