"""Models from outside: modules named to be imported, plugins, and checkpoints of classes that are not here."""

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import spikevit
from spikevit import create_model, list_models, load_model, save_model
from spikevit.cli.main import main
from spikevit.models import outside, registry

NET = """
from dataclasses import dataclass
from spikevit.layers import SpikingConv
from spikevit.models.base import ModelConfig, SpikingModel, make_head
from spikevit.models.registry import register

class {cls}(SpikingModel):
    stride = 4

    def __init__(self, config):
        super().__init__(config)
        self.stem = SpikingConv(config.in_channels, 8, kernel=3, stride=4, neuron=config.neuron)
        self.num_features = 8
        self.head = make_head(8, config.num_classes)

    def features(self, x, stream=None):
        return self.stem(x, stream)

register("{name}", {cls}, ModelConfig(num_classes=10, image_size=(32, 32)))
"""


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    """In a folder of its own; what is registered and imported is forgotten."""
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    monkeypatch.setattr(outside, "_loaded", True)  # plugins of this machine
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIKEVIT_IMPORT", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("nets", "own_", "statistics_")):
            del sys.modules[name]


def write(path, cls="MyNet", name="mynet"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(NET.format(cls=cls, name=name))


def says(capsys, *words: str) -> str:
    """The one line of a mistake."""
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("spikevit: "), err
    return err


def test_modules_of_the_current_directory(tmp_path, capsys):
    write(tmp_path / "own_net.py")
    assert "unknown model 'mynet'" in (said := says(capsys, "profile", "mynet", "--images", "1"))
    assert "for a model of your own, --import its module" in said
    assert main(["profile", "mynet", "--images", "1", "--import", "own_net"]) == 0
    assert "mynet" in capsys.readouterr().out


def test_several_modules_and_packages(tmp_path, capsys, monkeypatch):
    write(tmp_path / "own_a.py", "NetA", "own_a_tiny")
    write(tmp_path / "nets" / "b.py", "NetB", "own_b_tiny")
    write(tmp_path / "own_c.py", "NetC", "own_c_tiny")
    write(tmp_path / "own_d.py", "NetD", "own_d_tiny")
    monkeypatch.setenv("SPIKEVIT_IMPORT", "own_c, own_d")
    assert main(["models", "own_*", "--import", "own_a", "--import=nets.b"]) == 0
    out = capsys.readouterr().out
    assert all(f"own_{x}_tiny" in out for x in "abcd")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "x = 1\nimport does_not_exist\n",
            r"ModuleNotFoundError: No module named 'does_not_exist' \(.*bad.py, line 2",
        ),
        ("def broken(:\n", r"SyntaxError: .* \(.*own_bad.py, line 1\)"),
        ("x = 1\n\n1 / 0\n", r"ZeroDivisionError: division by zero \(.*own_bad.py, line 3\)"),
        ("raise SystemExit(3)\n", r"SystemExit: 3 \(.*own_bad.py, line 1\)"),
    ],
)
def test_broken_modules(text, said, tmp_path, capsys):
    import re

    (tmp_path / "own_bad.py").write_text(text)
    err = says(capsys, "models", "--import", "own_bad")
    assert re.search(rf"--import own_bad: the module is broken at import: {said}", err), err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_nothing", "there is no module own_nothing in"),
        ("nets.nothing", "there is no module nets.nothing in"),
        ("nets/own.py", "must be the name of a module, such as nets.own"),
        ("../own", "must be the name of a module, such as my_module"),
        ("", "must be the name of a module"),
    ],
)
def test_names_of_no_module(name, said, tmp_path, capsys, monkeypatch):
    write(tmp_path / "nets" / "own.py")
    assert f"--import {name}" in (err := says(capsys, "models", "--import", name)) and said in err
    if name:
        monkeypatch.setenv("SPIKEVIT_IMPORT", name)
        assert f"SPIKEVIT_IMPORT {name}" in says(capsys, "models")


def test_a_file_that_another_module_hides(tmp_path, capsys):
    write(tmp_path / "json.py")
    assert "json.py is hidden by another module of that name" in says(capsys, "models", "--import", "json")


# --- checkpoints ----------------------------------------------------------------------------------------------------


def script(tmp_path, text: str, **env) -> subprocess.CompletedProcess:
    """A process that knows nothing of this one's modules."""
    environment = os.environ | {"PYTHONPATH": str(Path(spikevit.__file__).parents[1])} | env
    return subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_checkpoint_names_its_module(tmp_path, capsys):
    write(tmp_path / "own_net.py")
    sys.path.insert(0, str(tmp_path))
    import own_net

    path, x = tmp_path / "m.safetensors", torch.randn(1, 3, 32, 32)
    model = create_model("mynet").eval()
    save_model(model, path)
    assert torch.equal(load_model(path)(x), model(x))
    del registry._MODELS["mynet"], sys.modules["own_net"]
    with pytest.raises(ValueError, match=r"holds a MyNet of own_net: --import own_net, in Python `import own_net`"):
        load_model(path)
    assert "own_net" not in sys.modules, "nothing is imported unasked"
    assert "a MyNet of own_net: --import own_net" in says(capsys, "profile", str(path), "--images", "1")
    assert main(["profile", str(path), "--images", "1", "--data", "digits", "--import", "own_net"]) == 0
    assert own_net.MyNet is not registry._MODELS["mynet"].build


def test_a_checkpoint_of_a_script(tmp_path):
    save = "import spikevit\nspikevit.save_model(spikevit.create_model('mynet'), 'm.safetensors')"
    save = NET.format(cls="MyNet", name="mynet") + save
    assert script(tmp_path, save).returncode == 0
    with pytest.raises(ValueError, match="holds a MyNet that a script or notebook defined: run its definition first"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("module", [None, "spikevit.models.future", "os; rm", "", "a..b"])
def test_modules_that_say_nothing(module, tmp_path):
    """Of older files, of newer versions, of files that were made to mislead."""
    from spikevit.checkpoint import Description

    description = Description(3, "MyNet", {}, module=module)
    with pytest.raises(ValueError, match="^a MyNet, which this version of spikevit does not know$"):
        description.build()


def test_older_checkpoints_name_none(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "m.safetensors"
    save_model(create_model("spikformer_tiny", image_size=16), path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["spikevit"])
    assert about.pop("module") == "spikevit.models.spikformer"
    del about["config"]["drop_path_rate"]
    save_file(load_file(path), tmp_path / "old.safetensors", {"spikevit": json.dumps(about)})
    assert load_model(tmp_path / "old.safetensors").config.drop_path_rate == 0


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_cell_that_is_run_again():
    space = {"__name__": "notebook"}
    text = NET.format(cls="MyNet", name="mynet")
    exec(text, space)
    first = space["MyNet"]
    exec(text, space)
    assert registry.model_entry("mynet").build is space["MyNet"] is not first
    assert registry.families()["MyNet"].build is space["MyNet"]
    with pytest.raises(ValueError, match="'mynet' is registered already"):
        registry.register("mynet", space["MyNet"], registry.model_entry("mynet").config)


def test_a_class_that_has_the_name_of_another():
    text = NET.format(cls="Spikformer", name="mine")
    with pytest.raises(ValueError, match=r"'mine' is a Spikformer of own_x, and 'spikformer.*' one of spikevit.mod"):
        exec(text, {"__name__": "own_x"})
    assert "mine" not in list_models()


# --- plugins --------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    """Two: one that works, and one that is broken."""
    write(tmp_path / "own_good.py", "Good", "good_tiny")
    (tmp_path / "own_bad.py").write_text("import does_not_exist\n")
    for name in ("good", "bad"):
        folder = tmp_path / f"{name}_nets-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-nets\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[spikevit.models]\n{name} = own_{name}\n")
    monkeypatch.setattr(outside, "_loaded", False)
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()


BROKEN = r"models of the plugin bad of bad-nets \(own_bad\) are not there: ModuleNotFoundError: No module named 'does_n"


def test_plugins_are_loaded_when_a_name_is_not_known(plugins):
    assert create_model("spikformer_tiny").name == "spikformer_tiny"
    assert "own_good" not in sys.modules
    with pytest.warns(UserWarning, match=BROKEN):
        assert create_model("good_tiny").name == "good_tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert list_models("good*") == ["good_tiny"]


def test_plugins_are_listed(plugins, capsys):
    with pytest.warns(UserWarning, match=BROKEN):
        assert main(["models", "good*"]) == 0
    assert "good_tiny" in capsys.readouterr().out


def test_checkpoints_of_plugins(plugins, tmp_path):
    with pytest.warns(UserWarning, match=BROKEN):
        save_model(create_model("good_tiny"), tmp_path / "m.safetensors")
    del registry._MODELS["good_tiny"], sys.modules["own_good"]
    outside._loaded = False
    with pytest.warns(UserWarning, match=BROKEN):
        assert load_model(tmp_path / "m.safetensors").name == "good_tiny"
