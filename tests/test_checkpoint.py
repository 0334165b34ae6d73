"""Checkpoints: what is kept, what is refused and with which words, and that a file is the old one or the new one."""

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from spikevit import create_model, load_model, load_weights, save_model
from spikevit.adaptive import add_early_exit
from spikevit.checkpoint import digest, fresh_tensors, read_about

DIGITS = {
    **{"name": "digits", "classes": list("0123456789"), "channels": 1, "image_size": [16, 16]},
    **{"mean": [0.3], "std": [0.4], "source": {"name": "digits"}},
}
SMALL = dict(embed_dim=16, depth=1, num_heads=2, image_size=16, in_channels=1)


def small(**config):
    return create_model("spikformer_tiny", **SMALL | config)


def same(a, b) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture
def saved(tmp_path):
    model = small()
    save_model(model, tmp_path / "m.safetensors", accuracy=0.5)
    return model, tmp_path / "m.safetensors"


def test_weights_lie_as_fresh_ones_do(saved):
    """Not as views into the file, at any address: products of float64 round by it on some processors."""
    for name, tensor in load_model(saved[1]).state_dict().items():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.data_ptr() % 16 == 0, name


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_name_config_and_about(tmp_path):
    model, path = (
        small(neuron={"kind": "plif", "tau": 3.0}, time_steps=2),
        tmp_path / "new" / "folders" / "m.safetensors",
    )
    save_model(model, path, data=DIGITS, accuracy=0.5)
    about = read_about(path)
    assert about["data"] == DIGITS and about["accuracy"] == 0.5
    assert (about["format"], about["family"], about["name"]) == (3, "Spikformer", "spikformer_tiny")
    again = load_model(path)
    assert same(again, model)
    assert (again.name, again.config) == (model.name, model.config)


def test_a_loaded_model_is_ready(saved):
    again = load_model(saved[1])
    assert not again.training
    assert all(p.requires_grad and p.is_leaf for p in again.parameters())
    again.train()(torch.randn(2, 1, 16, 16)).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dtype_is_kept(tmp_path, dtype):
    model, path = small().to(dtype), tmp_path / "m.safetensors"
    save_model(model, path)
    again = load_model(path)
    assert same(again, model)
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert {p.dtype for p in load_weights(small(), path).parameters()} == {torch.float32}, "a model keeps its own"
    assert {p.dtype for p in load_weights(small(), path, keep_dtype=False).parameters()} == {dtype}


def test_weights_into_a_model_that_is_there(saved):
    model, path = saved
    other = small()
    assert not same(other, model)
    assert load_weights(other, path) is other
    assert same(other, model)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.0001, 0.05, 0.5, 0.9999])
def test_truncated(saved, share):
    _, path = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for load in (load_model, lambda p: load_weights(small(), p), read_about):
        with pytest.raises(ValueError, match=r"m\.safetensors is truncated, or not a safetensors file"):
            load(path)


def test_not_a_safetensors_file(tmp_path):
    path = tmp_path / "m.safetensors"
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"m\.safetensors is a file of torch.save, no .*load_original"):
        load_model(path)
    path.write_bytes(b"weights" * 9)
    with pytest.raises(ValueError, match=r"m\.safetensors is truncated, or not a safetensors file"):
        load_model(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors(tmp_path, metadata):
    save_file({"weight": torch.ones(2)}, tmp_path / "m.safetensors", metadata)
    with pytest.raises(ValueError, match=r"m\.safetensors is not a checkpoint of spikevit; .* load_original"):
        load_model(tmp_path / "m.safetensors")


def test_family_of_a_later_version(tmp_path):
    save_file(
        {"weight": torch.ones(2)},
        tmp_path / "m.safetensors",
        {"spikevit": '{"format": 1, "family": "Metaformer", "config": {}}'},
    )
    with pytest.raises(ValueError, match="holds a Metaformer, which this version of spikevit does not know"):
        load_model(tmp_path / "m.safetensors")


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.safetensors", str(tmp_path / "none.safetensors"), tmp_path):
        with pytest.raises(ValueError, match=f"there is no checkpoint {path}"):
            load_model(path)


# --- weights into another model ---------------------------------------------------------------------------------------


def test_checkpoint_of_another_family(saved):
    other = create_model("qkformer_tiny", in_channels=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match="holds spikformer_tiny, a Spikformer; this model is a QKFormer"):
        load_weights(other, saved[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items()), "nothing was loaded"


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        ({"num_classes": 7}, "num_classes: 10 there, 7 here"),
        ({"num_heads": 4}, "num_heads: 2 there, 4 here"),
        ({"time_steps": 6}, "time_steps: 4 there, 6 here"),
        ({"neuron": {"tau": 1.5}}, "neuron.tau: 2.0 there, 1.5 here"),
        ({"neuron": {"reset": "soft"}}, "neuron.reset: 'hard' there, 'soft' here"),
        ({"neuron": {"kind": "if"}}, "neuron.kind: 'lif' there, 'if' here"),
        ({"neuron": {"alpha": 2.0}}, "neuron.alpha: None there, 2.0 here"),
        ({"mixer": "qk_token", "depth": 2}, "depth: 1 there, 2 here; mixer: 'ssa' there, 'qk_token' here"),
    ],
    ids=str,
)
def test_every_field_of_the_config_counts(saved, config, difference):
    """Shapes are the same for most of these: what the weights compute is not."""
    model = small(**config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_weights(model, saved[1])
    assert difference in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "nothing was loaded"


def test_fields_that_may_differ_are_named(saved):
    model = small(time_steps=6, neuron={"tau": 1.5})
    assert same(load_weights(model, saved[1], differ=("time_steps", "neuron")), saved[0])
    assert (model.config.time_steps, model.config.neuron.tau) == (6, 1.5), "the model stays what it is"
    with pytest.raises(ValueError, match="differs from this model in neuron.tau"):
        load_weights(model, saved[1], differ=("time_steps",))


def test_other_methods_are_refused(saved):
    model = add_early_exit(small(), 0.9)
    with pytest.raises(ValueError, match=r"with the methods none; this model has \['early_exit'\]"):
        load_weights(model, saved[1])


@pytest.mark.parametrize(
    ("name", "config", "fresh"),
    [
        ("spikformer_tiny", {"num_classes": 7}, ["head.weight", "head.bias"]),
        ("spikformer_tiny", {"in_channels": 1}, ["patch_embed.proj.0.conv.weight"]),
        ("spikformer_tiny", {"image_size": 64}, []),
        ("qkformer_tiny", {"num_classes": 7, "in_channels": 1}, ["patch_embed.0.proj.0.conv.weight", "head.weight"]),
        ("stmixer_tiny", {"image_size": 48}, ["blocks.0.attn.mixing.weight", "blocks.1.attn.mixing.weight"]),
        ("ge2mst_tiny", {"num_classes": 7}, ["head.weight", "head.bias"]),
    ],
    ids=str,
)
def test_transfer(tmp_path, name, config, fresh):
    """Everything but what depends on the data's shape is the checkpoint's; the rest stays as the model had it."""
    model, path = create_model(name), tmp_path / "m.safetensors"
    save_model(model, path)
    other = create_model(name, **config)
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    found = fresh_tensors(other, path)
    assert set(fresh) <= set(found) and len(found) < 8
    with pytest.raises(ValueError, match=f"differs from this model in {next(iter(config))}.*transfer=True"):
        load_weights(other, path)
    assert load_weights(other, path, transfer=True) is other
    for key, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[key] if key in found else model.state_dict()[key]), key
    save_model(other, path)
    assert same(load_model(path), other)


def test_a_transfer_to_other_names_of_classes_has_a_new_head(tmp_path):
    model, path = small(), tmp_path / "m.safetensors"
    save_model(model, path, data=DIGITS)
    assert fresh_tensors(small(), path, classes="0123456789") == []
    assert fresh_tensors(small(), path, classes="1023456789") == ["head.weight", "head.bias"], "in another order"
    other = load_weights(small(), path, transfer=True, classes="abcdefghij")
    assert not torch.equal(other.head.weight, model.head.weight)
    assert torch.equal(other.blocks[0].mlp.fc1.linear.weight, model.blocks[0].mlp.fc1.linear.weight)


def test_a_transfer_changes_nothing_else(saved):
    with pytest.raises(ValueError, match="differs from this model in neuron.tau"):
        load_weights(small(num_classes=7, neuron={"tau": 1.5}), saved[1], transfer=True)


# --- nothing silent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["head.bias", "blocks.0.mlp.fc1.bn.running_var"])
def test_what_is_not_finite_is_not_saved(saved, name, value):
    model, path = saved
    model.state_dict()[name][3] = value
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=f"is not saved: 1 of {len(model.state_dict())} tensors are not finite .*: {name}"
    ):
        save_model(model, path)
    assert path.read_bytes() == before


def resigned(path, change=lambda about: None, tensors=lambda tensors: None, digest_too=True):
    """The file with what it says and its tensors changed, and, as an attacker or another program would, signed anew."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    held, about = load_file(path), json.loads(metadata["spikevit"])
    about = change(about) or about
    tensors(held)
    text = json.dumps(about)
    signed = {"sha256": digest(text, held)} if digest_too else {}
    save_file(held, path, {"spikevit": text} | signed)


def test_what_is_not_finite_is_not_loaded(saved):
    _, path = saved
    resigned(path, tensors=lambda t: t["head.bias"].fill_(float("nan")))
    for load in (load_model, lambda p: load_weights(small(), p)):
        with pytest.raises(
            ValueError, match=r"m\.safetensors is not loaded: 1 of \d+ tensors are not finite .*: head\.bias"
        ):
            load(path)


def test_every_flipped_bit_is_noticed(saved):
    """One at a time: in the tensors, and in what the file says."""
    _, path = saved
    content = path.read_bytes()
    places = range(8, len(content), len(content) // 150)
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError):
            load_model(path)


def test_the_digest_is_of_what_is_said_too(saved):
    _, path = saved
    resigned(path, lambda about: about | {"accuracy": 0.99}, digest_too=False)
    assert read_about(path)["accuracy"] == 0.99, "as of files from before there were digests"
    with safe_open(path, "pt") as file:
        text = file.metadata()["spikevit"]
    save_file(load_file(path), path, {"spikevit": text, "sha256": "0" * 64})
    with pytest.raises(ValueError, match="is damaged or was changed: its SHA-256"):
        load_model(path)


def test_digest_by_hand(saved):
    model, path = saved
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    found = hashlib.sha256(metadata["spikevit"].encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    assert metadata["sha256"] == found.hexdigest()


def test_a_checkpoint_without_a_digest_loads(saved):
    model, path = saved
    resigned(path, lambda about: about | {"format": 1}, digest_too=False)
    assert same(load_model(path), model)


@pytest.mark.parametrize(
    "head", [nn.Linear(16, 5), nn.Linear(16, 10, bias=False), nn.Sequential(nn.Linear(16, 10))], ids=str
)
def test_a_model_with_another_head_is_not_saved(tmp_path, head):
    model = small()
    model.head = head
    with pytest.raises(ValueError, match=r"is not what its config says .*head.*load_weights\(…, transfer=True\)"):
        save_model(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"config": a["config"] | {"embed_dim": 16_000}}, "50 tensors differ, such as .*48000"),
        (
            lambda a: a | {"config": a["config"] | {"depth": 10**9}},
            "depth=1000000000 must be a whole",
        ),
        (lambda a: a | {"config": a["config"] | {"image_size": [40_000, 40_000]}}, r"image_size\[0\]=40000 must be"),
        (lambda a: a | {"config": a["config"] | {"neuron": {"tau": "2"}}}, "tau='2' must be a number above 0"),
        (lambda a: a | {"config": a["config"] | {"neuron": 3}}, "neuron=3 must be a NeuronConfig or a mapping of"),
        (lambda a: a | {"config": None}, "config=None must be a mapping"),
        (lambda a: a | {"methods": [["early_exit", {"threshold": 0.5}, 1]]}, r"methods\[0\]=.* must be a list of 2"),
        (
            lambda a: a | {"methods": [["early_exit", {"treshold": 0.5}]]},
            "'treshold'; did you mean threshold",
        ),
        (lambda a: a | {"format": "1"}, "format='1' must be a whole number"),
        (lambda a: a | {"format": 99}, "of format 99, this version of spikevit reads up to 3"),
        (lambda a: [a], "does not say what model it holds"),
        (
            lambda a: a | {"data": DIGITS | {"classes": list("012345678")}},
            "num_classes=9, its network of",
        ),
        (lambda a: a | {"data": DIGITS | {"image_size": [32, 16]}}, "image_size="),
        (lambda a: a | {"data": DIGITS | {"std": [0]}}, r"data.std\[0\]=0 must be a number above 0"),
        (lambda a: a | {"epoch": "3"}, "epoch='3' must be a whole number"),
    ],
)
def test_what_a_file_says_is_checked(saved, change, message):
    """Whoever wrote it: sizes before anything is allocated, types before anything is built."""
    resigned(saved[1], change)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"m\.safetensors .*" + message):
        load_model(saved[1])
    assert time.monotonic() - started < 5


# --- whole or not at all ---------------------------------------------------------------------------------------------


def test_about_that_is_not_plain_data(saved):
    model, path = saved
    with pytest.raises(ValueError, match=r"trainer=<object .* must be plain data .*not JSON serializable"):
        save_model(model, path, trainer=object())
    assert read_about(path)["accuracy"] == 0.5


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(saved, mask):
    model, path = saved
    path.chmod(0o600)
    before = os.umask(mask)
    try:
        save_model(model, path)
        assert os.umask(mask) == mask, "the umask is as it was"
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


FULL_DISK = """
import resource, sys
from spikevit import load_model, save_model
model = load_model(sys.argv[1])
model.head.bias.data.fill_(7)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_model(model, sys.argv[1])
except OSError as error:
    print(error)
"""


def test_full_disk_leaves_the_old_checkpoint(saved):
    """The real thing: the kernel refuses to write on, in the middle of the file."""
    model, path = saved
    assert path.stat().st_size > 2 * 4096
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert "the file that was there is untouched" in done.stdout
    assert "File too large" in done.stdout
    assert same(load_model(path), model)
    assert list(path.parent.iterdir()) == [path]


# --- where it goes ----------------------------------------------------------------------------------------------------


def test_devices(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_model(create_model("spikformer_tiny", image_size=16), path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cpu", "auto", torch.device("cpu")):
        assert load_model(path, device=device).device == torch.device("cpu")
    for device in ("cuda", "cuda:0", "gpu", torch.device("cuda", 1), 0, None, ""):
        with pytest.raises(ValueError, match=f"^device={device} must be auto or a device that is here: cpu"):
            load_model(path, device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    went = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda model, device: went.append(str(device)) or model)
    for device in ("auto", "cuda", "cuda:1", torch.device("cuda:0")):
        load_model(path, device)
    assert went == ["cuda", "cuda", "cuda:1", "cuda:0"]


def test_weights_may_hold_the_bytes_of_an_archive(tmp_path):
    """The signature that ends a ZIP archive, as a float32 weight: 6.3e-36."""
    model = create_model("spikformer_tiny", image_size=16)
    for parameter in model.parameters():
        parameter.data.view(-1)[::16] = torch.frombuffer(bytearray(b"PK\x05\x06"), dtype=torch.float32).item()
    save_model(model, tmp_path / "m.safetensors")
    assert zipfile.is_zipfile(tmp_path / "m.safetensors"), "what is mistaken for one"
    assert torch.equal(load_model(tmp_path / "m.safetensors").head.bias, model.head.bias)
