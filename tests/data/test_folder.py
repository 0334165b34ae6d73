"""Images in folders: which part they end in, how they are read, and what is said of bad ones."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit.data import Batches, load_data, make_loader, read_image


def picture(path, width=20, height=10, colour=(255, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


def fill(root, counts, start=0):
    for name, count in counts.items():
        for i in range(start, start + count):
            picture(root / name / f"{i:02}.png", colour=(i, 0, 0))
    return root


def labelled(part):
    return [(path.parent.name, path.name, label) for path, label in zip(part.files, part.labels, strict=True)]


def test_flat_folder_is_cut_80_10_10(tmp_path):
    data = load_data("folder", root=fill(tmp_path, {"dog": 20, "cat": 20}), image_size=8)
    assert data.info.classes == ("cat", "dog")
    assert [len(part) for part in (data.train, data.val, data.test)] == [32, 4, 4]
    assert sorted(data.val.labels) == sorted(data.test.labels) == [0, 0, 1, 1]
    everything = labelled(data.train) + labelled(data.val) + labelled(data.test)
    assert len(set(everything)) == 40 and all(label == (name == "dog") for name, _, label in everything)
    again = load_data("folder", root=tmp_path, image_size=8)
    assert labelled(again.val) == labelled(data.val)


@pytest.mark.parametrize("given", [("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_given_splits(tmp_path, given):
    for i, name in enumerate(given):
        fill(tmp_path / name, {"cat": 10, "dog": 10}, start=10 * i)
    data = load_data("folder", root=tmp_path)
    assert len(data.train) == (20 if "val" in given else 18) and len(data.val) == (20 if "val" in given else 2)
    assert data.val.files[0].parts[-3] == ("val" if "val" in given else "train")
    if "test" in given:
        assert {path.parts[-3] for path in data.test.files} == {"test"}
    else:
        assert data.test is None
    assert not set(data.train.files) & set(data.val.files)


def test_reading(tmp_path):
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20, 1] = 200  # green in the middle third
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(stripes).save(tmp_path / "train" / "a" / "stripes.png")
    picture(tmp_path / "train" / "b" / "x.JPG")
    picture(tmp_path / "train" / "b" / "._x.jpg")
    (tmp_path / "train" / "b" / "notes.txt").write_text("no image")
    data = load_data("folder", root=tmp_path, image_size=10, val_fraction=0)
    image, label = data.train[0]
    assert len(data.train) == 2 and label == 0
    assert image.dtype == torch.uint8 and image.shape == (3, 10, 10)
    assert torch.equal(image, torch.tensor([0, 200, 0]).byte().view(3, 1, 1).expand(3, 10, 10))
    assert data.info.mean == (0.485, 0.456, 0.406)
    grey = load_data("folder", root=tmp_path, image_size=(20, 6), channels=1, val_fraction=0)
    assert grey.train[0][0].shape == (1, 20, 6) and grey.info.mean == grey.info.std == (0.5,)
    assert load_data("folder", root=tmp_path, val_fraction=0).train[1][0].shape == (3, 224, 224)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda root: None, "has no folders"),
        (lambda root: root.rmdir(), "which is no folder; it must hold"),
        (lambda root: fill(root / "val", {"cat": 2}), "has val but no train"),
        (lambda root: (fill(root / "train", {"cat": 2}), (root / "train" / "dog").mkdir()), "train/dog has no images"),
        (lambda root: (root / "train").mkdir(), "train has no folders"),
    ],
)
def test_missing_or_empty(tmp_path, make, message):
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    with pytest.raises(FileNotFoundError, match=message):
        load_data("folder", root=root)


def test_other_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="root is not given"):
        load_data("folder")
    with pytest.raises(ValueError, match="channels is 2"):
        load_data("folder", root=tmp_path, channels=2)


def test_read_image(tmp_path):
    picture(tmp_path / "wide.png", 40, 20)
    assert read_image(str(tmp_path / "wide.png"), (8, 8), 1).shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"gone.png cannot be read as an image.*No such file"):
        read_image(tmp_path / "gone.png", (8, 8), 3)
    with pytest.raises(ValueError, match="channels is 2"):
        read_image(tmp_path / "wide.png", (8, 8), 2)


def test_classes_must_agree(tmp_path):
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "val", {"cat": 2, "fox": 2})
    with pytest.raises(ValueError, match=r"val has other classes than train: missing \['dog'\], new \['fox'\]"):
        load_data("folder", root=tmp_path)


@pytest.fixture
def broken(tmp_path):
    """Six images, of which 02 is no image and 04 is cut short."""
    fill(tmp_path / "train", {"cat": 6})
    (tmp_path / "train" / "cat" / "02.png").write_bytes(b"nonsense")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "full.png")
    (tmp_path / "train" / "cat" / "04.png").write_bytes((tmp_path / "full.png").read_bytes()[:-2000])
    return tmp_path


def loader(root, on_corrupt, batch_size, workers=0):
    data = load_data("folder", root=root, image_size=8, val_fraction=0, on_corrupt=on_corrupt)
    batches = Batches(6, batch_size, seed=0, shuffle=False, drop_last=False)
    return data.train, make_loader(data.train, batches, workers)


def test_corrupted_image_is_refused_by_name(broken):
    images, _ = loader(broken, "error", 6)
    for index in (2, 4):
        with pytest.raises(ValueError, match=f"0{index}.png cannot be read as an image.*on_corrupt='skip'"):
            images[index]
    assert images[0][1] == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupted_image_is_skipped_and_counted(broken, workers):
    images, batches = loader(broken, "skip", 3, workers)
    if workers == 0:
        with pytest.warns(UserWarning, match="is left out") as caught:
            sizes = [len(labels) for _, labels in batches]
        assert sorted(str(warning.message).split(".png")[0][-2:] for warning in caught) == ["02", "04"]
    else:
        sizes = [len(labels) for _, labels in batches]
    assert sizes == [2, 2] and images.skipped == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(labels) for _, labels in batches] == [2, 2]  # named once
    assert images.skipped == 2


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_whole_batch_lost_is_an_error(broken):
    with pytest.raises(RuntimeError, match="all 1 images of a batch are corrupted"):
        list(loader(broken, "skip", 1)[1])
