"""`spikevit profile` and `spikevit check`: answers, files, status, and one line for what the user got wrong."""

import csv
import json
from pathlib import Path

import pytest
import torch

from spikevit import create_model, list_models, save_model
from spikevit.profiling.conventions import CONVENTIONS
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build

SMALL = ["model.config.embed_dim=16", "model.config.num_heads=2", "model.config.depth=1", "model.time_steps=2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("SPIKEVIT_TRACEBACK", raising=False)


def checkpoint(path: str) -> Path:
    """As the trainer saves one; its neurons fire."""
    recipe = load_recipe("digits", SMALL)
    model, data = build(recipe)
    for bn in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        torch.nn.init.constant_(bn.running_var, 0.01)
        torch.nn.init.uniform_(bn.bias, 0, 3)
    save_model(model, path, data=data.info.to_dict() | {"source": vars(recipe.data)})
    return Path(path)


# --- profile ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_models("*_tiny"))
def test_profile(cli, name):
    status, out, err = cli("profile", name, "--images", 2)
    assert (status, err) == (0, "")
    assert f"{name}: every product, per image" in out and "model, not measurement" in out
    assert all(convention in out for convention in CONVENTIONS) and "NOT COUNTED" not in out
    assert "On fresh weights, batch norm set by these images; 2 images of noise." in out


def test_profile_as_json(cli):
    status, out, _ = cli("profile", "spikformer_tiny", "--images", 3, "--json", "-", "--constants", "int8")
    found = json.loads(out)
    assert status == 0 and (found["model"], found["images"]) == ("spikformer_tiny", 3)
    assert found["constants"]["name"] == "int8" and found["data"].endswith("3 images of noise")
    assert found["conventions"]["exact"]["mj_spread"] > 0, "images one by one"
    again = json.loads(cli("profile", "spikformer_tiny", "--images", 3, "--json", "-", "--constants", "int8")[1])
    assert again == found, "the same weights and the same noise"


def test_profile_writes_files(cli, tmp_path):
    Path("own.yaml").write_text("add: 1\nmultiply: 2\n")
    words = ("--json", "out/report.json", "--csv", "layers.csv", "--constants", "own.yaml")
    status, out, _ = cli("profile", "sdt_tiny", "--images", 2, "--batch-size", 2, *words)
    assert status == 0 and "sdt_tiny: every product" in out
    found = json.loads(Path("out/report.json").read_text())
    assert found["constants"]["mac"] == 3 and found["conventions"]["exact"]["mj_spread"] is None
    rows = list(csv.DictReader(Path("layers.csv").read_text().splitlines()))
    assert [row["module"] for row in rows] == [layer["module"] for layer in found["layers"]]
    assert {path.name for path in tmp_path.rglob("*")} == {"own.yaml", "layers.csv", "out", "report.json"}


def test_profile_that_cannot_write_leaves_nothing(cli, monkeypatch):
    def full(*_args, **_options):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full)
    status, _, err = cli("profile", "spikformer_tiny", "--images", 1, "--csv", "layers.csv")
    assert status == 2 and "could not save layers.csv (nothing was left behind): disk full" in err
    assert not list(Path().iterdir())


def test_profile_of_a_checkpoint(cli):
    path = checkpoint("m.safetensors")
    status, out, err = cli("profile", path, "--images", 3, "--json", "-")
    found = json.loads(out)
    assert (status, err) == (0, "") and found["data"] == "3 test images of digits" and found["images"] == 3
    assert found["neurobench"]["activation_sparsity"] < 1
    status, out, _ = cli("profile", path, "--images", 400, "--batch-size", 200, "--json", "-")
    assert status == 0 and json.loads(out)["images"] == 360, "all that there are"


def test_profile_on_data_by_name(cli):
    save_model(create_model("spikformer_tiny", image_size=8, in_channels=1), "m.safetensors")
    status, out, _ = cli("profile", "m.safetensors", "--data", "digits", "--images", 2, "--json", "-")
    assert status == 0 and json.loads(out)["data"] == "2 test images of digits"


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_that_passes(cli):
    status, out, err = cli("check", "stmixer_tiny", "--rule", "asynchronous", "--images", 4)
    assert (status, err) == (0, "") and "asynchronous: passed" in out
    status, out, _ = cli("check", "stmixer_tiny", "--rule", "asynchronous", "--images", 4, "--all")
    assert status == 0 and "blocks.1.mlp.fc2" in out and "head: exempt" in out


def test_check_that_fails(cli):
    status, out, err = cli("check", "spikformer_tiny", "--images", 4)
    assert (status, err) == (1, "")
    assert (
        "accumulate-only: " in out and "fail" in out and "sum of spikes, added by a shortcut" in " ".join(out.split())
    )
    assert "patch_embed.proj.1" not in out and "4 images of noise" in out


def test_check_of_several_rules(cli):
    Path("any.yaml").write_text("operands: [binary, integer, power-of-two, real]\n")
    rules = ("--rule", "any.yaml", "--rule", "asynchronous")
    status, out, _ = cli("check", "spikformer_tiny", "--images", 4, "--json", *rules)
    found = json.loads(out)
    assert status == 1 and [(c["rule"], c["passed"]) for c in found["checks"]] == [
        ("any", True),
        ("asynchronous", False),
    ]
    assert found["data"].endswith("4 images of noise")
    assert cli("check", "spikformer_tiny", "--images", 4, "--json", *rules[:2])[0] == 0


def test_check_of_a_checkpoint(cli):
    status, out, _ = cli("check", checkpoint("m.safetensors"), "--images", 20, "--batch-size", 7, "--json")
    assert status == 1 and json.loads(out)["data"] == "20 test images of digits"


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["profile", "check"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spikformer_tny"], "unknown model 'spikformer_tny'; did you mean spikformer_tiny"),
        (["none.safetensors"], "there is no checkpoint none.safetensors"),
        (["."], "there is no checkpoint .; it is a directory"),
        (["spikformer_tiny", "--images", 0], "--images 0 must be at least 1"),
        (["spikformer_tiny", "--batch-size", -1], "--batch-size -1 must be at least 1"),
        (["spikformer_tiny", "--data", "digts"], "unknown data set 'digts'; did you mean digits"),
        (
            ["bare.safetensors"],
            "bare.safetensors does not say what data it was trained on: name a data set with --data",
        ),
        (["half.safetensors"], "half.safetensors is truncated"),
    ],
)
def test_mistakes(cli, verb, words, message):
    if "bare" in words[0] or "half" in words[0]:
        save_model(create_model("spikformer_tiny"), words[0])
        if "half" in words[0]:
            Path(words[0]).write_bytes(Path(words[0]).read_bytes()[:99])
    status, out, err = cli(verb, *words)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["profile", "--constants", "int9"], "unknown constants 'int9'; did you mean int8"),
        (["profile", "--constants", "none.yaml"], "none.yaml"),
        (["profile", "--constants", "bad.yaml"], "bad.yaml is not a table of constants"),
        (["check", "--rule", "asynchronus"], "unknown rule 'asynchronus'; did you mean asynchronous"),
        (["check", "--rule", "bad.yaml"], "bad.yaml is not a rule"),
    ],
)
def test_mistakes_in_tables(cli, words, message):
    Path("bad.yaml").write_text("operands: [binary")
    verb, *rest = words
    status, out, err = cli(verb, "spikformer_tiny", "--images", 1, *rest)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_words_that_are_none(cli):
    status, _, err = cli("check", "spikformer_tiny", "--images", "many")
    assert status == 2 and "argument --images: 'many' must be a whole number" in err
