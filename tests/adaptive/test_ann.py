"""Starting from an ANN: the twin, its weights, and a threshold for each layer of neurons."""

import pytest
import torch
from adaptive_models import TIMED, images, make

from spikevit import create_model, load_model, record_spikes, save_model
from spikevit.adaptive import allocate_time_steps, ann_twin, set_thresholds, start_from_ann
from spikevit.neurons import Neuron, Rectifier


@pytest.mark.parametrize("name", [name for name in TIMED if "lif" not in name])
def test_twin(name):
    """ReLU where neurons were, nothing else: the same tensors; it learns, saves and loads as any model."""
    model = make(name)
    twin = ann_twin(model)
    assert {n for n, m in twin.named_modules() if isinstance(m, Rectifier)} == {
        n for n, m in model.named_modules() if isinstance(m, Neuron)
    }
    assert {n: t.shape for n, t in twin.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert (
        twin.config.time_steps == 1
        and twin(images().float()).isfinite().all()
        and not record_spikes(twin, images().float())
    )
    twin.train()(images().float()).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())


def test_thresholds_are_percentiles():
    model, x = make("spikformer_tiny"), images(8)
    twin = ann_twin(model).double()
    twin.load_state_dict(model.state_dict())
    seen = {}
    for name, m in twin.named_modules():
        if isinstance(m, Rectifier):
            m.register_forward_hook(lambda _m, _a, out, name=name: seen.__setitem__(name, out[out > 0]))
    started = start_from_ann(model, twin, x, percentile=90)
    for name, positive in seen.items():
        threshold = started.get_submodule(name).threshold
        assert float((positive <= threshold).double().mean()) == pytest.approx(0.9, abs=0.5 / len(positive) + 1e-9), (
            name
        )
        assert threshold in positive
    assert model.blocks[0].attn.attn_lif.threshold == 0.5 and not model.methods, "the model is not changed"
    highest = start_from_ann(model, twin, x, percentile=100)
    assert highest.get_submodule("blocks.0.mlp.fc1.lif").threshold == float(seen["blocks.0.mlp.fc1.lif"].max())


def test_weights_and_thresholds_are_kept(tmp_path):
    model, x = make("spikformer_tiny", neuron={"kind": "plif"}), images()
    twin = ann_twin(model).double()
    started = start_from_ann(model, twin, x)
    for name, tensor in twin.state_dict().items():
        assert torch.equal(started.state_dict()[name], tensor), name
    allocated = allocate_time_steps(started, target=2.0)
    for m in (started, allocated, allocated.freeze()):
        save_model(m, tmp_path / "m.safetensors")
        again = load_model(tmp_path / "m.safetensors")
        assert torch.equal(again(x), m.eval()(x))
        neurons = dict(again.base.named_modules())
        assert neurons["blocks.1.attn.attn_lif"].threshold == started.get_submodule("blocks.1.attn.attn_lif").threshold


def test_frozen_norms_stay_frozen():
    model = make("spikformer_tiny")
    twin = ann_twin(model).double().train()
    twin.blocks[0].eval()
    before = [m.training for m in twin.modules()]
    start_from_ann(model, twin, images())
    assert [m.training for m in twin.modules()] == before and len(set(before)) == 2


def test_bad_input():
    model, x = make("spikformer_tiny"), images()
    twin = ann_twin(model).double()
    for percentile in (0, 101):
        with pytest.raises(ValueError, match=f"percentile={percentile} must be above 0 and at most 100"):
            start_from_ann(model, twin, x, percentile=percentile)
    with pytest.raises(ValueError, match="ann is not the twin of spikformer_tiny: it has 0 layers of ReLU"):
        start_from_ann(model, model, x)
    with pytest.raises(ValueError, match=r"ann is not the twin of spikformer_tiny: patch_embed.* differs"):
        start_from_ann(model, ann_twin(make("spikformer_tiny", embed_dim=32)).double(), x)
    with pytest.raises(ValueError, match=r"patch_embed.proj.0.lif of the ann is not finite \(NaN or infinite\)"):
        start_from_ann(model, twin, torch.full_like(x, float("nan")))
    torch.nn.init.constant_(twin.blocks[1].mlp.fc1.bn.bias, -100.0)
    with pytest.raises(ValueError, match=r"blocks.1.mlp.fc1.lif of the ann is silent on these images"):
        start_from_ann(model, twin, x)
    with pytest.raises(ValueError, match="unknown layer of neurons 'blocks.9.lif'"):
        set_thresholds(model, {"blocks.9.lif": 1.0})
    with pytest.raises(ValueError, match=r"table\['blocks.0.mlp.fc1.lif'\]=0 must be a finite number greater than 0"):
        set_thresholds(model, {"blocks.0.mlp.fc1.lif": 0})
    with pytest.raises(ValueError, match=r"table\['blocks.0.mlp.fc1.lif'\]=inf must be a finite number greater than 0"):
        set_thresholds(model, {"blocks.0.mlp.fc1.lif": float("inf")})
    with pytest.raises(ValueError, match="ge2mst_tiny has no common axis of time steps"):
        ann_twin(create_model("ge2mst_tiny"))
