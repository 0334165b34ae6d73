"""States, settings and configs that do not fit: each error names what is there, where, and what would be right."""

import importlib.util
import sys
from dataclasses import dataclass

import pytest
import torch

from spikevit import create_model
from spikevit.models import ModelConfig
from spikevit.neurons import State

X = torch.randn(2, 3, 16, 16)


def model(name: str = "spikformer_tiny", **config):
    return create_model(name, image_size=16, **config).eval()


def test_state_of_other_widths():
    """Spikformer's stem widens D/8, D/4, D/2, D: 8 channels of D = 64, 16 of 128."""
    with pytest.raises(
        ValueError,
        match=r"state.membranes\[0\] has shape \(2, 16, 16, 8\), patch_embed.proj.0.lif of spikformer_tiny takes "
        r"\(2, 16, 16, 16\): another model's state\? Pass the one that this model's last step returned, or None",
    ):
        model(embed_dim=128).step(X, model().step(X)[1])


def test_state_of_other_depth():
    """Five layers of neurons in a block, so that each one more makes a state longer by five."""
    short, long = model(depth=1), model(depth=2)
    state = short.step(X)[1]
    with pytest.raises(
        ValueError, match=f"state holds {len(state)} membranes, spikformer_tiny has more layers of neuro"
    ):
        long.step(X, state)
    message = f"state holds {len(state) + 5} membranes, spikformer_tiny has {len(state)} layers of neurons: another"
    with pytest.raises(ValueError, match=message):
        short.step(X, long.step(X)[1])


def test_state_that_is_none():
    for state in (torch.zeros(2, 3), (torch.zeros(2),), {}):
        with pytest.raises(
            ValueError, match=r"state=(.|\n)* must be the State that the last step returned, or None to start"
        ):
            model().step(X, state)
    with pytest.raises(ValueError, match="state holds 0 membranes"):
        model().step(X, State())


@pytest.mark.parametrize("setting", [0, -1, 5, 2.5, float("nan"), "two", None])
def test_settings_of_time_steps(setting):
    with pytest.raises(ValueError, match=f"time_steps={setting!r} must be a whole number from 1 to 4"):
        model().at(setting)


def test_settings_that_are_there():
    assert [model().at(s).config.time_steps for s in (1, 2.0, *model().settings())] == [1, 2, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="setting=2 must be a whole number from 1 to 1"):
        create_model("ge2mst_tiny").at(2)


MODULE = """
{future}
from dataclasses import dataclass
from spikevit.models import ModelConfig

@dataclass(frozen=True)
class Own(ModelConfig):
    depth: int = 2
    dropout: float = 0.1
    bias: bool = True
"""


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"])
def test_configs_of_others_are_checked(future, tmp_path):
    """As of a module, with annotations as texts and as types."""
    (tmp_path / "own.py").write_text(MODULE.format(future=future))
    spec = importlib.util.spec_from_file_location("own", tmp_path / "own.py")
    module = sys.modules["own"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        refuses(module.Own)
    finally:
        del sys.modules["own"]


def test_configs_of_functions_are_checked():
    @dataclass(frozen=True)
    class Own(ModelConfig):
        depth: int = 2
        dropout: float = 0.1
        bias: bool = True

    refuses(Own)


def test_configs_of_which_a_type_is_not_known():
    """A name that only a function knows leaves all other fields checked."""
    Choice = int | None
    space = {"__name__": __name__}
    text = MODULE.format(future="from __future__ import annotations")
    exec(text + "    choice: Choice = None\n", space)  # Choice is not in its names
    refuses(space["Own"])
    assert Choice and space["Own"](choice="anything").choice == "anything"


def refuses(kind):
    assert kind(depth=3).depth == 3
    for field, value, right in (
        ("depth", -1, "a whole number of at least 1"),
        ("depth", 0, "a whole number of at least 1"),
        ("depth", 1.5, "a whole number"),
        ("depth", True, "a whole number"),
        ("dropout", float("nan"), "a finite number"),
        ("bias", 1, "true or false"),
        ("num_classes", -1, "a whole number of at least 0"),
        ("time_steps", 0, "a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=f"{field}={value} must be {right}"):
            kind(**{field: value})
