"""The description of a data set, images in memory, splits, and names."""

import json

import numpy as np
import pytest
import torch

from spikevit.data import Data, DataInfo, ImageSet, load_data
from spikevit.data.sets import stratified

INFO = DataInfo("toy", ("cat", "dog"), 3, (4, 4), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def image_set(n):
    return ImageSet(torch.arange(n * 48).view(n, 3, 4, 4).to(torch.uint8), torch.arange(n) % 2)


def test_info_survives_json():
    again = DataInfo.from_dict(json.loads(json.dumps(INFO.to_dict())))
    assert again == INFO and again.num_classes == 2 and isinstance(again.mean, tuple)


def test_info_of_before_crop_pct_is_of_whole_images():
    old = {key: value for key, value in INFO.to_dict().items() if key != "crop_pct"}
    assert DataInfo.from_dict(old) == INFO and INFO.crop_pct == 1
    assert DataInfo.from_dict({**old, "crop_pct": 0.875}).crop_pct == 0.875


@pytest.mark.parametrize(
    "change, message",
    [
        ({"men": 1}, "men.*did you mean data.mean"),
        ({"mean": None}, "lacks mean"),
        ({"mean": [0.5]}, r"mean is \(0.5,\)"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
    ],
)
def test_info_refuses(change, message):
    values = {**INFO.to_dict(), **change}
    with pytest.raises(ValueError, match=message):
        DataInfo.from_dict({key: value for key, value in values.items() if value is not None})


def test_images_one_by_one_and_in_batches():
    images = image_set(5)
    image, label = images[3]
    batch, labels = images.__getitems__([3, 0])
    assert image.dtype == torch.uint8 and type(label) is int and len(images) == 5
    assert torch.equal(batch[0], image) and labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), "images are torch.float32"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(3).long(), r"labels are torch.int64 \(3,\).*\(2,\)"),
    ],
)
def test_images_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels)


def test_split():
    data = Data(INFO, image_set(4), image_set(0))
    assert data.split("train") is data.train
    with pytest.raises(ValueError, match="no images in its 'val' split; it has train \\(4 images\\)"):
        data.split("val")
    with pytest.raises(ValueError, match="no images in its 'test' split"):
        data.split("test")
    with pytest.raises(ValueError, match="did you mean train"):
        data.split("tran")


def test_digests_say_what_the_parts_hold(tmp_path):
    class Anything:
        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

    data = Data(INFO, image_set(4), Anything(7))
    found = data.digests()
    assert set(found) == {"train", "val"} and all(len(bytes.fromhex(text)) == 32 for text in found.values())
    assert found == Data(INFO, image_set(4), Anything(7)).digests()
    images, labels = image_set(4).images, image_set(4).labels
    changed = images.clone()
    changed[3, 2, 3, 3] += 1
    others = [
        *(ImageSet(changed, labels), ImageSet(images, 1 - labels), image_set(3)),
        *(ImageSet(images.view(4, 3, 2, 8), labels), Anything(4)),
    ]
    assert len({found["train"], *(Data(INFO, other).digests()["train"] for other in others)}) == 6
    assert found["val"] != Data(INFO, None, Anything(8)).digests()["val"]


def test_digests_of_files_are_those_of_their_names(tmp_path):
    for root in ("one", "other"):
        for i in range(6):
            path = tmp_path / root / "train" / "cat" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(root)  # what is in them is not read
    one, other = (load_data("folder", root=tmp_path / root, val_fraction=0).digests() for root in ("one", "other"))
    assert one == other and set(one) == {"train", "val"}
    (tmp_path / "other" / "train" / "cat" / "3.png").rename(tmp_path / "other" / "train" / "cat" / "7.png")
    assert load_data("folder", root=tmp_path / "other", val_fraction=0).digests()["train"] != one["train"]


def test_data_may_lack_any_part():
    data = Data(INFO, test=image_set(3))
    assert data.tested == "test" and len(data.split("test")) == 3 and set(data.digests()) == {"test"}
    assert Data(INFO, val=image_set(3)).tested == "val"
    with pytest.raises(ValueError, match=r"no images in its 'train' split; it has test \(3 images\)"):
        data.split("train")


@pytest.mark.parametrize("name", ["cat\x1b[2J", "\n", "a\u202eb", "\ud800"])
def test_names_of_classes_can_be_printed(tmp_path, name):
    with pytest.raises(ValueError, match="characters that cannot be printed: take another name"):
        DataInfo("toy", (name, "dog"), 1, (4, 4), (0.5,), (0.5,))
    if name != "\ud800":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_text("")
        with pytest.raises(ValueError, match="characters that cannot be printed"):
            load_data("folder", root=tmp_path)


@pytest.mark.parametrize("std", [0, -0.1, float("nan"), float("inf")])
def test_a_deviation_is_above_0(std):
    with pytest.raises(ValueError, match=r"std\[1\]=.* must be a finite number"):
        DataInfo("toy", ("cat",), 3, (4, 4), (0.5,) * 3, (0.2, std, 0.2))


def test_stratified_takes_of_each_class_in_proportion():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    rest, taken = stratified(labels, 0.1, seed=1)
    assert np.bincount(labels[taken]).tolist() == [10, 5, 1]
    assert sorted([*rest, *taken]) == list(range(160))
    assert not np.array_equal(taken, stratified(labels, 0.1, seed=2)[1])
    assert len(stratified(labels, 0.0, seed=1)[1]) == 0


def test_stratified_leaves_one_of_each_class():
    rest, _ = stratified([0, 1, 1, 2], 0.9, seed=0)
    assert len(rest) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "cifar1"}, "unknown data set 'cifar1'; did you mean cifar10"),
        ({"on_corrupt": "skp"}, "did you mean skip"),
        ({"val_fraction": 1.0}, "val_fraction=1.0 must be a finite number of at least 0 and below 1"),
        ({"channels": 0}, "channels=0 must be"),
        ({"image_size": 0}, "image_size=0 must be"),
        ({"image_size": (16384, 16385)}, "16,384"),
        ({"image_size": (8, 8, 3)}, r"image_size=\(8, 8, 3\) must be a whole number.* or a list of 2"),
        ({"on_corrupt": True}, "unknown on_corrupt True"),
        ({"root": "somewhere"}, "root is 'somewhere'; digits come with"),
        ({"crop_pct": 0.5}, "crop_pct=0.5 must be 1.0: images of 'digits' are seen whole"),
    ],
)
def test_load_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        load_data(**{"name": "digits", **options})


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"sklearn cannot be imported.*spikevit\[train\]"):
        load_data("digits")
