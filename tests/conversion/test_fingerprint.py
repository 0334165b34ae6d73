"""The fingerprint: of weights and structure, the same in every process."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest
import torch
from small_ge2mst import small
from torch import nn

import spikevit
from spikevit import create_model, quantise
from spikevit.conversion.fingerprint import fingerprint, fingerprint_1
from spikevit.conversion.quantise import InputGrid
from spikevit.neurons import ExpG, Staircase


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Settings:
    side: int
    more: tuple = ()
    kinds: list = field(default_factory=lambda: [1])


class Odd(nn.Module):
    """Attributes of every kind."""

    def __init__(self, **changes):
        super().__init__()
        self.shift, self._scale, self.name, self.dtype = 3, 0.5, "odd", torch.float32
        self.windows, self.sides, self.table = (2, [4, 0]), {"b", "a", "c"}, {"x": 1, 2: None}
        self.settings, self.colour, self.function = Settings(7), Colour.RED, torch.relu
        self.constant = torch.tensor([1.0, 2.0])
        self.register_buffer("mask", torch.ones(3), persistent=False)
        for name, value in changes.items():
            setattr(self, name, value)


def conv(**options) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, 3, **{"padding": 1, **options})


def ge2mst(**options) -> nn.Module:
    torch.manual_seed(0)
    return small(mixers=("conv", "conv", "ssa"), windows=((), (), ()), **options)


def shared(same: bool) -> nn.Module:
    torch.manual_seed(0)
    first = nn.Linear(4, 4)
    second = nn.Linear(4, 4)
    second.load_state_dict(first.state_dict())
    return nn.Sequential(first, first if same else second)


def changed(model: nn.Module, name: str, value) -> nn.Module:
    *path, last = name.split(".")
    setattr(model.get_submodule(".".join(path)), last, value)
    return model


PAIRS = {
    "stride": lambda: (conv(), conv(stride=2)),
    "padding": lambda: (conv(), conv(padding=0)),
    "padding by name": lambda: (conv(padding="same"), conv(padding="valid")),
    "padding mode": lambda: (conv(), conv(padding_mode="circular")),
    "dilation": lambda: (conv(), conv(dilation=2)),
    "groups": lambda: (nn.Conv2d(4, 4, 1, groups=2, device="meta"), nn.Conv2d(2, 4, 1, device="meta")),
    "pooling kernel": lambda: (nn.AvgPool2d(2), nn.AvgPool2d(3)),
    "pooling stride": lambda: (nn.AvgPool2d(2), nn.AvgPool2d(2, 1)),
    "batch norm's epsilon": lambda: (nn.BatchNorm1d(4), nn.BatchNorm1d(4, eps=1e-3)),
    "input grid": lambda: (InputGrid(6), InputGrid(5)),
    "class": lambda: (nn.ReLU(), nn.Sigmoid()),
    "code": lambda: (Staircase(ExpG(4, 1)), Staircase(ExpG(1, 15))),
    "power of two": lambda: (Staircase(ExpG(4, 1)), Staircase(ExpG(4, 1), power_of_two=True)),
    "sharing": lambda: (shared(True), shared(False)),
    "order": lambda: (nn.Sequential(nn.ReLU(), nn.Sigmoid()), nn.Sequential(nn.Sigmoid(), nn.ReLU())),
    "scale": lambda: (ge2mst(), changed(ge2mst(), "stages.2.0.attn.scale", 0.25)),
    "heads": lambda: (ge2mst(head_width=16), ge2mst(head_width=8)),
    "windows": lambda: tuple(create_model("ge2mst_tiny", windows=((), (), w)).to("meta") for w in ((2, 0), (4, 0))),
    "bits": lambda: (quantise(ge2mst()), changed(quantise(ge2mst()), "head.bits", 9)),
    "config": lambda: (ge2mst(), ge2mst(image_size=32)),
    "weight": lambda: (conv(), changed(conv(), "weight", nn.Parameter(torch.zeros(4, 4, 3, 3)))),
    "type": lambda: (conv(), conv().double()),
    **{
        name: lambda change=change: (Odd(), Odd(**change))
        for name, change in {
            "shift": {"shift": 4},
            "a number of another kind": {"shift": True},
            "private": {"_scale": 0.25},
            "name": {"name": "even"},
            "dtype": {"dtype": torch.float64},
            "nested": {"windows": (2, [4, 1])},
            "set": {"sides": {"a", "b"}},
            "table": {"table": {"x": 1, 2: 3}},
            "dataclass": {"settings": Settings(8)},
            "default of a dataclass": {"settings": Settings(7, kinds=[2])},
            "enum": {"colour": Colour.BLUE},
            "function": {"function": torch.sigmoid},
            "tensor": {"constant": torch.tensor([1.0, 3.0])},
            "buffer of no checkpoint": {"mask": torch.zeros(3)},
            "one more": {"more": 1},
        }.items()
    },
}


def meta(model: nn.Module) -> bool:
    return any(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("name", PAIRS)
def test_structure_counts(name):
    """One thing is another: so is the fingerprint; made again the same, it is the same."""
    first, second = PAIRS[name]()
    again, _ = PAIRS[name]()
    if meta(first):
        first, second, again = (m.to_empty(device="cpu") for m in (first, second, again))
        for m in (first, second, again):
            for t in m.state_dict().values():
                t.zero_()
    assert fingerprint(first) == fingerprint(again) != fingerprint(second)
    assert fingerprint(first, second) != fingerprint(second, first)


def test_what_does_not_count():
    """How it is computed, what it is called, hooks, training or not, gradients."""
    model = quantise(ge2mst())
    first = fingerprint(model)
    changed(model, "head.levels", None)
    changed(model, "head_lif.backend", "plain")
    model.name = "another"
    model.train().requires_grad_(False)
    model.head.register_forward_hook(lambda *_: None)
    model(torch.zeros(1, 1, 16, 16))
    assert fingerprint(model) == first
    settings = Odd(settings=Settings(7, (), [1]), windows=[2, (4, 0)], table={2: None, "x": 1}, sides={"c", "b", "a"})
    assert fingerprint(settings) == fingerprint(Odd())


def test_in_other_processes():
    """Whatever the order of sets there, and wherever objects lie."""
    script = "from test_fingerprint import *; print(fingerprint(Odd(), conv(), quantise(ge2mst())))"
    here = Path(__file__).parent
    path = os.pathsep.join([str(Path(spikevit.__file__).parents[1]), str(here)])
    found = set()
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
        found.add(done.stdout.strip() or done.stderr)
    assert found == {fingerprint(Odd(), conv(), quantise(ge2mst()))}


def test_format_1():
    """Tensors, codes and bits, and nothing else."""
    model = quantise(ge2mst())
    first = fingerprint_1(model)
    assert fingerprint_1(changed(model, "stages.2.0.attn.scale", 0.25)) == first
    assert fingerprint_1(changed(model, "head.bits", 9)) != first
    changed(model, "head.bits", 8)
    assert fingerprint_1(changed(model, "head_lif.code", ExpG(1, 15))) != first
