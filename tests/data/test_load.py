"""The data of a checkpoint: what it says of them is what they are, or the difference is named."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit.data import DataInfo, load_data
from spikevit.data.load import DataSource, load_data_of, load_source
from spikevit.training.recipe import DataRecipe, load_recipe


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def fill(root, classes="abc", count=40, start=0):
    """Grey images of 8 × 8 pixels, of which each has a value of its own."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + count):
            Image.fromarray(np.full((8, 8), 80 * k + i, np.uint8)).save(root / name / f"{i:02}.png")
    return root


def about(root=None, files=True, info=(), **source):
    """What a checkpoint that was trained on these data says, as its file holds it."""
    source = {"name": "folder", "image_size": 8, "channels": 1} | source | ({"root": str(root)} if root else {})
    data = load_data(**source)
    described = data.info.to_dict() | {"source": source | {"batch_size": 64, "workers": 0}} | dict(info)
    described |= {"files": data.digests()} if files else {}
    config = {
        "image_size": data.info.image_size,
        "in_channels": data.info.channels,
        "num_classes": data.info.num_classes,
    }
    return json.loads(json.dumps({"data": described, "config": config}))


def seen(part):
    return torch.stack([image for image, _ in part])


# --- its own ---------------------------------------------------------------------------------------------------------


def test_its_own_data_are_those_it_was_trained_on(tmp_path):
    said, data = about(fill(tmp_path), val_fraction=0.3), load_data("folder", root=tmp_path, image_size=8, channels=1)
    again = load_data_of(said)
    assert again.info == data.info and again.test.files == data.test.files
    assert len(again.val) > len(data.val)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert [p.name for p in load_data_of(said, root=moved).test.files] == [p.name for p in data.test.files]
    digits = about(None, name="digits", image_size=[16, 24])
    assert load_data_of(digits).test.images.shape == (360, 1, 16, 24)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("classes", ["b", "a", "c"], r"classes: \('b', 'a', 'c'\) there, \('a', 'b', 'c'\) here"),
        ("classes", ["a", "b"], r"classes: \('a', 'b'\) there, \('a', 'b', 'c'\) here"),
        ("classes", ["a", "b", "c", "d"], r"classes: \('a', 'b', 'c', 'd'\) there"),
        ("image_size", [8, 9], r"image_size: \(8, 9\) there, \(8, 8\) here"),
        ("mean", [0.4], r"mean: \(0.4,\) there, \(0.5,\) here"),
        ("std", [0.4], r"std: \(0.4,\) there, \(0.5,\) here"),
        ("crop_pct", 0.875, r"crop_pct: 0.875 there, 1.0 here"),
        ("interpolation", "bilinear", r"interpolation: 'bilinear' there, 'bicubic' here"),
    ],
)
def test_data_that_are_not_what_it_says_are_refused(tmp_path, field, value, message):
    said = about(fill(tmp_path), info={field: value})
    with pytest.raises(ValueError, match=f"not what the checkpoint says of its own: {message}"):
        load_data_of(said)
    if field == "classes":  # of which only labels know
        assert load_data_of(said, labels=False).info.classes == ("a", "b", "c")


def test_channels_that_are_not_what_it_says_are_refused(tmp_path):
    said = about(fill(tmp_path), info={"channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3})
    with pytest.raises(ValueError, match=r"channels: 3 there, 1 here; mean: \(0.5, 0.5, 0.5\) there"):
        load_data_of(said)


def test_long_lists_of_classes_are_short_in_errors():
    info = {"classes": [f"class {i}" for i in range(1000)]}
    with pytest.raises(ValueError, match=r"classes: \('class 0', .*… \(1000\) there, \('0', '1'") as caught:
        load_data_of(about(None, name="digits", image_size=8, info=info))
    assert len(str(caught.value)) < 350


def test_other_files_are_told(tmp_path):
    said = about(fill(tmp_path))
    parts = {p: len(getattr(load_data_of(said), p)) for p in ("train", "val", "test")}
    fill(tmp_path, "a", 1, start=50)
    data = load_data_of(about(tmp_path))
    (grown,) = [p for p in parts if len(getattr(data, p)) > parts[p]]
    with pytest.warns(UserWarning) as caught:
        load_data_of(said)
    assert str(caught[0].message) == (
        f"other images in {tmp_path} than when the checkpoint was made: {grown} ({parts[grown] + 1} images now)"
    )
    assert len(caught) == 1 and caught[0].filename == __file__
    for path in data.val.files:
        path.unlink()
    with pytest.warns(UserWarning, match=r"val \(0 images now\)"):
        load_data_of(said)


def test_how_all_of_another_folder_is_tested_on(tmp_path):
    said = about(fill(tmp_path / "own"))
    fill(tmp_path / "new", "abc", 20, start=70)
    with pytest.warns(UserWarning, match=f"to test on all of them: --data folder --root {tmp_path}/new$"):
        load_data_of(said, root=tmp_path / "new")
    whole = load_data_of(said, root=tmp_path / "new", name="folder")
    assert whole.tested == "test" and len(whole.test) == sum(1 for _ in (tmp_path / "new").rglob("*.png"))


def test_what_is_not_there_is_not_compared(tmp_path):
    for part in ("train", "val"):
        fill(tmp_path / "all" / part)
    fill(tmp_path / "some" / "val")
    assert load_data_of(about(tmp_path / "all"), root=tmp_path / "some").tested == "val"


def test_a_checkpoint_must_say_where_its_data_are(tmp_path):
    for said in ({}, {"data": None}, {"data": about(fill(tmp_path))["data"] | {"source": None}}):
        with pytest.raises(ValueError, match="does not say what data it was trained on: name a data set"):
            load_data_of(said)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"source": {"name": "digts"}}, "unknown data set 'digts'; did you mean digits"),
        ({"source": {"name": ["digits"]}}, r"data.name=\['digits'\] must be text"),
        ({"source": {"rot": 1}}, "unknown key 'data.rot'; did you mean data.root"),
        ({"source": [1]}, r"data=\[1\] must be a mapping of name, root"),
        ({"source": {"name": "digits", "image_size": 10**9}}, "data.image_size=1000000000 must be a whole number"),
        ({"source": {"name": "digits", "channels": 10**12}}, "must be smaller"),
        ({"files": [1]}, r"data.files=\[1\] must be a mapping"),
        ({"files": {"test": 1}}, "data.files.test=1 must be text"),
        ({"mean": [None]}, r"data.mean\[0\]=None must be a number of at least 0 and at most 1"),
    ],
)
def test_what_it_says_is_checked(tmp_path, change, message):
    said = about(fill(tmp_path))
    with pytest.raises(ValueError, match=message):
        load_data_of({"data": said["data"] | change})


# --- older than parts by name ----------------------------------------------------------------------------------------


def test_a_checkpoint_older_than_parts_by_name_cannot_tell_them(tmp_path):
    flat, train = fill(tmp_path / "flat"), tmp_path / "train-only"
    fill(train / "train")
    for root in (flat, train):
        with pytest.raises(ValueError, match=f"older than parts by file name.*--data folder --root {root}"):
            load_data_of(about(root, files=False))
    data = load_data_of(about(flat, files=False), name="folder", root=flat)
    assert len(data.split(data.tested)) == 120  # all of them


@pytest.mark.parametrize("given", [("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_parts_that_are_folders_are_known_all_the_same(tmp_path, given):
    for i, name in enumerate(given):
        fill(tmp_path / name, count=20, start=20 * i)
    data = load_data_of(about(tmp_path, files=False))
    assert len(data.split(data.tested)) == 60 and data.tested == given[-1]
    assert ("val" in given) == ("val" in data.parts)


def test_digits_of_before_digests_are_what_they_were():
    said = about(None, files=False, name="digits")
    assert len(load_data_of(said).split("test")) == 360


# --- another set by name ---------------------------------------------------------------------------------------------


def test_another_folder_is_tested_whole(tmp_path):
    said = about(fill(tmp_path / "own"), crop_pct=0.5)
    data = load_data_of(said, name="folder", root=fill(tmp_path / "other", count=7))
    assert data.tested == "test" and len(data.split("test")) == 21 and set(data.parts) == {"test"}
    assert data.info == DataInfo.of_checkpoint(said["data"])
    fill(tmp_path / "parts" / "val", count=5)
    fill(tmp_path / "parts" / "train", count=40)
    data = load_data_of(said, name="folder", root=tmp_path / "parts")
    assert data.tested == "val" and len(data.split("val")) == 15 and len(data.split("train")) == 120


def test_it_is_read_and_normalised_as_in_training(tmp_path):
    gradient = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / "own" / "0").mkdir(parents=True)
    Image.fromarray(gradient).save(tmp_path / "own" / "0" / "0.png")
    for i in range(1, 10):
        fill(tmp_path / "own", str(i), 1)
    digits = about(None, name="digits", image_size=8)
    data = load_data_of(digits, name="folder", root=tmp_path / "own")
    assert data.info.mean == (load_data("digits", image_size=8).info.mean) and data.info.channels == 1
    assert torch.equal(seen(data.test)[0, 0], torch.from_numpy(gradient[1::2, 1::2].copy()))  # pixels, not their means


def test_its_classes_must_be_those_of_the_checkpoint(tmp_path):
    said = about(fill(tmp_path / "own"))
    for classes in ("ab", "abcd", "abx"):
        other = fill(tmp_path / classes, classes, 2)
        with pytest.raises(ValueError, match=r"classes: \('a', 'b', 'c'\) there, "):
            load_data_of(said, name="folder", root=other)
        assert len(load_data_of(said, name="folder", root=other, labels=False).test) == 2 * len(classes)
    with pytest.raises(ValueError, match=r"classes: \('a', 'b', 'c'\) there, \('0', '1'"):
        load_data_of(said, name="digits")
    data = load_data_of(said, name="digits", labels=False)
    assert data.test.images.shape == (360, 1, 8, 8) and data.info.mean == (0.5,)


def test_a_network_of_which_only_the_config_is_known(tmp_path):
    said = {"config": {"image_size": [8, 16], "in_channels": 3, "num_classes": 10}}
    data = load_data_of(said, name="digits")
    assert (
        data.test.images.shape == (360, 3, 8, 16)
        and data.info.mean == load_data("digits", image_size=(8, 16)).info.mean * 3
    )
    with pytest.raises(ValueError, match="'folder' has 3 classes; the network is for 10"):
        load_data_of(said, name="folder", root=fill(tmp_path))
    assert load_data_of(said, name="folder", root=tmp_path, labels=False).test[0][0].shape == (3, 8, 16)


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_recipe_says_the_same_as_load_data():
    recipe = load_recipe("digits", ["data.image_size=[8, 16]", "data.val_fraction=0.2"])
    assert isinstance(recipe.data, DataSource) and recipe.data == DataRecipe(image_size=(8, 16), val_fraction=0.2)
    data, same = load_source(vars(recipe.data)), load_data("digits", image_size=(8, 16), val_fraction=0.2)
    assert data.digests() == same.digests() and data.info == same.info


def test_validation_that_is_asked_for_is_there(tmp_path):
    source = {"name": "folder", "root": str(fill(tmp_path / "train").parent), "image_size": 8}
    assert len(load_source(source).val) > 0
    for tested in ("val", "test"):
        if tested == "test":
            fill(tmp_path / "test")
        with pytest.raises(ValueError, match=r"no images in its 'val' split; .*a larger val_fraction sets more aside"):
            load_source(source | {"val_fraction": 1e-6})
