"""NaN and infinity end a run with an error, before they are saved; what is called the last good checkpoint is one."""

import csv
import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from spikevit.training import callbacks, run
from spikevit.training.module import Classifier, NonFiniteLoss
from spikevit.training.resume import read_resume, tensors_of
from spikevit.training.rows import read_rows
from spikevit.training.run import train


def steps_of(monkeypatch, change):
    """Calls change(module) behind every step of the optimiser."""
    original = Classifier.on_train_batch_end

    def behind(self, *args):
        original(self, *args)
        change(self)

    monkeypatch.setattr(Classifier, "on_train_batch_end", behind)


def weight(module):
    module.model.blocks[0].mlp.fc1.linear.weight.data[3, 5] = math.nan


def statistic(module):
    module.model.blocks[0].mlp.fc1.bn.running_var[2] = math.inf


def optimiser(module):
    next(iter(module.trainer.optimizers[0].state.values()))["exp_avg_sq"].flatten()[0] = math.inf


@pytest.mark.parametrize(
    ("poison", "named"),
    [
        (weight, r"after epoch 2: 1 of \d+ tensors .*blocks\.0\.mlp\.fc1\.linear\.weight"),
        (statistic, r"after epoch 2: 1 of \d+ tensors .*blocks\.0\.mlp\.fc1\.bn\.running_var"),
        (optimiser, r"after epoch 2: 1 of \d+ tensors .*: optimizer 0\.state\.0\.exp_avg_sq"),
    ],
)
def test_an_epoch_that_left_nan_is_not_saved(tmp_path, brief, shades, monkeypatch, poison, named):
    """Put there behind its last step, so that no loss and no gradient shows it; what was saved before is the whole."""
    train(tmp_path / "whole", brief(), data=shades(), progress=False)
    steps_of(monkeypatch, lambda module: poison(module) if module.global_step == 6 else None)
    with pytest.raises(NonFiniteLoss, match=named + r".*; the last good checkpoint is .*last\.safetensors"):
        train(tmp_path / "run", brief(), data=shades(), progress=False)
    for name in ("last", "best"):
        tensors = load_file(tmp_path / "run" / f"{name}.safetensors")
        assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point()), name
    assert [row["epoch"] for row in read_rows(tmp_path / "run" / "metrics.csv")] == [1]
    monkeypatch.undo()
    train(tmp_path / "run", data=shades(), progress=False)
    ours, whole = (load_file(tmp_path / name / "last.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_a_gradient_that_is_not_finite_moves_nothing(tmp_path, brief, shades, monkeypatch):
    seen = []

    def poison(module):
        if module.global_step == 4:
            seen.append(({n: p.detach().clone() for n, p in module.model.named_parameters()}, module.model))
            module.model.head.weight.register_hook(lambda grad: grad * math.inf)

    steps_of(monkeypatch, poison)
    with pytest.raises(
        NonFiniteLoss, match=r"the norm of the gradients is (nan|inf) at epoch 1, step 4; the last good"
    ):
        train(tmp_path / "run", brief(), data=shades(), progress=False)
    before, model = seen[0]
    assert all(torch.equal(p.cpu(), before[name].cpu()) for name, p in model.named_parameters())


def test_a_learning_rate_beyond_all_bounds(tmp_path, brief, shades):
    """Spikes bound the loss: weights of 10^8 do not show in it."""
    with pytest.raises(NonFiniteLoss, match=r"gradients is nan|not finite") as error:
        train(tmp_path / "run", brief("optimizer.lr=1e8"), data=shades(), progress=False)
    saved = [load_file(path) for path in (tmp_path / "run").glob("*.safetensors")]
    assert all(t.isfinite().all() for tensors in saved for t in tensors.values() if t.is_floating_point())
    assert ("last good checkpoint" if saved else "there is no checkpoint") in str(error.value)


def test_a_scaler_leaves_overflowing_steps_out(tmp_path, brief, shades, monkeypatch):
    """16-mixed: a step whose gradients overflow moves no weight and stops no run."""
    make, weights = run.pl.Trainer, []

    def trainer(*, precision, plugins, **options):
        scaler = torch.amp.GradScaler("cpu")
        return make(plugins=[*plugins, run.pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)], **options)

    def look(module):
        head = module.model.head.weight
        weights.append(head.detach().clone())
        if len(weights) == 4:  # the gradient of the next step
            handle = head.register_hook(lambda grad: (handle.remove(), grad * math.inf)[1])

    monkeypatch.setattr(run.pl, "Trainer", trainer)
    steps_of(monkeypatch, look)
    train(tmp_path / "run", brief(), data=shades(), progress=False)
    moved = [not torch.equal(a, b) for a, b in pairwise(weights)]
    assert moved == [True, True, True, False, True, True, True, True]


def test_a_scale_that_only_falls_ends_the_run(tmp_path, brief, shades, monkeypatch):
    """Where each step overflows no weight moves any more: 2^16 falls below the bound, 2^−24, in 41 steps."""
    make = run.pl.Trainer

    def trainer(*, precision, plugins, **options):
        scaler = torch.amp.GradScaler("cpu", init_scale=callbacks.SCALE * 2)
        return make(plugins=[*plugins, run.pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)], **options)

    def poison(module):
        if module.global_step == 1:
            module.model.head.weight.register_hook(lambda grad: grad * math.inf)

    monkeypatch.setattr(run.pl, "Trainer", trainer)
    steps_of(monkeypatch, poison)
    with pytest.raises(NonFiniteLoss, match=r"after epoch 1 the scale of the loss is .*overflow at every step"):
        train(tmp_path / "run", brief(), data=shades(), progress=False)


def test_figures_that_are_not_finite_are_not_written(tmp_path, brief, shades, monkeypatch):
    original = callbacks.epoch_row
    monkeypatch.setattr(callbacks, "epoch_row", lambda *args: original(*args) | {"val_loss": math.nan})
    with pytest.raises(NonFiniteLoss, match="after epoch 1 val_loss is nan"):
        train(tmp_path / "run", brief(), data=shades(), progress=False)
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_resume_ckpt_is_finite_all_through(tmp_path, brief, shades):
    train(tmp_path / "run", brief("schedule.epochs=1"), data=shades(), progress=False)
    path = tmp_path / "run" / "resume.ckpt"
    state = read_resume(path)
    tensors = tensors_of(state)
    assert len(tensors) == len(state["state_dict"]) + 3 * len(
        state["optimizer_states"][0]["state"]
    )  # step and averages
    state["optimizer_states"][0]["state"][0]["exp_avg"][0] = math.nan
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"resume\.ckpt is damaged.*optimizer_states\.0\.state\.0\.exp_avg"):
        train(tmp_path / "run", data=shades(), progress=False)


def test_tables_keep_whole_numbers_whole(tmp_path, brief, shades):
    train(tmp_path / "run", brief(), data=shades(), progress=False)
    for name in ("metrics.csv", "spikes.csv"):
        with open(tmp_path / "run" / name, encoding="utf-8", newline="") as file:
            assert {row["epoch"] for row in csv.DictReader(file)} == {"1", "2", "3"}
