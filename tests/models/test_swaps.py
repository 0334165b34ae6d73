"""Mechanisms are swapped by name: every mixer in every model that has one, trained for a step and run as a stream."""

import pytest
import torch

from spikevit import create_model, list_models
from spikevit.attention import MIXERS

FLAT = [name for name in list_models("*_tiny") if not name.startswith(("qkformer", "msvit", "ge2mst"))]


def runs(model):
    model, x = model.double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model.loss(x, torch.tensor([1, 2]))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    whole, state = model(x, per_step=True), None
    for logits in whole:
        stepped, state = model.step(x, state)
        torch.testing.assert_close(stepped, logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("name", FLAT)
def test_flat_models(name, mixer):
    model = create_model(name, mixer=mixer, time_steps=2)
    assert all(type(block.attn) is MIXERS[mixer] for block in model.blocks)
    runs(model)


@pytest.mark.parametrize("mixers", [("ms_token", "ms_channel", "ssa"), ("sdsa", "token_mixing", "qk_channel")])
@pytest.mark.parametrize("name", ["qkformer_tiny", "msvit_tiny"])
def test_staged_models(name, mixers):
    model = create_model(name, mixers=mixers, time_steps=2)
    assert [type(stage[0].attn) for stage in model.stages] == [MIXERS[mixer] for mixer in mixers]
    runs(model)


@pytest.mark.parametrize("mixer", MIXERS)
def test_mixers_in_ge2mst(mixer):
    """The last stage's; with neurons that spike in time, and trained without a time axis."""
    changes = {"mixers": ("conv", "conv", mixer), "windows": ((), (), (2, 0) if mixer.startswith("gw") else ())}
    runs(create_model("ge2mst_tiny", neuron={"kind": "lif"}, time_steps=2, **changes))
    model = create_model("ge2mst_tiny", **changes)
    assert type(model.stages[-1][0].attn) is MIXERS[mixer]
    model.loss(torch.randn(2, 3, 32, 32), torch.tensor([1, 2]))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_wrong_words():
    with pytest.raises(ValueError, match="did you mean token_mixing"):
        create_model("spikformer_tiny", mixer="token_mixer")
    with pytest.raises(ValueError, match=r"mixers=\('ssa', 'ssa'\) must be a list of 3"):
        create_model("qkformer_tiny", mixers=("ssa", "ssa"))
    for pools in ((1, 1), (2, 9)):
        with pytest.raises(ValueError, match="must be different ones of the stem's convolutions"):
            create_model("spikformer_tiny", pools=pools)
    with pytest.raises(ValueError, match="depth='abc' must be a whole number"):
        create_model("spikformer_tiny", depth="abc")
    with pytest.raises(ValueError, match=r"image_size=\(32,\) must be a list of 2"):
        create_model("spikformer_tiny", image_size=(32,))
