"""CIFAR-10 and CIFAR-100 in all their layouts, in small files with as many rows as a test needs."""

import json
import pickle
import resource
import struct
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit.data import cifar_files, load_data, read_image
from spikevit.data.cifar import CIFAR100

TRAIN, TEST = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]  # files of CIFAR-10
ROWS = 40  # images in each of them, and in CIFAR-100's test


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(cifar_files, "TRAIN", 5 * ROWS)
    monkeypatch.setattr(cifar_files, "TEST", ROWS)


def content(seed, rows=ROWS, classes=10):
    """Images (rows, 3, 32, 32) and labels that the first pixel of each image repeats."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % classes)
    images = rng.integers(0, 256, (rows, 3, 32, 32), dtype=np.uint8)
    images[:, 0, 0, 0] = labels
    return images, labels.tolist()


def python2_pickle(images, key, labels):
    """What Python 2 and its NumPy wrote in 2009: protocol 2, byte strings, numpy.core.multiarray."""
    data = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K" + bytes([len(images)]) + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U" + bytes([len(key)]) + key + numbers + b"u."


def write(folder, layout, name="cifar10"):
    """The files of a data set, as their makers laid them out; CIFAR-100 has coarse labels in front of the fine ones."""
    folder.mkdir()
    fine = name == "cifar100"
    key = b"fine_labels" if fine else b"labels"
    listed = []
    for seed, stem in enumerate(("train", "test") if fine else TRAIN + TEST):
        images, labels = content(seed, 200 if stem == "train" else ROWS, 100 if fine else 10)
        bytes_ = [[label // 5, label] if fine else [label] for label in labels]
        if layout == "binary":
            rows = np.concatenate([np.array(bytes_, np.uint8), images.reshape(-1, 3072)], 1)
            (folder / f"{stem}.bin").write_bytes(rows.tobytes())
        elif layout == "python":
            (folder / stem).write_bytes(python2_pickle(images, key, labels))
        elif layout == "python3":
            about = {b"data": images.reshape(-1, 3072), key: labels, b"filenames": [b"a.png"], b"coarse_labels": [0]}
            (folder / stem).write_bytes(pickle.dumps(about, 4))
        else:
            Image.fromarray(images.transpose(0, 2, 3, 1).reshape(-1, 1024, 3)).save(folder / f"{stem}.png")
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


@pytest.mark.parametrize("layout", ["binary", "python", "python3"])
@pytest.mark.parametrize("inside", [True, False])
def test_layouts_of_cifar100(tmp_path, layout, inside):
    folder = write(tmp_path / "files", layout, "cifar100")
    data = load_data("cifar100", root=folder if inside else tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [180, 20, 40]
    images, labels = content(1, ROWS, 100)
    assert torch.equal(data.test.images, torch.from_numpy(images)) and data.test.labels.tolist() == labels
    for part in (data.train, data.val, data.test):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)  # fine ones, with their images
    seen = {image.numpy().tobytes() for part in (data.train, data.val) for image in part.images}
    assert seen == {image.tobytes() for image in content(0, 200, 100)[0]}
    assert data.info.name == "cifar100" and data.info.num_classes == 100


def test_classes_of_cifar100():
    names = CIFAR100.classes
    assert names == tuple(sorted(set(names))) and len(names) == 100  # they are in the order of the alphabet
    assert (names[0], names[19], names[47], names[58], names[99]) == (
        *("apple", "cattle", "maple_tree", "pickup_truck", "worm"),
    )


def test_both_in_one_folder(tmp_path):
    write(tmp_path / "cifar-10-batches-py", "python")
    write(tmp_path / "cifar-100-python", "python", "cifar100")
    assert [load_data(name, root=tmp_path).info.num_classes for name in ("cifar10", "cifar100")] == [10, 100]


def test_size(tmp_path):
    data = load_data("cifar10", root=write(tmp_path / "files", "binary"), image_size=16)
    assert data.test.images.shape == (40, 3, 16, 16) and data.info.image_size == (16, 16)
    assert data.test.images.dtype == torch.uint8
    with pytest.raises(ValueError, match="channels is 1; cifar10 has 3"):
        load_data("cifar10", root=tmp_path, channels=1)


@pytest.mark.parametrize(
    "layout, name, data",
    [
        ("binary", "data_batch_3.bin", "cifar10"),
        ("python", "test_batch", "cifar10"),
        ("png", "test_batch.png", "cifar10"),
        ("binary", "test.bin", "cifar100"),
        ("python", "train", "cifar100"),
    ],
)
def test_missing_file(tmp_path, layout, name, data):
    folder = write(tmp_path / "files", layout, data)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load_data(data, root=tmp_path)


@pytest.mark.parametrize(
    "layout, name, message, data",
    [
        ("binary", "data_batch_2.bin", "bytes; it must have 122,920: 40 images of 3,073", "cifar10"),
        ("python", "data_batch_2", "cannot be read as a CIFAR-10 batch", "cifar10"),
        ("png", "data_batch_2.png", "cannot be read as a picture", "cifar10"),
        ("png", "test_lables.json", "is not a list of labels", "cifar10"),
        ("binary", "train.bin", "bytes; it must have 614,800: 200 images of 3,074", "cifar100"),
        ("python", "test", "cannot be read as a CIFAR-100 batch", "cifar100"),
    ],
)
def test_truncated_file(tmp_path, layout, name, message, data):
    path = write(tmp_path / "files", layout, data) / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        load_data(data, root=tmp_path)


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
    with pytest.raises(ValueError, match=r"data_batch_5.png has 1024 × 39 pixels; it must have 1024 × 40"):
        load_data("cifar10", root=folder)
    Image.new("RGB", (512, 40)).save(folder / "data_batch_5.png")
    with pytest.raises(ValueError, match=r"data_batch_5.png has 512 × 40 pixels; it must have 1024 × 40"):
        load_data("cifar10", root=folder)


class Hostile:
    def __init__(self, action, argument):
        self.call = action, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("action, named", [(exec, "builtins.exec"), (__import__("os").system, "system")])
@pytest.mark.parametrize("data, name", [("cifar10", "data_batch_1"), ("cifar100", "train")])
def test_hostile_pickle_is_refused_and_not_run(tmp_path, action, named, data, name):
    folder, trace = write(tmp_path / "files", "python", data), tmp_path / "trace"
    argument = f"open({str(trace)!r}, 'w')" if action is exec else f"touch {trace}"
    (folder / name).write_bytes(pickle.dumps({b"data": Hostile(action, argument)}))
    with pytest.raises(ValueError, match=f"{name} cannot be read.*{named}.*refused"):
        load_data(data, root=tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "value, message",
    [
        ([1, 2], "b'data' is a uint8 array"),
        ({b"data": np.zeros((ROWS, 3072)), b"labels": []}, "cannot be read .* an array that is not of uint8"),
        ({b"data": np.zeros((ROWS, 3072), np.uint8)}, "b'labels' is a list"),
        ({b"data": np.zeros((39, 3072), np.uint8), b"labels": [0] * 39}, "has 39 images and 39 labels"),
    ],
)
def test_pickle_of_something_else(tmp_path, value, message):
    folder = write(tmp_path / "files", "python")
    (folder / "data_batch_1").write_bytes(pickle.dumps(value, 4))
    with pytest.raises(ValueError, match=f"data_batch_1 .*{message}"):
        load_data("cifar10", root=tmp_path)


class Called:
    """Pickled as a call of something with arguments, and a state."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


RECONSTRUCT = np.zeros(0).__reduce__()[0]
BYTES = bytes(ROWS * 3072)


def array(shape=(ROWS, 3072), dtype="u1", raw=BYTES, fortran=False, version=1):
    state = (version, shape, dtype if isinstance(dtype, Called) else np.dtype(dtype), fortran, raw)
    return Called(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


def dtype_with(code, *state):
    return Called(np.dtype, code, False, True, state=state)


@pytest.mark.parametrize(
    "value",
    [
        Called(np.ndarray, (ROWS, 3072), np.dtype("u1"), BYTES),  # would read any bytes as whatever dtype says
        Called(np.ndarray, (ROWS, 384), np.dtype("O"), BYTES),
        Called(np.ndarray, (2**40, 3072)),
        array((ROWS, 384), "O"),
        array((ROWS, 384), dtype_with("O", 3, "|", None, None, None, -1, -1, 0)),  # of which flags say: no objects
        array(dtype=dtype_with("V8", 3, "|", None, None, None, 2**40, 1, 0)),
        array(dtype=dtype_with("u1,O", 3, "|", None, None, None, -1, -1, 0)),
        array(dtype="i1"),
        array(dtype="S1"),
        array((ROWS, 3072, 1)),
        array((ROWS * 3072,)),
        array((2**62, 3072)),
        array((2**31, 2**31)),
        array((-ROWS, -3072)),
        array((0, 2**62), raw=b""),
        array((True, ROWS * 3072)),
        array(raw=BYTES[:-1]),
        array(raw=BYTES + b"1"),
        array(raw=[1, 2]),
        array(raw="text"),
        array(version=2),
        array(fortran="yes"),
        array(dtype=Called(np.ndarray, (0,))),
        Called(RECONSTRUCT, np.ndarray, (2**40,), b"b"),
        np.dtype("u1"),
        np.ndarray,
    ],
)
def test_arrays_are_of_uint8_and_as_long_as_they_say(tmp_path, value):
    folder = write(tmp_path / "files", "python")
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": value, b"labels": [0] * ROWS}, 4))
    with pytest.raises(ValueError, match="data_batch_1 (cannot be read|must hold)"):
        load_data("cifar10", root=folder)


def test_arrays_of_both_orders(tmp_path):
    folder = write(tmp_path / "files", "python")
    images, labels = content(0)
    data = np.asfortranarray(images.reshape(ROWS, 3072))
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": data, b"labels": labels}, 4))
    part = load_data("cifar10", root=folder, val_fraction=0).train
    assert torch.equal(part.images[:ROWS], torch.from_numpy(images)) and part.labels[:ROWS].tolist() == labels


@pytest.mark.parametrize(
    "stream, message",
    [
        (b"\x80\x02}r\xff\xff\xff\x0f.", "numbers a value 268435455"),  # 4 GB for a table of what has numbers
        (b"\x80\x02}p268435455\n.", "numbers a value 268435455"),
        (b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"x.", "cannot be read"),
        (b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".", "must hold|cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_a_few_bytes_take_little(tmp_path, stream, message):
    folder = write(tmp_path / "files", "python")
    (folder / "data_batch_1").write_bytes(stream)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"data_batch_1 .*{message}"):
        load_data("cifar10", root=folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_pickle_that_is_too_large_is_not_read(tmp_path):
    folder = write(tmp_path / "files", "python")
    with (folder / "data_batch_1").open("wb") as file:
        file.truncate(2**40)  # all holes
    with pytest.raises(ValueError, match=r"data_batch_1 .* it has 1,099,511,627,776 bytes; such a file has at most"):
        load_data("cifar10", root=folder)
    with (write(tmp_path / "binary", "binary") / "test_batch.bin").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"test_batch.bin has 1,099,511,627,776 bytes; it must have 122,920"):
        load_data("cifar10", root=tmp_path / "binary")


@pytest.mark.parametrize("label", [[0], {}, None, "0", 1.0, True, 10, -1, 10**30])
@pytest.mark.parametrize("layout", ["png", "python"])
def test_labels_are_whole_numbers(tmp_path, label, layout):
    folder = write(tmp_path / "files", layout)
    if layout == "png":
        labels = json.loads((folder / "train_lables.json").read_text())
        (folder / "train_lables.json").write_text(json.dumps([label, *labels[1:]]))
    else:
        images, labels = content(0)
        about = {b"data": images.reshape(ROWS, 3072), b"labels": [label, *labels[1:]]}
        (folder / "data_batch_1").write_bytes(pickle.dumps(about, 4))
    with pytest.raises(ValueError, match="data_batch_1.* has labels other than 0 … 9"):
        load_data("cifar10", root=folder)


def test_images_saved_are_read_as_they_are_in_memory(tmp_path):
    folder = write(tmp_path / "files", "binary")
    for size in (32, 48, (24, 40), 20):
        data = load_data("cifar10", root=folder, image_size=size)
        for i, image in enumerate(content(5)[0][:8]):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "image.png")
            seen = read_image(tmp_path / "image.png", data.info.image_size, 3, 1.0, data.info.interpolation)
            assert torch.equal(seen, data.test.images[i])


def test_sizes_in_memory_are_bounded(tmp_path):
    with pytest.raises(ValueError, match=r"image_size=\(16384, 16384\) must be smaller: 240 images of 3 channels"):
        load_data("cifar10", root=write(tmp_path / "files", "binary"), image_size=16384)


def test_pickle_of_cifar10_is_none_of_cifar100(tmp_path):
    folder = write(tmp_path / "files", "python", "cifar100")
    images, labels = content(0, 200)
    (folder / "train").write_bytes(python2_pickle(images, b"labels", labels))
    with pytest.raises(ValueError, match=r"train must hold a dict whose b'fine_labels' is a list of 200 numbers"):
        load_data("cifar100", root=tmp_path)
    (folder / "train").write_bytes(python2_pickle(images, b"fine_labels", [100, *labels[1:]]))
    with pytest.raises(ValueError, match=r"train has labels other than 0 … 99"):
        load_data("cifar100", root=tmp_path)


def test_no_cifar_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no CIFAR-100.*train.bin and test.bin.*cifar-100-python"):
        load_data("cifar100", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no CIFAR-10.*data_batch_1.bin.*train_lables.json"):
        load_data("cifar10", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere', which is no folder"):
        load_data("cifar10", root=tmp_path / "nowhere")


def hub(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


@pytest.mark.parametrize("data, column", [("cifar10", "label"), ("cifar100", "fine_label")])
def test_hub(monkeypatch, data, column):
    def part(seed):
        images, labels = content(seed)
        return {"img": [Image.fromarray(image.transpose(1, 2, 0)) for image in images], column: labels}

    hub(monkeypatch, lambda name: {f"uoft-cs/{data}": {"train": part(0), "test": part(5)}}[name])
    data = load_data(data)
    assert torch.equal(data.test.images, torch.from_numpy(content(5)[0]))
    assert torch.equal(data.train.images[:, 0, 0, 0].long(), data.train.labels)


def test_hub_out_of_reach(monkeypatch):
    def load(name):
        raise OSError("no network")

    hub(monkeypatch, load)
    with pytest.raises(ConnectionError, match=r"no network.*give root.*data_batch_1.bin"):
        load_data("cifar10")
    with pytest.raises(ConnectionError, match=r"CIFAR-100.*no network.*give root.*train.bin"):
        load_data("cifar100")
