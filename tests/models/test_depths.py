"""Depths of parameters: every one has one, in the order in which the forward pass comes to them."""

import pytest
import torch
from torch import nn

from spikevit import create_model, list_models
from spikevit.adaptive import add_halting, allocate_time_steps
from spikevit.models.depths import depths
from spikevit.neurons import set_backend

TINY = list_models("*_tiny")


@pytest.mark.parametrize("name", [*TINY, "ge2mst_32", "qkformer_10_384", "spikformer_8_512"])
def test_every_parameter_has_one_that_grows_along_the_forward_pass(name):
    """The order comes from the graph of a real forward: nodes of autograd are numbered as they are made."""
    small = {} if name in TINY or name == "ge2mst_32" else {"image_size": 32}
    model = create_model(name, time_steps=2, **small)
    found = depths(model)
    assert list(found) == [key for key, _ in model.named_parameters()]
    blocks = sum(type(m).__name__ == "Block" for m in model.modules())
    assert sorted(set(found.values())) == list(range(blocks + 2)) and found["head.weight"] == blocks + 1

    seen: list[str] = []
    for key, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm1d)):
            module.register_forward_hook(lambda *_, key=key: seen.append(key))
    c = model.config
    model.train()(torch.randn(2, c.in_channels, *c.image_size))
    order = [found[f"{key}.weight"] for key in seen]
    assert order == sorted(order) and order[0] == 0 and order[-1] == blocks + 1


def test_by_hand():
    """QKFormer of stages of 1, 2 and 1 blocks: what embeds patches between them goes with the block behind."""
    found = depths(create_model("qkformer_tiny", depths=(1, 2, 1)))
    first = {
        **{"patch_embed.0.proj.0": 0, "patch_embed.0.shortcut": 0, "stages.0.0.attn": 1, "stages.0.0.mlp": 1},
        **{"patch_embed.1.proj.0": 2, "patch_embed.1.shortcut": 2, "stages.1.0.attn": 2, "stages.1.1.mlp": 3},
        **{"patch_embed.2.proj.1": 4, "stages.2.0.mlp": 4, "head": 5},
    }
    for module, depth in first.items():
        assert {d for name, d in found.items() if name.startswith(f"{module}.")} == {depth}, module


def test_parameters_of_neurons_and_functions_count_with_their_module():
    found = depths(create_model("spikformer_tiny", neuron={"kind": "plif"}))
    assert {d for name, d in found.items() if name.startswith("blocks.1.")} == {2}
    found = depths(create_model("stmixer_tiny", sml=True))
    assert {d for name, d in found.items() if name.startswith("sml.")} == {3}, "auxiliary heads are heads"


def test_methods_and_backends_around():
    model = create_model("spikformer_tiny")
    plain = depths(model)
    assert depths(add_halting(model)) == {f"model.{name}": depth for name, depth in plain.items()}
    gated = depths(allocate_time_steps(model))
    assert {name: d for name, d in gated.items() if "gates" not in name} == {f"model.{n}": d for n, d in plain.items()}
    assert {d for name, d in gated.items() if "gates" in name} == {3}
    staircase = create_model("ge2mst_tiny")
    assert depths(set_backend(staircase, "numba") or staircase) == depths(create_model("ge2mst_tiny"))


def test_a_model_without_blocks_has_none(monkeypatch):
    model = create_model("spikformer_tiny")
    model.blocks = nn.ModuleList()
    with pytest.raises(ValueError, match="spikformer_tiny has no blocks"):
        depths(model)
