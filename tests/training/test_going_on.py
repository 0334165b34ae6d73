"""Which run goes on, from what, and who may: recipe, data, a damaged file, a lock, and what a kill leaves behind."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from spikevit import load_model
from spikevit.checkpoint import read_about
from spikevit.files import locked, sha256
from spikevit.training import resume, run
from spikevit.training.module import Classifier
from spikevit.training.recipe import load_recipe
from spikevit.training.run import is_helper, new_run, train


@pytest.fixture
def interrupted(tmp_path, brief, shades, monkeypatch):
    """A run of three epochs that was broken off in the second, and its data."""

    class Stop(Exception):
        pass

    def step(self, *args):
        if self.global_step == 4:
            raise Stop
        return original(self, *args)

    original, data = Classifier.training_step, shades()
    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(Stop):
        train(tmp_path / "run", brief(), data=data, progress=False)
    monkeypatch.undo()
    assert (tmp_path / "run/resume.ckpt").exists() and not (tmp_path / "run/results.json").exists()
    return tmp_path / "run", data


# --- the same recipe, the same data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "was", "now"),
    [
        ("optimizer.lr", 0.003, 0.001),
        ("trainer.seed", 0, 1),
        ("schedule.epochs", 3, 4),
        ("data.batch_size", 16, 8),
        ("model.time_steps", 2, 3),
        ("model.config.neuron.tau", None, 3.0),
        ("augmentation.crop_padding", 2, 0),
        ("trainer.precision", "32-true", "64-true"),
    ],
)
def test_an_edited_recipe_is_refused(interrupted, field, was, now):
    directory, data = interrupted
    recipe = directory / "recipe.yaml"
    recipe.write_text(load_recipe(recipe, [f"{field}={now}"]).to_yaml())
    before = sha256(directory / "resume.ckpt")
    with pytest.raises(
        ValueError, match=rf"{field} was {was!r}, is {now!r}\. Put it back .*model\.start=.*last\.safet"
    ):
        train(directory, data=data, progress=False)
    assert sha256(directory / "resume.ckpt") == before


def test_what_computes_the_same_may_change(interrupted):
    directory, data = interrupted
    changes = ["data.workers=1", "trainer.accelerator=cpu", "model.backend=plain"]
    (directory / "recipe.yaml").write_text(load_recipe(directory / "recipe.yaml", changes).to_yaml())
    assert train(directory, data=data, progress=False)["total"] == 8


def test_other_data_are_refused(interrupted, shades):
    directory, data = interrupted
    for name, other in {
        "data.classes": shades(classes=("light", "dark")),
        "data.mean": replace(data, info=replace(data.info, mean=(0.5,))),
    }.items():
        with pytest.raises(ValueError, match=f"is of other data: {name} was .*, is "):
            train(directory, data=other, progress=False)
    with pytest.raises(ValueError, match=r"given its data in Python .*train\(directory, data=…\)"):
        train(directory, progress=False)
    assert train(directory, data=data, progress=False)["best_epoch"]


def test_other_images_are_refused(tmp_path, brief, shades):
    """By digest, part for part: one pixel of one validation image."""
    train(tmp_path / "run", brief(), data=shades(), progress=False)
    files = read_about(tmp_path / "run/best.safetensors")["data"]["files"]
    assert sorted(files) == ["test", "train", "val"] and len(files["val"]) == 64
    other = shades()
    other.val.images[3, 0, 2, 2] += 1
    with pytest.raises(
        ValueError, match=f"other data: digest of val was '{files['val'][:12]}', is '[0-9a-f]{{12}}'\\."
    ):
        train(tmp_path / "run", data=other, progress=False)


def test_one_image_more_in_a_folder(tmp_path, brief):
    """Its parts are those of its files: --resume does not train on what was for validation."""
    from PIL import Image

    for label in ("dark", "light"):
        for i in range(40):
            path = tmp_path / "images" / label / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 3 * i + 120 * (label == "light")).save(path)
    changes = [f"data.root={tmp_path}/images", "data.name=folder", "data.image_size=16", "data.channels=1"]
    changes += ["data.val_fraction=0.3", "schedule.epochs=1"]
    train(tmp_path / "run", brief(*changes), progress=False)
    train(tmp_path / "run", progress=False)
    state = torch.load(tmp_path / "run/resume.ckpt", weights_only=True)
    for i in range(9):
        Image.new("L", (16, 16), i).save(tmp_path / "images/dark" / f"more{i}.png")
    with pytest.raises(ValueError, match=r"resume\.ckpt is of other data: digest of train was"):
        train(tmp_path / "run", progress=False)
    del state["spikevit"]
    torch.save(state, tmp_path / "run/resume.ckpt")
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match="is older than parts by file name: which images of"),
    ):
        train(tmp_path / "run", progress=False)


def test_data_that_were_given_are_nowhere_called_the_recipes(tmp_path, brief, shades):
    train(tmp_path / "run", brief(), data=shades(), progress=False)
    about = read_about(tmp_path / "run/best.safetensors")
    assert about["data"]["source"] is None and about["data"]["name"] == "shades"
    text = (tmp_path / "run/recipe.yaml").read_text()
    assert "digits" not in text and load_recipe(tmp_path / "run/recipe.yaml").data_given and about["recipe"] == text
    with pytest.raises(ValueError):
        run.test(tmp_path / "run/best.safetensors")
    with pytest.raises(ValueError, match="was given its data in Python"):
        train(tmp_path / "another", load_recipe(tmp_path / "run/recipe.yaml"), progress=False)
    train(tmp_path / "own", brief("data.batch_size=256", "schedule.epochs=1"), progress=False)
    with pytest.raises(ValueError, match="data_given was None, is True"):
        train(tmp_path / "own", data=shades(), progress=False)


# --- resume.ckpt -----------------------------------------------------------------------------------------------------


def test_a_file_without_its_origin_goes_on_with_a_warning(interrupted):
    """As versions before wrote it."""
    directory, data = interrupted
    state = torch.load(directory / "resume.ckpt", weights_only=True)
    assert json.loads(state.pop("spikevit"))["model"]["family"] == "Spikformer"
    torch.save(state, directory / "resume.ckpt")
    with pytest.warns(UserWarning, match=r"resume\.ckpt does not say of which recipe and data it is"):
        train(directory, data=data, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(directory, data=data, progress=False)


def test_it_goes_on_without_the_checkpoint_it_started_from(tmp_path, brief, shades, monkeypatch):
    """The model is what resume.ckpt says, weights included."""
    data = shades()
    train(tmp_path / "first", brief("schedule.epochs=1"), data=data, progress=False)
    recipe = brief(f"model.start={tmp_path}/first/last.safetensors")
    train(tmp_path / "whole", recipe, data=data, progress=False)

    def stop(self, *args):
        raise KeyboardInterrupt

    original = run.RunFiles.on_train_epoch_end
    monkeypatch.setattr(run.RunFiles, "on_train_epoch_end", lambda self, *args: (original(self, *args), stop(self))[0])
    with pytest.raises(run.Interrupted):
        train(tmp_path / "parts", recipe, data=data, progress=False)
    monkeypatch.undo()
    (tmp_path / "first/last.safetensors").unlink()
    train(tmp_path / "parts", data=data, progress=False)
    ours, whole = (load_file(tmp_path / name / "last.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_every_damage_is_noticed(interrupted):
    """One bit in each of 40 places, the end cut off, nothing at all, another file."""
    directory, data = interrupted
    path = directory / "resume.ckpt"
    whole = path.read_bytes()
    for i in range(40):
        place = len(whole) * i // 40 + 17
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            state = resume.read_resume(path)
        except ValueError as error:
            assert "resume.ckpt" in str(error)
        else:  # between the parts of the archive, where nothing is said
            expected = torch.load(path, weights_only=True)
            assert repr(state) == repr(expected)
            path.write_bytes(whole)
            assert repr(resume.read_resume(path)) == repr(expected)
    for bad in (whole[: len(whole) // 2], b"", b"no zip"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"resume\.ckpt is truncated, or not a resume\.ckpt"):
            train(directory, data=data, progress=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [state],
        lambda state: {key: value for key, value in state.items() if key != "loops"},
        lambda state: state | {"epoch": "one"},
        lambda state: state | {"optimizer_states": []},
        lambda state: state | {"optimizer_states": [{}]},
        lambda state: state | {"loops": {}},
        lambda state: state | {"lr_schedulers": [3]},
        lambda state: state | {"state_dict": {}},
        lambda state: state | {"state_dict": {k: v[..., :1] if v.dim() else v for k, v in state["state_dict"].items()}},
        lambda state: state | {"callbacks": {key: 7 for key in state["callbacks"]}},
        lambda state: state | {"spikevit": "{"},
        lambda state: state | {"spikevit": 3},
        lambda state: state | {"spikevit": json.dumps({"recipe": "", "data": {}, "model": {}})},
        lambda state: state | {"spikevit": state["spikevit"].replace('"Spikformer"', '"Other"')},
        lambda state: state | {"spikevit": state["spikevit"].replace('"embed_dim": 32', '"embed_dim": -1')},
    ],
)
def test_contents_of_another_kind(interrupted, change):
    """An archive that is whole, with something else in it: the error names the file."""
    directory, data = interrupted
    path = directory / "resume.ckpt"
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(ValueError, match=r"resume\.ckpt is damaged, or no resume\.ckpt of this version"):
        train(directory, data=data, progress=False)


def test_no_copy_is_left_elsewhere(tmp_path, brief, shades, monkeypatch):
    """Lightning's own way writes a copy into the system's temporary folder first."""
    import tempfile

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    opened = []
    original = tempfile.mkstemp
    monkeypatch.setattr(tempfile, "mkstemp", lambda *args, **more: (opened.append(args), original(*args, **more))[1])
    train(tmp_path / "run", brief("schedule.epochs=1"), data=shades(), progress=False)
    assert not opened and not list((tmp_path / "temporary").iterdir())


# --- the directory ---------------------------------------------------------------------------------------------------


def test_a_directory_without_an_epoch_is_free_and_goes_on(tmp_path, brief, shades):
    for name in ("again", "on"):
        directory = new_run(brief(), tmp_path / name)
        (directory / "tensorboard").mkdir()
        for left in (".recipe.yaml.1.tmp", f".resume.ckpt.{os.getpid()}.tmp", ".best.safetensors.4000000.tmp", ".lock"):
            (directory / left).write_text("half")
        (directory / "metrics.csv").write_text("")
        (directory / "metrics.csv").unlink()
    train(tmp_path / "again", brief("trainer.seed=5", "data.batch_size=256"), progress=False)
    train(tmp_path / "on", data=shades(), progress=False)
    assert "seed: 5" in (tmp_path / "again/recipe.yaml").read_text()
    assert load_recipe(tmp_path / "on/recipe.yaml").data_given
    for directory in (tmp_path / "again", tmp_path / "on"):
        assert not list(directory.glob(".*.tmp")) and (directory / "results.json").exists()


@pytest.mark.parametrize("name", ["resume.ckpt", "last.safetensors", "results.json", "notes.txt", ".mine.1.tmp"])
def test_a_directory_with_anything_else_is_not(tmp_path, brief, name):
    directory = new_run(brief(), tmp_path / "run")
    (directory / name).write_text("")
    with pytest.raises(ValueError, match="not empty; take another directory, or go on with"):
        train(directory, brief(), progress=False)


def test_a_recipe_that_was_written_by_hand_is_kept(tmp_path, brief):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("# mine\nmodel: {name: spikformer_tiny}\n")
    with pytest.raises(ValueError, match="not empty"):
        train(tmp_path, load_recipe(recipe), progress=False)
    assert recipe.read_text().startswith("# mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "data.batch_size=49",
            r"data\.batch_size=49 must be at most 48: there are 48 training images, and a step takes",
        ),
        ("trainer.precision=17", "trainer.precision"),
        ("trainer.precision=many", "unknown trainer.precision 'many'; known: .*32-true"),
        ("trainer.accelerator=abacus", "unknown trainer.accelerator 'abacus'; known: auto, cpu, cuda"),
        ("trainer.strategy=dpp", "unknown trainer.strategy 'dpp'; did you mean ddp"),
        ("optimizer.betas=[0.9, 1]", "optimizer.betas"),
        ("trainer.seed=-1", "trainer.seed"),
        ("data.workers=-1", "data.workers"),
        ("model.backend=fast", "backend"),
        ("augmentation.random_resized_crop=[0.5, 1]", "random_resized_crop"),
        ("model.config.depth=600", "depth"),
        ("model.config.embed_dim=65536", r"has [\d,]+ weights; at most 1,073,741,824 are trained"),
    ],
)
def test_what_can_be_checked_is_checked_before_the_directory_is_made(tmp_path, brief, shades, change, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", brief(change), data=shades(), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_batch_for_each_process(tmp_path, brief, shades):
    message = r"data\.batch_size=32 must be at most 24: .* a batch for each of 2 processes"
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", brief("trainer.devices=2", "data.batch_size=32"), data=shades(), progress=False)
    assert not (tmp_path / "run").exists()


def test_no_validation_images(tmp_path, brief, shades):
    with pytest.raises(ValueError, match="no images in its 'val' split"):
        train(tmp_path / "run", brief(), data=shades(val=0), progress=False)
    assert not (tmp_path / "run").exists()


SECOND = """
import sys
from spikevit.training.run import train
from spikevit.training.recipe import load_recipe
try:
    train(sys.argv[1], load_recipe(sys.argv[2]) if sys.argv[2:] else None, progress=False)
except ValueError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_second_process_is_refused(tmp_path, brief, shades, monkeypatch):
    """A real one, in the midst of training: to go on with it, and to start into its directory."""
    answers = []

    def ask(module):
        if module.global_step == 3:  # after the first epoch
            new_run(brief(), tmp_path / "other")
            for words in ([], [str(tmp_path / "other/recipe.yaml")]):
                done = subprocess.run(
                    [sys.executable, "-c", SECOND, str(tmp_path / "run"), *words], capture_output=True, text=True
                )
                answers.append(done.stderr.strip().splitlines()[-1])

    original = Classifier.on_train_epoch_start
    monkeypatch.setattr(Classifier, "on_train_epoch_start", lambda self: (original(self), ask(self))[0])
    train(tmp_path / "run", brief(), data=shades(), progress=False)
    assert answers[0] == f"refused: another process is working in {tmp_path}/run: wait until it ends, or stop it"
    assert answers[1].startswith(f"refused: {tmp_path}/run is not empty")
    with locked(tmp_path / "run"):
        pass  # free again


def test_two_that_begin_at_once(tmp_path, brief, shades):
    """One has made the directory and holds it, the other one comes."""
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="another process is working in"):
        train(tmp_path / "run", brief(), data=shades(), progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock"]


@pytest.mark.parametrize(
    ("environment", "helper"),
    [
        ({}, False),
        ({"SLURM_PROCID": "0", "RANK": "0", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "1"}, True),
        ({"RANK": "1", "LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, True),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, True),
        ({"GROUP_RANK": "1"}, True),
    ],
)
def test_who_writes(monkeypatch, brief, environment, helper):
    for name in ("SLURM_PROCID", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_helper(brief("trainer.devices=2")) == helper
    assert is_helper(brief("trainer.nodes=2")) == helper
    assert not is_helper(brief()), "a run of one process, whichever of a job's it is"


# --- its results -----------------------------------------------------------------------------------------------------


def test_results_name_the_file_that_was_tested(tmp_path, brief, shades):
    for name, changes in (("best", []), ("final", ["early_exit.tolerance=0.5"])):
        directory = tmp_path / name
        results = train(directory, brief(*changes), data=shades(), progress=False)
        file = f"{name}.safetensors"
        assert results["checkpoint"] == {"file": file, "sha256": sha256(directory / file)}
        assert json.loads((directory / "results.json").read_text()) == results


def test_the_test_runs_where_the_training_ran(tmp_path, brief, shades, monkeypatch):
    """There is no second device here: the first one's own name for it is followed through both passes."""
    place, moved = torch.device("cpu", 0), []
    original = run.load_model

    def load(path):
        model = original(path)
        to = model.to
        model.to = lambda where: (moved.append(where), to(where))[1]
        return model

    monkeypatch.setattr(run, "load_model", load)
    monkeypatch.setattr(run.pl.strategies.SingleDeviceStrategy, "root_device", property(lambda self: place))
    train(tmp_path / "run", brief("early_exit.tolerance=0.5"), data=shades(), progress=False)
    assert moved == [place, place]  # for the threshold, and for the test


def test_accuracy_without_test_images_says_what_it_is(tmp_path, brief, shades, capsys):
    from spikevit.cli.train import show

    for test in (8, 0):
        results = train(tmp_path / f"run{test}", brief(), data=shades(test=test), progress=False)
        show(results, str(tmp_path / f"run{test}"))
        said = "best epoch, threshold and this accuracy come from the same validation images" in " ".join(
            capsys.readouterr().out.split()
        )
        assert said == (test == 0)
    assert load_model(tmp_path / "run0/best.safetensors").name == "spikformer_tiny"
