"""The originals' checkpoints: every tensor has one place here and one name there, and files are read without trust."""

import json
import os
import time

import numpy as np
import pytest
import torch

from spikevit import create_model, load_original
from spikevit.neurons import Neuron

KWARGS = dict(
    img_size_h=32, img_size_w=32, patch_size=4, embed_dims=64, num_heads=8, mlp_ratios=4, in_channels=3, num_classes=10,
    sr_ratios=1, T=4,
)  # fmt: skip
SOURCES = {  # the original's depth, and our model of it
    "spikformer_cifar": (2, lambda: create_model("spikformer_tiny", num_heads=8)),
    "spikformer_imagenet": (
        1,
        lambda: create_model("spikformer_8_384", num_classes=10, image_size=32, embed_dim=64, depth=1, num_heads=8),
    ),
    "qkformer_cifar": (4, lambda: create_model("qkformer_tiny", depths=(1, 1, 2), num_heads=8)),
    "qkformer_imagenet": (
        4,
        lambda: create_model(
            "qkformer_10_384", num_classes=10, image_size=32, embed_dim=64, depths=(1, 2, 1), num_heads=8
        ),
    ),
}


@pytest.fixture(params=SOURCES)
def source(request):
    return request.param


def ours(source: str):
    """Our model with other numbers in every tensor, so that no two can be mistaken for each other."""
    model = SOURCES[source][1]()
    state = {
        name: torch.randn_like(t) if t.is_floating_point() else torch.full_like(t, i)
        for i, (name, t) in enumerate(model.state_dict().items())
    }
    model.load_state_dict(state)
    return model


def originals(model) -> dict:
    """Our tensors, cut and named as the original's."""
    names = model.original_names
    return {o.name: o.restore(t).clone() for name, t in model.state_dict().items() for o in names[name]}


def load(source: str, state, **quirks):
    return load_original(source, KWARGS | {"depths": SOURCES[source][0]}, state, **quirks)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


# --- names and shapes ------------------------------------------------------------------------------------------------


def test_round_trip(source):
    model = ours(source)
    again = load(source, originals(model))
    assert again.config == model.config
    assert same(again.state_dict(), model.state_dict())


def test_every_tensor_and_neuron_has_its_names_once(source):
    model = ours(source)
    neurons = {name for name, module in model.named_modules() if isinstance(module, Neuron)}
    names = model.original_names
    assert names.keys() == model.state_dict().keys() | neurons
    theirs = [original.name for parts in names.values() for original in parts]
    assert len(theirs) == len(set(theirs))


PLACES = {  # one tensor of theirs, where it lies in ours
    "spikformer_cifar": {
        "patch_embed.proj_bn2.running_var": lambda m: m.patch_embed.proj[2].bn.running_var,
        "patch_embed.rpe_bn.running_mean": lambda m: m.patch_embed.rpe.bn.running_mean,
        "block.1.attn.q_linear.weight": lambda m: m.blocks[1].attn.proj_in.linear.weight[:64],
        "block.1.attn.v_bn.bias": lambda m: m.blocks[1].attn.proj_in.bn.bias[128:],
        "block.0.mlp.fc2_linear.bias": lambda m: m.blocks[0].mlp.fc2.linear.bias,
    },
    "spikformer_imagenet": {
        "block.0.attn.k_conv.weight": lambda m: m.blocks[0].attn.proj_in.linear.weight[64:128, :, None],
        "block.0.mlp.fc1_conv.weight": lambda m: m.blocks[0].mlp.fc1.linear.weight[:, :, None, None],
    },
    "qkformer_cifar": {
        "patch_embed1.proj1_bn.running_mean": lambda m: m.patch_embed[0].proj[1].bn.running_mean,
        "patch_embed3.proj_res_conv.weight": lambda m: m.patch_embed[2].shortcut.conv.weight,
        "stage2.0.tssa.q_bn.running_var": lambda m: m.stages[1][0].attn.proj_in.bn.running_var[:32],
        "stage3.1.ssa.q_bn.running_mean": lambda m: m.stages[2][1].attn.proj_in.bn.running_mean[:64],
        "stage3.0.mlp.mlp2_bn.weight": lambda m: m.stages[2][0].mlp.fc2.bn.weight,
    },
    "qkformer_imagenet": {
        "patch_embed1.proj2_conv.weight": lambda m: m.patch_embed[0].proj[2].conv.weight,
        "patch_embed2.proj4_bn.bias": lambda m: m.patch_embed[1].proj[1].bn.bias,
        "stage2.1.tssa.k_conv.weight": lambda m: m.stages[1][1].attn.proj_in.linear.weight[32:, :, None],
        "stage3.0.attn.proj_conv.bias": lambda m: m.stages[2][0].attn.proj_out.linear.bias,
    },
}


def test_places(source):
    state = originals(ours(source))
    model = load(source, state)
    for name, place in PLACES[source].items():
        assert torch.equal(state[name], place(model)), name


def test_originals_are_restored_from_ours(source, golden_dir):
    """As the test before, but with the original's own tensors, names and shapes."""
    record = np.load(golden_dir / f"{source}.npz")
    config = json.loads(str(record["config"]))
    state = {key[6:]: torch.from_numpy(record[key]) for key in record.files if key.startswith("state/")}
    model = load_original(source, config["model_kwargs"], state)
    unused = {name for name in state if ".norm" in name}
    assert bool(unused) == source.startswith("spikformer")
    assert same(originals(model), {name: t for name, t in state.items() if name not in unused})
    neurons = [name for name, module in model.named_modules() if isinstance(module, Neuron)]
    names = model.original_names
    assert sorted(o.name for neuron in neurons for o in names[neuron]) == sorted(config["lif_order"])


def test_unused_norms_of_spikformer_are_dropped_by_name():
    model = ours("spikformer_cifar")
    unused = {
        f"block.{i}.norm{j}.{kind}": torch.ones(64) for i in (0, 1) for j in (1, 2) for kind in ("weight", "bias")
    }
    assert same(load("spikformer_cifar", originals(model) | unused).state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"unexpected \['block.0.norm3.weight'\]"):
        load("spikformer_cifar", originals(model) | {"block.0.norm3.weight": torch.ones(64)})
    with pytest.raises(ValueError, match=r"unexpected \['block.0.norm1.weight'\]"):
        load("qkformer_cifar", originals(ours("qkformer_cifar")) | {"block.0.norm1.weight": torch.ones(64)})


def test_quirks_are_fields_of_our_config():
    model = load("qkformer_cifar", originals(ours("qkformer_cifar")), legacy_batch_leak=True)
    assert model.config.legacy_batch_leak and model.stages[2][0].attn.legacy_batch_leak


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_unknown_source():
    with pytest.raises(ValueError, match="unknown source 'spikformer_cifr'; did you mean spikformer_cifar"):
        load_original("spikformer_cifr", KWARGS, {})


def test_unknown_quirk():
    with pytest.raises(ValueError, match="'legacy_bach_leak'; did you mean legacy_batch_leak"):
        load("qkformer_cifar", {}, legacy_bach_leak=True)


def test_missing_tensor_is_named_and_nothing_else(source):
    state = originals(ours(source))
    gone = next(name for name in state if name.endswith("k_bn.bias"))
    del state[gone]
    with pytest.raises(ValueError, match=rf"config=.*: missing \['{gone}'\], unexpected \[\]"):
        load(source, state)


def test_unexpected_tensor_is_named(source):
    state = originals(ours(source)) | {"block.0.attn.relative_position": torch.ones(3)}
    with pytest.raises(ValueError, match=r"missing \[\], unexpected \['block.0.attn.relative_position'\]"):
        load(source, state)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("head.weight", (7, 64)),
        ("block.0.attn.proj_bn.bias", (65,)),
        ("block.0.mlp.fc1_linear.weight", (64, 256)),  # transposed: as many numbers, all in the wrong place
        ("patch_embed.proj_conv1.weight", (8, 16, 3, 3)),
    ],
)
def test_wrong_shape_is_named(name, shape):
    state = originals(ours("spikformer_cifar"))
    assert state[name].shape != shape
    with pytest.raises(ValueError, match=name) as error:
        load("spikformer_cifar", state | {name: torch.ones(shape)})
    assert str(tuple(shape)) in str(error.value)


# --- files -----------------------------------------------------------------------------------------------------------

WRAPPINGS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "best": 0.9},
    "module": lambda state: {f"module.{name}": t for name, t in state.items()},
    "model and module": lambda state: {"model": {f"module.{name}": t for name, t in state.items()}, "epoch": 3},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_pth_files(tmp_path, wrap):
    model = ours("qkformer_cifar")
    torch.save(wrap(originals(model)), tmp_path / "best.pth")
    for path in (tmp_path / "best.pth", str(tmp_path / "best.pth")):
        assert same(load("qkformer_cifar", path).state_dict(), model.state_dict())


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_mappings_are_read_as_files_are(wrap):
    model = ours("qkformer_cifar")
    assert same(load("qkformer_cifar", wrap(originals(model))).state_dict(), model.state_dict())


def test_pickled_code_is_refused_and_does_not_run(tmp_path):
    trap, path = tmp_path / "sprung", tmp_path / "best.pth"
    torch.save({"model": originals(ours("qkformer_cifar")), "args": Trap(trap)}, path)
    with pytest.raises(ValueError, match=r"best\.pth holds more than tensors: an object of posix\.mkdir\. It was not"):
        load("qkformer_cifar", path)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap works: elsewhere it would have run"


@pytest.mark.parametrize("content", [[1, 2], {"model": {"epoch": 3}}, {"weight": "none"}], ids=str)
def test_pth_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "best.pth")
    with pytest.raises(ValueError, match=r"best\.pth holds no state_dict: .* expected"):
        load("qkformer_cifar", tmp_path / "best.pth")


def test_pth_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*best\.pth"):
        load("qkformer_cifar", tmp_path / "best.pth")


def test_every_flipped_bit_is_noticed(tmp_path):
    """The archive has a checksum of each tensor, which torch.load does not look at."""
    path, state = tmp_path / "best.pth", originals(ours("qkformer_cifar"))
    torch.save(state, path)
    content = path.read_bytes()
    for name, tensor in list(state.items())[::5]:
        value = tensor.numpy().tobytes()
        if len(value) < 64:
            continue
        changed = bytearray(content)
        changed[content.index(value) + len(value) // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"best\.pth is damaged: the checksum of .* in it is wrong"):
            load("qkformer_cifar", path)
        assert not torch.equal(torch.load(path, weights_only=True)[name], tensor), "torch loads it without a word"


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_what_is_not_finite_is_not_loaded(value):
    state = originals(ours("spikformer_cifar"))
    state["block.0.attn.q_bn.running_var"][1] = value
    with pytest.raises(ValueError, match=r"1 of \d+ tensors are not finite .*: block\.0\.attn\.q_bn\.running_var"):
        load("spikformer_cifar", state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": 10**9}, "depth=1000000000 must be a whole number of at least 1 and at most 512"),
        ({"depths": "2"}, "depths='2' must be a whole number of at least 1"),
        ({"T": 0}, "T=0 must be"),
        ({"embed_dims": 65_536}, "it should be"),
        ({"img_size_h": 10**6}, "must be a whole number of at least 1 and at most 16,384"),
        ({"mlp_ratios": float("nan")}, "mlp_ratios=nan must be a number above 0"),
        ({"num_classes": None}, "num_classes=None must be"),
    ],
    ids=str,
)
def test_arguments_are_checked_before_anything_is_made(change, message):
    state, started = originals(ours("spikformer_cifar")), time.monotonic()
    with pytest.raises(ValueError, match=message):
        load_original("spikformer_cifar", KWARGS | {"depths": SOURCES["spikformer_cifar"][0]} | change, state)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("tensor", [torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")], ids=["sparse", "meta"])
def test_only_dense_tensors(tensor):
    state = originals(ours("spikformer_cifar")) | {"head.bias": tensor}
    with pytest.raises(ValueError, match=r"state_dict holds no state_dict: 'head\.bias' is a tensor of layout"):
        load("spikformer_cifar", state)
