"""Checkpoints: what is kept, what is refused and with which words, and that a file is the old one or the new one."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from spikevit import create_model, load_model, load_weights, save_model
from spikevit.checkpoint import read_about
from spikevit.files import write_atomically

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
    save_model(model, path, data={"classes": ["cat", "dog"]}, accuracy=0.5)
    about = read_about(path)
    assert about["data"] == {"classes": ["cat", "dog"]} and about["accuracy"] == 0.5
    assert (about["format"], about["family"], about["name"]) == (1, "Spikformer", "spikformer_tiny")
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
    with pytest.raises(ValueError, match=r"m\.safetensors is truncated, or not a safetensors file"):
        load_model(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors(tmp_path, metadata):
    save_file({"weight": torch.ones(2)}, tmp_path / "m.safetensors", metadata)
    with pytest.raises(ValueError, match=r"m\.safetensors is not a checkpoint of spikevit; .* load_original"):
        load_model(tmp_path / "m.safetensors")


def test_family_of_a_later_version(tmp_path):
    save_file(
        {"weight": torch.ones(2)}, tmp_path / "m.safetensors", {"spikevit": '{"format": 1, "family": "Metaformer"}'}
    )
    with pytest.raises(ValueError, match="holds a Metaformer, which this version of spikevit does not know"):
        load_model(tmp_path / "m.safetensors")


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.safetensors", str(tmp_path / "none.safetensors"), tmp_path):
        with pytest.raises(ValueError, match=f"there is no checkpoint {path}"):
            load_model(path)


def test_checkpoint_of_another_model(saved):
    other = create_model("qkformer_tiny", in_channels=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match="of another model, spikformer_tiny; this one is qkformer_tiny") as error:
        load_weights(other, saved[1])
    assert "tensors differ, such as blocks.0.attn.proj_in.bn.bias: (48,) there, none here" in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items()), "nothing was loaded"


def test_checkpoint_of_another_size(saved):
    with pytest.raises(ValueError, match="2 tensors differ, such as ") as error:
        load_weights(small(num_classes=7), saved[1])
    for difference in ("head.bias: (10,) there, (7,) here", "head.weight: (10, 16) there, (7, 16) here"):
        assert difference in str(error.value)


# --- the old file or the new one -------------------------------------------------------------------------------------


def half(path):
    path.write_bytes(b"half")
    raise RuntimeError("the writer broke")


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match=r"could not save .*file \(the file that was there is untouched\): the writer"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path], "no temporary file stays"


def test_a_failing_writer_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"\(nothing was left behind\): the writer broke"):
        write_atomically(tmp_path / "file", half)
    assert not list(tmp_path.iterdir())


def test_interruption_leaves_the_old_file(tmp_path):
    def interrupted(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", interrupted)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary):
        assert temporary.parent == path.parent, "a rename is atomic on one file system only"
        temporary.write_text("new")
        assert path.read_text() == "old"

    with path.open() as reader:
        write_atomically(path, write)
        assert reader.read() == "old", "who reads it meanwhile goes on with the old one"
    assert path.read_text() == "new"


def test_about_that_is_not_plain_data(saved):
    model, path = saved
    with pytest.raises((OSError, TypeError), match="not JSON serializable"):
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
