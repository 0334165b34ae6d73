"""Whatever is given in place of a file: one line, status 2, no traceback, no waiting."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch

from spikevit import create_model, save_model
from spikevit.data import load_data

ODD = {
    "missing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 64),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "latin-1": lambda path: path.write_bytes("größer: ü\n".encode("latin-1")),
    "json": lambda path: path.write_text("[1, 2]"),
    "yaml": lambda path: path.write_text("a: 1\nb: [x]\n"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "alias": lambda path: path.write_text("&a [*a]"),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "huge": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**34),
}
PLACES = {
    "recipe": ("train", "odd.yaml"),
    "resume": ("train", "--resume", "odd"),
    "eval": ("eval", "odd.safetensors"),
    "predict": ("predict", "odd.safetensors", "x.png"),
    "profile": ("profile", "odd.safetensors"),
    "check": ("check", "odd.safetensors"),
    "convert": ("convert", "odd.safetensors"),
    "plan": ("plan", "odd.safetensors"),
    "report": ("report", "odd"),
    "report of a checkpoint": ("report", "odd.safetensors"),
    "certificate": ("convert", "--verify", "odd.json"),
    "constants": ("profile", "sdt_tiny", "--constants", "odd.yaml"),
    "rule": ("check", "sdt_tiny", "--rule", "odd.yaml"),
    "data of --data": ("profile", "good.safetensors", "--data", "folder", "--root", "odd"),
}
CASES = [(kind, place) for kind in ODD for place in PLACES if (kind, place) != ("empty", "recipe")]  # all by default


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In an empty folder; what waits for a pipe, or for anything else, is ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("SPIKEVIT_TRACEBACK", raising=False)

    def late(*_):
        raise AssertionError("it took more than 10 seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("kind", "place"), CASES)
def test_odd_files(refused, kind, place):
    words = PLACES[place]
    odd = next(Path(word) for word in words if word.startswith("odd"))
    if "good.safetensors" in words:
        save_model(create_model("sdt_tiny"), "good.safetensors")
    ODD[kind](odd)
    before = sorted(Path().iterdir())
    error = refused(*words)
    assert odd.name in error or (place == "recipe" and kind == "yaml"), error
    assert sorted(Path().iterdir()) == before, "nothing is made"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
@pytest.mark.parametrize(
    "words",
    [("eval", ".safetensors"), ("profile", "sdt_tiny", "--constants", ".yaml"), ("convert", "--verify", ".json")],
)
def test_names_that_no_file_has(refused, words, name):
    assert any(said in refused(*words[:-1], name + words[-1]) for said in ("cannot be", "there is no", "too long"))


@pytest.mark.parametrize("kind", ["directory", "pipe", "empty", "binary", "json", "deep", "loop"])
@pytest.mark.parametrize("name", ["results.json", "metrics.csv", "spikes.csv", "recipe.yaml", "x-certificate.json"])
def test_odd_files_in_a_run(cli, kind, name):
    """A report refuses what it would read; what is not there it says, and a table may have no rows."""
    torch.manual_seed(0)
    data = load_data("digits")
    model = create_model("spikformer_tiny", in_channels=1, image_size=16, num_classes=10, time_steps=1)
    Path("run").mkdir()
    save_model(model, "run/best.safetensors", data=data.info.to_dict())
    Path("run/recipe.yaml").write_text("model: {name: spikformer_tiny}\n")
    Path("run", name).unlink(missing_ok=True)
    ODD[kind](Path("run", name))
    status, out, err = cli("report", "run", "--images", 1, "--count-images", 1)
    if (name, kind) == ("recipe.yaml", "empty") or (kind == "loop" and status == 0):
        return  # the recipe of all defaults; a link that leads nowhere is no file
    assert (status, out) == (2, "") and name in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["profile", "sdt_tiny", "--images", "many"],
        ["profile", "sdt_tiny", "--images", "1.5"],
        ["profile", "sdt_tiny", "--images", "9" * 5000],
        ["plan", "x", "--max-error", "much"],
        ["eval", "x", "--batch-size", ""],
        ["eval"],
        ["eval", "x", "--device"],
        ["eval", "x", "--colour", "red"],
        ["evil"],
        [],
    ],
)
def test_wrong_words_are_one_line(cli, words):
    status, out, err = cli(*words)
    assert (status, out) == (2, "") and re.fullmatch(r"spikevit: .+; see spikevit.* --help\n", err)


@pytest.mark.parametrize("error", ["nan", "inf", "-1"])
def test_numbers_that_are_none(refused, error):
    assert "odd.safetensors" in refused("plan", "odd.safetensors", "--max-error", error)
