"""What reaches a terminal or a spreadsheet: names as they are, and nothing that steers it."""

import base64
import csv
import io
from pathlib import Path

import pytest
import rich.console
import torch
from PIL import Image

from spikevit import create_model, load_model, profile, save_model
from spikevit.checkpoint import read_about
from spikevit.data import load_data
from spikevit.files import csv_text
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.check import Check, Rule, Verdict
from spikevit.report.curve import curve
from spikevit.report.pieces import table
from spikevit.report.terminal import Table, console, verdicts, words

MARKUP = ["[/b]", "[red]x[/red]", "[link=https://x.example]y[/link]", ":smile:", "[bold", "a\\[b]"]
STEERING = {"\x1b[31mred": "\\x1b[31mred", "bell\x07": "bell\\x07", "back\x08": "back\\x08", "r\u202el": "r\\u202el"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.delenv("SPIKEVIT_TRACEBACK", raising=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of a model whose ten classes are called as no class should be."""
    torch.manual_seed(0)
    data = load_data("digits")
    model = create_model("spikformer_tiny", in_channels=1, image_size=16, num_classes=10, time_steps=1)
    calibrate(model, torch.randn(16, 1, 16, 16))
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    classes = [*MARKUP, "=1+1", "-x", "+x", "@x"]
    save_model(model, path, data=data.info.to_dict() | {"classes": classes, "source": {"name": "digits"}})
    return path


def on(a_console, thing) -> str:
    """What that console writes of it."""
    a_console.file = io.StringIO()
    a_console.print(thing)
    return a_console.file.getvalue()


@pytest.mark.parametrize("name", MARKUP)
def test_brackets_are_no_markup(name):
    """On our console, and in our tables on any."""
    found = Table(name)
    found.add_column(name)
    found.add_row(name)
    assert on(console(), name) == f"{name}\n"
    for any_console in (console(), rich.console.Console(width=100)):
        assert on(any_console, found).count(name) == 3


@pytest.mark.parametrize(("name", "shown"), STEERING.items())
def test_nothing_steers_the_terminal(name, shown):
    found = Table(name)
    found.add_column(name)
    found.add_row(name)
    for thing in (name, found, words(name)):
        out = on(console(), thing)
        assert shown in out and all(c.isprintable() or c == "\n" for c in out)
    out = on(rich.console.Console(width=100), found)
    assert out.count(shown) == 3 and "\x1b" not in out


def test_lines_stay_lines():
    assert on(console(), words("one\ntwo")) == on(console(), "one\ntwo") == "one\ntwo\n"


def test_predict_shows_classes_and_paths(cli, checkpoint):
    for name in ("[red].png", "\x1b[31m.png"):
        Image.new("L", (16, 16)).save(name)
    status, out, err = cli("predict", checkpoint, "[red].png", "\x1b[31m.png", "--top", 10)
    assert (status, err) == (0, "") and "│ [red].png" in out and "│ \\x1b[31m.png" in out and "\x1b" not in out
    assert all(f"{name} " in out for name in read_about(checkpoint)["data"]["classes"])


def test_errors_do_not_steer_the_terminal(cli):
    status, out, err = cli("eval", "\x1b[2Jnone.safetensors")
    assert (status, out) == (2, "") and "\\x1b[2Jnone.safetensors" in err and "\x1b" not in err
    status, out, err = cli("models", "--\x1b[2J")
    assert status == 2 and "\\x1b[2J" in err and "\x1b" not in err and err.count("\n") == 1


def test_names_of_rules_and_models_are_shown():
    found = verdicts(Check(Rule("[/b]", "[red]about", ("binary",)), [Verdict("[/i]", "mm", ("\x1b",), False, "[/u]")]))
    for any_console in (console(), rich.console.Console(width=120)):
        out = on(any_console, found)
        assert all(name in out for name in ("[/b]", "[red]about", "[/i]", "\\x1b", "[/u]"))
    report = profile(create_model("sdt_tiny"), torch.randn(1, 3, 32, 32), name="[/b]\x1b")
    assert "[/b]\\x1b: every product" in on(console(), report)


# --- spreadsheets ----------------------------------------------------------------------------------------------------

FORMULAS = ["=1+1", "+x", "-x", "@SUM(A1)"]


def cells(text: str) -> list[str]:
    return [cell for row in csv.reader(io.StringIO(text)) for cell in row]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_text(name):
    assert cells(csv_text([{"a": name}])) == ["a", f"'{name}"]


@pytest.mark.parametrize("name", ["-1.5", "+2", "-inf", "x=1", "1e-3", "a-b", ""])
def test_a_number_stays_one(name):
    assert csv_text([{"a": name, "b": -1.5}]) == f"a,b\n{name},-1.5\n"


@pytest.mark.parametrize("name", ["\t=1", "\r=1", "a\nb", "\x1b[0m"])
def test_a_cell_is_one_line(name):
    text = csv_text([{"a": name, "b": 1}])
    assert text.count("\n") == 2 and "\r" not in text and cells(text)[2:] == [repr(name)[1:-1], "1"]


def test_no_rows_are_no_error():
    assert csv_text([]).strip() == ""


def test_every_table_to_take_away(checkpoint):
    """Of the report's pages, of the curve, of layers: names of classes, models and modules are not computed."""
    data = load_data("digits")
    model = load_model(checkpoint)
    found = table("t", "", ("is", "n"), [[name, 1] for name in FORMULAS])
    text = base64.b64decode(found.csv.split(",")[1]).decode()
    assert [cell for cell in cells(text) if cell.startswith("'")] == [f"'{name}" for name in FORMULAS]
    model.name = "=1+1"
    found = curve(model, data.val, data.info, count_images=1)
    assert "=1+1" not in cells(found.to_csv()) and found.model == "=1+1"
    net = torch.nn.ModuleDict({"=1+1": torch.nn.Linear(4, 4)})
    net.forward = lambda x: net["=1+1"](x)
    assert "'=1+1" in cells(profile(net, torch.randn(2, 4)).to_csv())
