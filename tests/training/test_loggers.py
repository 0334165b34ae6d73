"""TensorBoard and Weights & Biases: they get what the tables of the run have; both may be missing."""

import sys
import types

import pytest

from spikevit.training import loggers
from spikevit.training.rows import read_rows
from spikevit.training.run import train


def scalars(directory) -> dict[str, list[float]]:
    """What TensorBoard reads in a run, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    found = {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    texts = [name for name in events.Tags()["tensors"] if name.startswith("recipe")]
    return found | {"texts": [events.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in texts]}


def test_tensorboard_has_what_the_tables_have(tmp_path, brief, shades):
    recipe = brief("schedule.epochs=2")
    train(tmp_path / "run", recipe, data=shades(), progress=False)
    found = scalars(tmp_path / "run")
    rows = read_rows(tmp_path / "run/metrics.csv")
    for name, logged in {"loss": "loss_epoch"}.items() | {
        (n, n) for n in rows[0] if n not in ("epoch", "step", "loss")
    }:
        assert found[logged] == pytest.approx([row[name] for row in rows], rel=1e-5), name
    rates = read_rows(tmp_path / "run/spikes.csv")
    for layer in {row["layer"] for row in rates}:
        means = []
        for epoch in (1, 2):
            of = [row["rate"] for row in rates if (row["layer"], row["epoch"]) == (layer, epoch)]
            means.append(sum(of) / len(of))
        assert found[f"firing_rate/{layer}"] == pytest.approx(means, rel=1e-4)
    [text] = found["texts"]
    lines = [line.strip() for line in text.splitlines()]
    assert "optimizer:" in lines and "lr: 0.003" in lines


def test_the_recipe_is_hyperparameters(tmp_path, brief, shades):
    import yaml

    train(tmp_path / "run", brief("schedule.epochs=1"), data=shades(), progress=False)
    known = yaml.safe_load((tmp_path / "run/tensorboard/hparams.yaml").read_text())
    assert (known["optimizer.lr"], known["model.config.depth"], known["trainer.seed"]) == (0.003, 1, 0)


def test_without_tensorboard(tmp_path, brief, shades, monkeypatch, capsys):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    assert train(tmp_path / "run", brief("schedule.epochs=1"), data=shades())["total"] == 8
    assert capsys.readouterr().out.count("tensorboard is not installed: metrics.csv and spikes.csv alone") == 1
    assert len(read_rows(tmp_path / "run/metrics.csv")) == 1 and not (tmp_path / "run/tensorboard").exists()
    train(tmp_path / "quiet", brief("schedule.epochs=1"), data=shades(), progress=False)
    assert capsys.readouterr().out == ""


# --- Weights & Biases ------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb(monkeypatch):
    """A module in its place, as far as Lightning's logger asks for it; what reaches it."""
    got: dict = {"init": [], "config": {}, "metrics": {}}

    class Run:
        config = types.SimpleNamespace(update=lambda params, **_: got["config"].update(params))
        name, id, project_name = "run", "1", lambda self: "mine"

        def log(self, metrics, **_):
            for name, value in metrics.items():
                got["metrics"].setdefault(name, []).append(value)

    module = types.ModuleType("wandb")
    module.run = None
    module.init = lambda **options: (got["init"].append(options), Run())[1]
    for name, attributes in {"wandb.sdk.lib": ["RunDisabled"], "wandb.wandb_run": ["Run"], "wandb.sdk": []}.items():
        part = types.ModuleType(name)
        for attribute in attributes:
            setattr(part, attribute, Run)
        monkeypatch.setitem(sys.modules, name, part)
    Run.define_metric = lambda *_, **__: None
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return got


def test_wandb_gets_recipe_and_figures(tmp_path, brief, shades, wandb):
    train(tmp_path / "run", brief("schedule.epochs=2", "trainer.wandb=mine"), data=shades(), progress=False)
    [init] = wandb["init"]
    assert (init["project"], init["name"], init["dir"]) == ("mine", "run", str(tmp_path / "run"))
    assert wandb["config"]["optimizer.lr"] == 0.003
    rows = read_rows(tmp_path / "run/metrics.csv")
    for name in ("lr", "val_accuracy", "val_loss", "val_work"):
        assert wandb["metrics"][name] == pytest.approx([row[name] for row in rows])
    assert [name for name in wandb["metrics"] if name.startswith("firing_rate/")]


def test_only_where_it_is_asked_for(tmp_path, brief, shades, wandb):
    train(tmp_path / "run", brief("schedule.epochs=1"), data=shades(), progress=False)
    assert not wandb["init"]


def test_without_wandb(tmp_path, brief, shades, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"wandb cannot be imported \(.*\): pip install wandb"):
        train(tmp_path / "run", brief("trainer.wandb=mine"), data=shades(), progress=False)
    assert not (tmp_path / "run").exists()
