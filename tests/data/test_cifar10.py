"""CIFAR-10 in its three layouts, in small files with as many rows as a test needs."""

import json
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit.data import cifar10_files, load_data
from spikevit.data.cifar10_files import TEST, TRAIN

ROWS = 40


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(cifar10_files, "ROWS", ROWS)


def content(seed):
    """Images (ROWS, 3, 32, 32) and labels that the first pixel of each image repeats."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(ROWS) % 10)
    images = rng.integers(0, 256, (ROWS, 3, 32, 32), dtype=np.uint8)
    images[:, 0, 0, 0] = labels
    return images, labels.tolist()


def python2_pickle(images, labels):
    """What Python 2 and its NumPy wrote in 2009: protocol 2, byte strings, numpy.core.multiarray."""
    data = images.reshape(ROWS, 3072).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K" + bytes([ROWS]) + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def write(folder, layout):
    folder.mkdir()
    listed = []
    for seed, stem in enumerate(TRAIN + TEST):
        images, labels = content(seed)
        if layout == "binary":
            rows = np.concatenate([np.array(labels, np.uint8)[:, None], images.reshape(ROWS, 3072)], 1)
            (folder / f"{stem}.bin").write_bytes(rows.tobytes())
        elif layout == "python":
            (folder / stem).write_bytes(python2_pickle(images, labels))
        elif layout == "python3":
            (folder / stem).write_bytes(pickle.dumps({b"data": images.reshape(ROWS, 3072), b"labels": labels}, 4))
        else:
            picture = images.transpose(0, 2, 3, 1).reshape(ROWS, 1024, 3)
            Image.fromarray(picture).save(folder / f"{stem}.png")
        listed += labels
    if layout == "png":
        (folder / "train_lables.json").write_text(json.dumps(listed[:-ROWS]))
        (folder / "test_lables.json").write_text(json.dumps(listed[-ROWS:]))
    return folder


@pytest.mark.parametrize("layout", ["binary", "python", "python3", "png"])
@pytest.mark.parametrize("inside", [True, False])
def test_layouts(tmp_path, layout, inside):
    folder = write(tmp_path / "files", layout)
    data = load_data("cifar10", root=folder if inside else tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [180, 20, 40]
    images, labels = content(5)
    assert torch.equal(data.test.images, torch.from_numpy(images)) and data.test.labels.tolist() == labels
    for part in (data.train, data.val, data.test):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)  # labels stayed with their images
    assert data.val.labels.bincount().tolist() == [2] * 10
    seen = {image.numpy().tobytes() for part in (data.train, data.val) for image in part.images}
    assert seen == {image.tobytes() for seed in range(5) for image in content(seed)[0]}
    assert data.info.classes[3] == "cat" and data.info.channels == 3


def test_size(tmp_path):
    data = load_data("cifar10", root=write(tmp_path / "files", "binary"), image_size=16)
    assert data.test.images.shape == (40, 3, 16, 16) and data.info.image_size == (16, 16)
    assert data.test.images.dtype == torch.uint8
    with pytest.raises(ValueError, match="channels is 1; cifar10 has 3"):
        load_data("cifar10", root=tmp_path, channels=1)


@pytest.mark.parametrize(
    "layout, name", [("binary", "data_batch_3.bin"), ("python", "test_batch"), ("png", TEST[0] + ".png")]
)
def test_missing_file(tmp_path, layout, name):
    folder = write(tmp_path / "files", layout)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load_data("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    "layout, name, message",
    [
        ("binary", "data_batch_2.bin", "bytes; it must have 122,920"),
        ("python", "data_batch_2", "cannot be read as a CIFAR-10 batch"),
        ("png", "data_batch_2.png", "cannot be read as a picture"),
        ("png", "test_lables.json", "is no JSON"),
    ],
)
def test_truncated_file(tmp_path, layout, name, message):
    path = write(tmp_path / "files", layout) / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        load_data("cifar10", root=tmp_path)


def test_wrong_contents(tmp_path):
    folder = write(tmp_path / "files", "png")
    names = folder / "train_lables.json"
    labels = json.loads(names.read_text())
    for wrong, message in ((labels[1:], "has 199 labels; it must be a list of 200"), ({"a": 1}, "has no list")):
        names.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=f"train_lables.json {message}"):
            load_data("cifar10", root=folder)
    names.write_text(json.dumps([10, *labels[1:]]))
    with pytest.raises(ValueError, match=r"data_batch_1.png has labels other than"):
        load_data("cifar10", root=folder)
    names.write_text(json.dumps(labels))
    Image.new("RGB", (1024, 39)).save(folder / "data_batch_5.png")
    with pytest.raises(ValueError, match=r"data_batch_5.png has 39 images and 40 labels"):
        load_data("cifar10", root=folder)
    Image.new("RGB", (512, 40)).save(folder / "data_batch_5.png")
    with pytest.raises(ValueError, match=r"data_batch_5.png is 512 pixels wide"):
        load_data("cifar10", root=folder)


class Hostile:
    def __init__(self, action, argument):
        self.call = action, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("action, named", [(exec, "builtins.exec"), (__import__("os").system, "system")])
def test_hostile_pickle_is_refused_and_not_run(tmp_path, action, named):
    folder, trace = write(tmp_path / "files", "python"), tmp_path / "trace"
    argument = f"open({str(trace)!r}, 'w')" if action is exec else f"touch {trace}"
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Hostile(action, argument)}))
    with pytest.raises(ValueError, match=f"data_batch_1 cannot be read.*{named}.*refused"):
        load_data("cifar10", root=tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "value, message",
    [
        ([1, 2], "b'data' is a uint8 array"),
        ({b"data": np.zeros((ROWS, 3072)), b"labels": []}, "b'data' is a uint8 array"),
        ({b"data": np.zeros((ROWS, 3072), np.uint8)}, "b'labels' is a list"),
        ({b"data": np.zeros((39, 3072), np.uint8), b"labels": [0] * 39}, "has 39 images and 39 labels"),
    ],
)
def test_pickle_of_something_else(tmp_path, value, message):
    folder = write(tmp_path / "files", "python")
    (folder / "data_batch_1").write_bytes(pickle.dumps(value, 4))
    with pytest.raises(ValueError, match=f"data_batch_1 .*{message}"):
        load_data("cifar10", root=tmp_path)


def test_no_cifar_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no CIFAR-10.*data_batch_1.bin.*train_lables.json"):
        load_data("cifar10", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere', which is no folder"):
        load_data("cifar10", root=tmp_path / "nowhere")


def hub(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def test_hub(monkeypatch):
    def part(seed):
        images, labels = content(seed)
        return {"img": [Image.fromarray(image.transpose(1, 2, 0)) for image in images], "label": labels}

    hub(monkeypatch, lambda name: {"train": part(0), "test": part(5)})
    data = load_data("cifar10")
    assert torch.equal(data.test.images, torch.from_numpy(content(5)[0]))
    assert torch.equal(data.train.images[:, 0, 0, 0].long(), data.train.labels)


def test_hub_out_of_reach(monkeypatch):
    def load(name):
        raise OSError("no network")

    hub(monkeypatch, load)
    with pytest.raises(ConnectionError, match=r"no network.*give root.*data_batch_1.bin"):
        load_data("cifar10")
