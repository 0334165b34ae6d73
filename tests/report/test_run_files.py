"""What a report reads of a run: files that belong together, whole, and of the model that is shown."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from spikevit import load_model, save_model
from spikevit.checkpoint import OWN, read_about
from spikevit.cli.main import main
from spikevit.conversion.certificate import load_certificate
from spikevit.data import load_data
from spikevit.report.html import write_report
from spikevit.report.run_files import read_run
from spikevit.training.evaluate import evaluate

sys.path.append(str(Path(__file__).parents[1] / "hostile"))

from files_of_runs import CERTIFICATE, make_run, quiet


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished and converted run; its results say what the checkpoint does."""
    where = tmp_path_factory.mktemp("runs") / "whole"
    where.mkdir()
    make_run(where)
    data = load_data("digits", image_size=(8, 8))
    score = evaluate(load_model(where / "best.safetensors"), data.test, data.info)
    results = json.loads((where / "results.json").read_text())
    results |= {"right": score.right, "accuracy": score.right / 360}
    (where / "results.json").write_text(json.dumps(results))
    return where


@pytest.fixture
def run(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def unconverted(run) -> Path:
    (run / CERTIFICATE).unlink()
    return run


def results(run: Path, **changes) -> dict:
    found = json.loads((run / "results.json").read_text()) | changes
    (run / "results.json").write_text(json.dumps(found))
    return found


def sha(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def other_weights(path: Path) -> None:
    """The same model, but that others of its answers are right, and not as many."""
    model, about, data = load_model(path), read_about(path), load_data("digits", image_size=(8, 8))
    was = right = evaluate(model, data.test, data.info).right
    while right == was:
        with torch.no_grad():
            model.head.weight.copy_(model.head.weight[torch.randperm(10)])
        right = evaluate(model, data.test, data.info).right
    save_model(model, path, **{key: value for key, value in about.items() if key not in OWN})


def overview(run: Path, **options) -> str:
    with quiet():
        page = write_report([run], count_images=2, **options).read_text(encoding="utf-8")
    return page[: page.index('id="curves"')]


# --- results and checkpoint ------------------------------------------------------------------------------------------


def test_results_of_this_checkpoint(unconverted):
    found = results(unconverted, checkpoint=sha(unconverted / "best.safetensors"))
    read = read_run(unconverted)
    assert read.results.right == found["right"] and "results" not in read.missing and "checkpoint" not in read.missing
    page = overview(unconverted)
    assert f"{found['accuracy']:.2%}" in page and "results.json" not in page


def test_results_of_another_checkpoint_are_not_shown(unconverted):
    found = results(unconverted, checkpoint=sha(unconverted / "best.safetensors"))
    other_weights(unconverted / "best.safetensors")
    assert read_run(unconverted).results is None
    page = overview(unconverted)
    assert f"{found['accuracy']:.2%}" not in page
    assert "results.json is not shown: it is of another best.safetensors, which was changed since" in page


def test_results_of_a_file_that_is_not_the_one_shown(unconverted):
    results(unconverted, checkpoint=sha(unconverted / "best.safetensors"))
    shutil.copy(unconverted / "best.safetensors", unconverted / "final.safetensors")
    read = read_run(unconverted)
    assert read.results is None
    assert read.missing["results"] == "results.json is of best.safetensors, shown is final.safetensors."


def test_results_of_earlier_versions(unconverted):
    """They do not say of which checkpoint they are. All images looked at say it; a few do not."""
    found = results(unconverted)
    page = overview(unconverted)
    assert f"{found['accuracy']:.2%}" in page and "results.json" not in page
    few = overview(unconverted, images=10)
    assert f"{found['accuracy']:.2%}" in few and "whether of this one is not known" in few
    other_weights(unconverted / "best.safetensors")
    page = overview(unconverted)
    assert f"{found['accuracy']:.2%}" not in page and "results.json is not shown: it is of another model" in page
    assert f"It says {found['right']} of 360 test images right, of this model " in page


def test_a_converted_run_says_what_was_trained_only_if_it_is_that(run):
    found = results(run, checkpoint=sha(run / "best.safetensors"))
    assert f"as trained {found['accuracy']:.2%}" in overview(run)
    results(run, checkpoint={"file": "best.safetensors", "sha256": "0" * 64})
    page = overview(run)
    assert "as trained" not in page and "results.json is not shown" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 0.9}, r"accuracy=0.9 must be right / total = \d+ / 360"),
        ({"right": -1}, "right=-1 must be"),
        ({"total": 0}, "total=0 must be"),
        ({"total": "many"}, "total='many' must be a whole number"),
        ({"split": "tset"}, "unknown split 'tset'"),
        ({"work": float("nan")}, "NaN is no number of JSON"),
        ({"seconds": -1.0}, "seconds=-1.0 must be"),
        ({"versions": {"torch": 2}}, "versions.torch=2 must be text"),
        ({"checkpoint": "best"}, "checkpoint='best' must be a mapping of file, sha256"),
        ({"checkpoint": {"file": "best.safetensors"}}, "checkpoint lacks sha256"),
    ],
)
def test_results_are_what_they_can_be(unconverted, changes, message):
    results(unconverted, **changes)
    with pytest.raises(ValueError, match=f"results.json is broken: .*{message}"):
        read_run(unconverted)


def test_a_later_version_may_say_more(unconverted):
    results(unconverted, new={"a": 1})
    assert read_run(unconverted).results.total == 360


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("metrics.csv", "2.1", "nan", "loss=nan must be a finite number"),
        ("metrics.csv", "2.1", "1e999", "loss=inf must be a finite number"),
        ("metrics.csv", "2.1", "1e300", "loss=1e.300 must be a number of at least"),
        ("metrics.csv", ",0.1,", ",1.5,", "val_accuracy=1.5 must be a number of at least 0 and at most 1"),
        ("metrics.csv", "\n1,", "\n9,", "its epochs are not whole numbers in their order"),
        ("metrics.csv", "\n1,", "\n0,", "epoch=0.0 must be a number of at least 1"),
        ("metrics.csv", ",loss", ",epoch", "its columns are"),
        ("metrics.csv", ",3.5", ",3.5,7", "line 2 has more or fewer cells"),
        ("spikes.csv", "0.11", "-0.1", "rate=-0.1 must be a number of at least 0"),
        ("spikes.csv", "layer", "module", "not a table of epoch, rate, .*layer"),
    ],
)
def test_tables_are_what_they_can_be(unconverted, file, old, new, message):
    text = (unconverted / file).read_text()
    assert old in text
    (unconverted / file).write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"{file} is broken.*{message}"):
        read_run(unconverted)


def test_tables_of_earlier_versions(unconverted):
    """Before val_work, and before firing rates were counted by group."""
    rows = ["epoch,step,lr,loss,val_loss,val_accuracy,seconds", "1,6,0.1,2.0,2.0,0.5,1.0"]
    (unconverted / "metrics.csv").write_text("\n".join(rows))
    (unconverted / "spikes.csv").write_text("epoch,layer,rate\n1,stem,0.25\n")
    read = read_run(unconverted)
    assert read.epochs == [dict(zip(rows[0].split(","), map(float, rows[1].split(",")), strict=True))]
    assert read.rates == [{"epoch": 1.0, "layer": "stem", "rate": 0.25}]


# --- certificates ----------------------------------------------------------------------------------------------------


def test_the_certificate_of_its_networks_is_shown(run):
    read = read_run(run)
    assert (
        read.certificate == load_certificate(run / CERTIFICATE) and read.checkpoint.name == "best-spiking.safetensors"
    )


@pytest.mark.parametrize("name", ["best", "best-spiking"])
def test_a_certificate_of_networks_that_changed_is_not(run, name):
    other_weights(run / f"{name}.safetensors")
    read = read_run(run)
    assert read.certificate is None and read.checkpoint.name == "best.safetensors"
    with quiet():
        page = write_report([run], images=20, count_images=2).read_text(encoding="utf-8")
    assert f"{CERTIFICATE} is not shown: it is of another model than best.safetensors and best-spiking" in page
    assert "codes differ on 4 images" not in page


@pytest.mark.parametrize("name", ["best", "best-spiking"])
def test_nor_one_whose_networks_are_gone(run, name):
    (run / f"{name}.safetensors").unlink()
    if name == "best":
        shutil.copy(run / "best-spiking.safetensors", run / "final.safetensors")
    assert read_run(run).certificate is None


@pytest.mark.parametrize("edit", ["cut out", "renamed", "moved", "doubled", "another code"])
def test_nor_one_whose_layers_are_not_theirs(run, edit):
    plain = json.loads((run / CERTIFICATE).read_text())
    layers = plain["layers"]
    changed = {
        "cut out": layers[1:],
        "renamed": [layers[0] | {"name": "x"}, *layers[1:]],
        "moved": [*layers[1:], layers[0]],
        "doubled": [layers[0], *layers],
        "another code": [layers[0] | {"code": [1, 15]}, *layers[1:]],
    }
    assert load_certificate(run / CERTIFICATE).lossless, "so that it stays so"
    (run / CERTIFICATE).write_text(json.dumps(plain | {"layers": changed[edit]}))
    assert load_certificate(run / CERTIFICATE).lossless and read_run(run).certificate is None


def test_a_copied_run_shows_its_own_networks(run, tmp_path):
    """Even where an earlier version wrote whole paths, and the first run is still there."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert read_run(copy).checkpoint == copy / "best-spiking.safetensors"
    plain = json.loads((copy / CERTIFICATE).read_text())
    for name in ("reference", "spiking"):
        plain["files"][name] = str(run / plain["files"][name])
    (copy / CERTIFICATE).write_text(json.dumps(plain))
    assert read_run(copy).checkpoint == copy / "best-spiking.safetensors"
    other_weights(copy / "best-spiking.safetensors")
    assert read_run(copy).certificate is None


def test_validation_images_are_said_to_have_chosen_the_epoch():
    from spikevit.report.sections.base import images_of

    assert images_of("val").endswith("the data set has no test images, and the best epoch was chosen on these")
    assert images_of("test") == "test images"


def test_logits_that_are_not_finite_make_no_report(unconverted, capsys):
    """Finite weights, whose products are not."""
    path = unconverted / "best.safetensors"
    model, about = load_model(path), read_about(path)
    model.head.weight.data.mul_(1e30)
    model.float()
    model.head.weight.data.fill_(3e38)
    save_model(model, path, **{key: value for key, value in about.items() if key not in OWN})
    assert main(["report", str(unconverted), "--images", "20"]) == 2
    assert "best.safetensors: logits are not finite (NaN or infinite)" in capsys.readouterr().err
    assert not (unconverted / "report.html").exists()
