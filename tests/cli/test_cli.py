"""The command line: help, answers, and one line on stderr for what the user got wrong."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from spikevit import create_model, load_model, save_model
from spikevit.cli import doctor, models
from spikevit.cli.main import VERBS, main
from spikevit.data import load_data, normalise
from spikevit.training.evaluate import evaluate
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build

ROOT = Path(__file__).parents[2]
SMALL = ["model.config.embed_dim=16", "model.config.num_heads=2", "model.config.depth=1", "model.time_steps=1"]
SHORT = [*SMALL, "schedule.epochs=1", "schedule.warmup_epochs=0", "data.batch_size=256"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In an empty folder, a terminal wide enough for any table, and with the environment put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    for name in ("SPIKEVIT_RUN", "SPIKEVIT_TRACEBACK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def checkpoint(path: str, *changes: str) -> Path:
    """An untrained model, whose neurons fire all the same, with what training says of its data."""
    recipe = load_recipe("digits", [*SMALL, *changes])
    model, data = build(recipe)
    for bn in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        torch.nn.init.constant_(bn.running_var, 0.01)
        torch.nn.init.uniform_(bn.bias, 0, 3)
    save_model(model, path, data=data.info.to_dict() | {"source": vars(recipe.data)})
    return Path(path)


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_of_the_program(cli):
    status, out, _ = cli("--help")
    assert status == 0
    assert all(verb in out and summary in out for verb, summary in VERBS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example(cli, verb):
    status, out, _ = cli(verb, "--help")
    assert status == 0 and out.startswith(f"usage: spikevit {verb}")
    examples = out[out.index("example") :].splitlines()[1:]
    assert examples and all(line.startswith(f"  spikevit {verb}") for line in examples)


def test_help_is_quick():
    """It imports neither torch nor anything as heavy."""
    script = """
import sys
from spikevit.cli.main import VERBS, main
for words in (["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0
print({"torch", "numpy", "lightning", "kornia", "rich", "yaml"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nset()\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["trian"], "invalid choice: 'trian'"),
        (["models", "--all"], "unrecognized arguments: --all"),
        (["train", "digits", "--ot", "x"], "unrecognized arguments: --ot x"),
        (["eval"], "the following arguments are required: checkpoint"),
    ],
)
def test_wrong_words(cli, words, message):
    status, out, err = cli(*words)
    assert status == 2 and out == ""
    assert message in err and "Traceback" not in err


# --- what ends how ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("depth=0"), 2, "spikevit: depth=0\n"),
        (OSError("disk full"), 2, "spikevit: disk full\n"),
        (ImportError("no kornia"), 2, "spikevit: no kornia\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_status(cli, monkeypatch, error, status, line):
    def fail(args):
        raise error

    monkeypatch.setattr(models, "run", fail)
    assert cli("models") == (status, "", line)


def test_warnings_are_one_line(cli, monkeypatch):
    """Of the command; in Python they stay what they are."""
    monkeypatch.setattr(warnings, "formatwarning", before := warnings.formatwarning)
    cli("doctor")
    assert warnings.formatwarning is before
    monkeypatch.setattr(sys, "argv", ["spikevit", "doctor"])
    main()
    assert warnings.formatwarning("other\nimages \x1b", UserWarning, "x.py", 1) == "spikevit: other images \\x1b\n"


def test_mistakes_of_ours_are_shown_in_full(cli, monkeypatch):
    monkeypatch.setattr(models, "run", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli("models")


def test_tracebacks_can_be_asked_for(cli, monkeypatch):
    monkeypatch.setenv("SPIKEVIT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no model matches"):
        cli("models", "nothing*")


# --- models, doctor --------------------------------------------------------------------------------------------------


def test_models(cli):
    status, out, _ = cli("models", "qkformer*", "--markdown")
    assert status == 0 and "spikformer" not in out
    (row,) = [line for line in out.splitlines() if "qkformer_10_384" in line]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("`qkformer_10_384`†", "16,473,688", "224×224", "4", "23.40", "26.74"),
        *("ImageNet 78.80¹", "15.13"),
    ]
    assert "16,473,688" in cli("models", "qkformer_10_384")[1]


def test_readme_has_the_table_of_models(cli):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert cli("models", "--markdown")[1].strip() in readme, "paste what `spikevit models --markdown` prints"


def test_models_without_a_match(refused):
    assert "no model matches 'resnet*'; all of them: ge2mst_32, " in refused("models", "resnet*")


def test_doctor(cli):
    status, out, _ = cli("doctor")
    assert status == 0
    assert f"torch {torch.__version__}" in out and "neuron backends: plain, fused" in out
    assert all(library in out for library in doctor.OPTIONAL)


def test_doctor_says_how_to_get_what_is_missing(cli, monkeypatch):
    there = {"lightning": None, "pytorch-lightning": "2.5", "datasets": None, "kornia": None}
    monkeypatch.setattr(doctor, "_version", lambda library: there.get(library, "1.0"))
    lines = {line.split()[1].rstrip(":"): line for line in cli("doctor")[1].splitlines() if line[:3] in ("  ✓", "  ✗")}
    assert lines["kornia"].strip() == '✗ kornia: no augmentation; pip install "spikevit[train]"'
    assert lines["datasets"].strip().endswith('pip install "spikevit[hub]"')
    assert lines["lightning"].strip() == "✓ lightning 2.5", "under either of its names"
    assert lines["pillow"].strip() == "✓ pillow 1.0"


# --- train, demo -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digts"], "unknown recipe 'digts'; did you mean digits or "),
        (["none.yaml"], "there is no recipe file none.yaml; shipped recipes: "),
        ([], "which recipe? shipped: "),
        (["digits", "optimzer.lr=1"], "unknown key 'optimzer'; did you mean optimizer"),
        (["digits", "optimizer.lrr=1"], "unknown key 'optimizer.lrr'; did you mean optimizer.lr"),
        (["digits", "optimizer.lr"], "'optimizer.lr' is not a change to the recipe"),
        (["digits", "optimizer.lr=fast"], "optimizer.lr"),
        (["digits", "optimizer.betas=[0.9"], "optimizer.betas"),
        (["digits", "schedule.epochs=0"], "schedule.epochs=0 must be a whole number of at least 1"),
        (["digits", "--out", "run", "schedule.epochs=0"], "schedule.epochs=0 must be a whole number of at least 1"),
        (["digits", "model.name=spikformer_tny"], "unknown model 'spikformer_tny'; did you mean spikformer_tiny"),
        (["digits", "model.config.depht=1"], "unknown field of SpikformerConfig 'depht'; did you mean depth"),
        (["digits", "model.config.neuron.kidn=if"], "'kidn'; did you mean kind"),
        (["digits", "model.config.num_classes=7"], "model.config sets ['num_classes'], which the data set decides"),
        (["digits", "data.name=cifar"], "unknown data set 'cifar'; did you mean cifar10"),
        (["digits", "--resume", "run"], "--resume goes on as the run's own recipe says"),
        (["--resume", "run"], "run is not the directory of a run: there is no recipe.yaml in it"),
    ],
)
def test_train_refuses(refused, words, message):
    assert message in refused("train", *words)


def test_a_broken_recipe_is_one_line_too(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: [1\n")
    assert "mine.yaml is not valid YAML" in refused("train", "mine.yaml")


def test_train(cli, tmp_path):
    status, out, _ = cli("train", "digits", *SHORT, "--quiet")
    assert status == 0
    results = json.loads((tmp_path / "runs" / "digits-1" / "results.json").read_text())
    assert f"{results['accuracy']:.2%}" in out
    assert "try: spikevit eval runs/digits-1/best.safetensors" in out


def test_runs_of_one_process_keep_apart(cli, tmp_path):
    for name in ("one", "two"):
        status, _, err = cli("train", "digits", *SHORT, "--quiet", "--out", name)
        assert status == 0, err
        assert (tmp_path / name / "results.json").is_file()


def test_demo(cli, tmp_path):
    small = ["model.config.widths=[8,16,32]", "model.config.depths=[1,1,1]", "model.backend=fused"]
    status, out, _ = cli("demo", "schedule.epochs=1", "schedule.warmup_epochs=0", *small, "--out", "seen")
    assert status == 0
    files = {path.name for path in (tmp_path / "seen").iterdir()}
    assert {"report.html", "results.json", "best.safetensors", "recipe.yaml", "metrics.csv"} <= files
    for run in ("seen", "seen/exact"):
        results = json.loads((tmp_path / run / "results.json").read_text())
        assert results["total"] == 360 and f"{results['accuracy']:.2%}" in out
    certificate = json.loads((tmp_path / "seen" / "certificate.json").read_text())
    assert certificate["lossless"] and certificate["exact"] and certificate["images"] == 360
    for words in (
        "stages.2.0.attn.proj_in.lif",
        "model, not measurement",
        "Lossless: 0 of ",
        "Report: seen/report.html",
        "spikevit eval seen/spiking.safetensors",
    ):
        assert words in out


# --- eval ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "val"])
def test_eval(cli, split):
    path = checkpoint("m.safetensors")
    data = load_data("digits")
    score = evaluate(load_model(path), data.split(split), data.info)
    status, out, _ = cli("eval", path, "--split", split)
    line = f"{score.accuracy:.2%}: {score.right} of {score.total} {split} images of digits right, 1 of 1 time steps\n"
    assert status == 0 and out.startswith(f"{line}Accuracy is at chance: {score.right} of {score.total} images")
    assert ("silent" in out) == bool(score.silence)
    status, out, _ = cli("eval", path, "--split", split, "--json")
    answer = {"accuracy": score.accuracy, "right": score.right, "total": score.total, "split": split}
    answer |= {"work": 1.0, "work_unit": "time steps", "silence": score.silence, "at_chance": score.at_chance}
    answer["chance"] = max(map([label for _, label in data.split(split)].count, range(10))) / score.total
    assert (status, json.loads(out)) == (0, answer)
    status, out, _ = cli("eval", path, "--split", split, "--json", "--batch-size", 50)
    assert (status, json.loads(out)["total"]) == (0, score.total)


def test_eval_refuses_a_checkpoint(refused):
    assert "there is no checkpoint none.safetensors" in refused("eval", "none.safetensors")
    path = checkpoint("m.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert "m.safetensors is truncated" in refused("eval", path)
    save_model(create_model("spikformer_tiny"), path)
    assert "does not say what data it was trained on" in refused("eval", path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "val"], "no images in its 'val' split; it has train (1437 images), test (360 images)"),
        (["--split", "tset"], "unknown split 'tset'; did you mean test"),
        (["--batch-size", 0], "batch_size is 0; it must be 1 or more"),
        (["--root", "data"], "root is 'data'; digits come with scikit-learn"),
    ],
)
def test_eval_refuses(refused, words, message):
    assert message in refused("eval", checkpoint("m.safetensors", "data.val_fraction=0"), *words)


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def digit(tmp_path):
    """A PNG of the first test image, and that image."""
    image = load_data("digits").test.images[0]
    Image.fromarray(image[0].numpy()).save(tmp_path / "digit.png")
    return tmp_path / "digit.png", image


def cells(out: str, name: str) -> list[str]:
    """Those of the table's row of that image."""
    (row,) = [line for line in out.splitlines() if f"│ {name}" in line]
    return [cell.strip() for cell in row.strip("│").split("│")][1:]


def test_predict(cli, digit):
    path, image = checkpoint("m.safetensors"), digit[1]
    Image.new("RGB", (40, 20)).save("black.png")  # colour and another shape are no obstacle
    status, out, _ = cli("predict", path, "digit.png", "black.png")
    assert status == 0
    with torch.no_grad():
        images = torch.stack([image, torch.zeros_like(image)])
        expected = load_model(path)(normalise(images, load_data("digits").info)).softmax(-1).topk(5)
    for name, shares, labels in zip(("digit.png", "black.png"), *expected, strict=True):
        found = [cell.split() for cell in cells(out, name)]
        assert found == [[str(label), f"{p:.1%}"] for p, label in zip(shares.tolist(), labels.tolist(), strict=True)]
    assert cells(out, "digit.png") != cells(out, "black.png")


def test_predict_top(cli, digit):
    path = checkpoint("m.safetensors")
    assert len(cells(cli("predict", path, "digit.png", "--top", 2)[1], "digit.png")) == 2
    every = cells(cli("predict", path, "digit.png", "--top", 99)[1], "digit.png")
    shares = [float(cell.split()[1].rstrip("%")) for cell in every]
    assert sorted(cell.split()[0] for cell in every) == list("0123456789")
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.6)


def test_predict_with_any_precision(cli, digit):
    """trainer.precision=64-true and bf16-true leave such checkpoints."""
    path = checkpoint("m.safetensors")
    about = {"data": load_data("digits").info.to_dict()}
    for dtype in (torch.float64, torch.bfloat16):
        save_model(load_model(path).to(dtype), f"{dtype}.safetensors", **about)
        status, out, _ = cli("predict", f"{dtype}.safetensors", "digit.png")
        assert status == 0 and len(cells(out, "digit.png")) == 5


def test_predict_shows_names_as_they_are(cli, digit):
    digit[0].rename("digit[red].png")
    assert len(cells(cli("predict", checkpoint("m.safetensors"), "digit[red].png")[1], "digit[red].png")) == 5


def test_predict_refuses(refused, digit):
    path = checkpoint("m.safetensors")
    Path("text.png").write_text("no image")
    Path("half.png").write_bytes(digit[0].read_bytes()[:60])
    for name in ("text.png", "half.png", "none.png"):
        assert f"{name} cannot be read as an image" in refused("predict", path, "digit.png", name)
    assert "--top 0 must be at least 1" in refused("predict", path, "digit.png", "--top", 0)
    assert "there is no checkpoint none.safetensors" in refused("predict", "none.safetensors", "digit.png")
    save_model(create_model("spikformer_tiny"), path)
    assert "does not say what data it was trained on" in refused("predict", path, "digit.png")


@pytest.mark.parametrize(
    ("program", "prefix"),
    [(".venv/bin/spikevit", ".venv/bin/"), ("/elsewhere/bin/spikevit", ""), ("src/spikevit/cli/main.py", "")],
)
def test_demo_names_commands_as_it_was_called(program, prefix, monkeypatch):
    from spikevit.cli import demo

    monkeypatch.setattr(sys, "argv", [program, "demo"])
    assert demo._bin() == prefix
