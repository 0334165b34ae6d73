"""The demo goes on where it was interrupted, whatever the step, and does nothing twice."""

import contextlib
import importlib
import json
from pathlib import Path

import pytest

from spikevit import files
from spikevit.cli import demo
from spikevit.cli.main import main
from spikevit.report import html
from spikevit.training import run as training
from spikevit.training.module import Classifier

conversion, profiling = (
    importlib.import_module(f"spikevit.{name}") for name in ("conversion.convert", "profiling.profile")
)

pytestmark = pytest.mark.filterwarnings("ignore:.*silent on these images")
SMALL = ["model.config.widths=[8,16,32]", "model.config.depths=[1,1,1]", "model.backend=fused", "data.batch_size=256"]
BRIEF = [*SMALL, "schedule.epochs=2", "schedule.warmup_epochs=0"]


def page(paths, out=None, **_):
    """Instead of the report, which is the slowest step, and tested elsewhere."""
    (Path(paths[0]) / "report.html").write_text("")
    return Path(paths[0]) / "report.html"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    brief(monkeypatch)


def brief(monkeypatch):
    monkeypatch.setattr(demo, "EXACT", [*demo.EXACT[:1], "schedule.epochs=2", *demo.EXACT[2:]])
    monkeypatch.setattr(html, "write_report", page)


@pytest.fixture
def interrupt(monkeypatch):
    """Interrupts, as Ctrl-C does, one call of a function, by its number or by its arguments; others pass. Gives the
    list of calls.
    """

    def at(where, name, which=1):
        calls, original, left = [], getattr(where, name), [which]

        def instead(*args, **options):
            calls.append(args)
            if left and (which(*args) if callable(which) else len(calls) == which):
                left.clear()
                raise KeyboardInterrupt
            return original(*args, **options)

        monkeypatch.setattr(where, name, instead)
        return calls

    return at


def results(run):
    found = json.loads(Path(run, "results.json").read_text())
    return {key: found[key] for key in ("right", "total", "best_epoch", "val_accuracy")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A demo that nothing interrupted: its status, and the results of both runs."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(None):
        patch.chdir(tmp_path_factory.mktemp("whole"))
        brief(patch)
        status = main(["demo", *BRIEF])
        return status, results("runs/demo-1"), results("runs/demo-1/exact")


def of_certificate(given):
    return any(Path(path).name == "certificate.json" for path in given)


# Where it is interrupted: a function, the number of its call, and what the directory holds then. 1,293 images are five
# steps an epoch, and two epochs a run.
PLACES = {
    "in the first epoch": (Classifier, "training_step", 2, "recipe.yaml", "resume.ckpt"),
    "in the second epoch": (Classifier, "training_step", 8, "resume.ckpt", "results.json"),
    "in the first test": (training, "test", 1, "resume.ckpt", "results.json"),
    "in exact mode": (Classifier, "training_step", 18, "exact/resume.ckpt", "exact/results.json"),
    "in the second test": (training, "test", 2, "exact/resume.ckpt", "exact/results.json"),
    "in the conversion": (conversion, "convert", 1, "exact/results.json", "spiking.safetensors"),
    "before the certificate": (files, "write_together", of_certificate, "spiking.safetensors", "certificate.json"),
    "in the summary": (profiling, "profile", 1, "certificate.json", "report.html"),
    "in the report": (html, "write_report", 1, "certificate.json", "report.html"),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_goes_on_where_it_was_interrupted(cli, interrupt, whole, place):
    where, name, which, there, not_yet = PLACES[place]
    interrupt(where, name, which)
    first = cli("demo", *BRIEF)
    directory = Path("runs/demo-1")
    assert first[0] == 130 and first[2].endswith("spikevit: stopped; go on with: spikevit demo --out runs/demo-1\n")
    assert (directory / there).exists() and not (directory / not_yet).exists()
    finished = ["results.json", "best.safetensors", "exact/results.json", "certificate.json"]
    done = [directory / "results.json", directory / "exact/results.json", directory / "certificate.json"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in done if path.exists()}

    status, out, _ = cli("demo")
    assert status == whole[0] and out.startswith("Going on with the demo in runs/demo-1")
    assert all((path.stat().st_mtime_ns, path.read_bytes()) == before[path] for path in before), "nothing is done twice"
    assert all((directory / path).exists() for path in [*finished, "report.html"])
    assert not Path("runs/demo-2").exists()
    assert (results(directory), results(directory / "exact")) == whole[1:]
    assert json.loads((directory / "certificate.json").read_text())["exact"]


def test_of_training_at_most_an_epoch_is_lost(cli, interrupt):
    """Interrupted at the third step of the second epoch: the five steps of that one are done again, no others."""
    calls = interrupt(Classifier, "training_step", 8)
    assert cli("demo", *BRIEF)[0] == 130
    assert cli("demo", "--out", "runs/demo-1")[2] == ""
    assert len(calls) == 8 + 5 + 10


def test_a_demo_that_ended_is_left_alone(cli, interrupt):
    assert cli("demo", *BRIEF)[0] in (0, 1)
    interrupt(Classifier, "training_step", 1)
    status, out, err = cli("demo", *BRIEF)
    assert status == 130 and "go on with: spikevit demo --out runs/demo-2" in err and "Going on" not in out


def test_another_demo_is_not_gone_on_with(cli, refused, interrupt):
    interrupt(Classifier, "training_step", 8)
    assert cli("demo", *BRIEF)[0] == 130
    interrupt(Classifier, "training_step", 1)
    other = [*BRIEF, "optimizer.lr=0.5"]
    assert "go on with: spikevit demo --out runs/demo-2" in cli("demo", *other)[2]
    message = refused("demo", *other, "--out", "runs/demo-1")
    assert "--out runs/demo-1 is a run with another recipe: optimizer.lr is 0.008 there, 0.5 here" in message


def test_a_run_that_is_no_demo(refused):
    Path("mine").mkdir()
    Path("mine/recipe.yaml").write_text("model: {name: spikformer_tiny}\n")
    assert "model.name is 'spikformer_tiny' there, 'ge2mst_tiny' here" in refused("demo", "--out", "mine")
    Path("other").mkdir()
    Path("other/notes.txt").write_text("")
    assert main(["demo", "--out", "other", *BRIEF]) == 2


def test_a_demo_that_another_process_works_on_is_left_alone(cli, interrupt):
    interrupt(Classifier, "training_step", 8)
    assert cli("demo", *BRIEF)[0] == 130
    with files.locked(Path("runs/demo-1")):
        interrupt(Classifier, "training_step", 1)
        assert "--out runs/demo-2" in cli("demo", *BRIEF)[2]
