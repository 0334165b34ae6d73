"""Images in folders: which part they end in, how they are read, and what is said of bad ones."""

import hashlib
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit.data import Batches, load_data, make_loader, read_image
from spikevit.data.batches import Draw
from spikevit.data.folder import FolderSet, RandomParts, random_box
from spikevit.data.load import load_source


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


def share(folder, name):
    """Where "folder/name" lies between 0 and 1: its SHA-256 as a number with 13 digits behind the point, base 16."""
    digits = hashlib.sha256(f"{folder}/{name}".encode()).hexdigest()[:13]
    return sum(int(digit, 16) / 16 ** (i + 1) for i, digit in enumerate(digits))


def parts_by_hand(images, *bounds):
    """(folder, name) of each image, by the bound of its share."""
    found = [set() for _ in bounds]
    for folder, name in images:
        found[next(i for i, bound in enumerate(bounds) if share(folder, name) < bound)].add((folder, name))
    return found


def names(part):
    return {(path.parent.name, path.name) for path in part.files}


def test_parts_of_a_flat_folder_follow_from_names(tmp_path):
    data = load_data("folder", root=fill(tmp_path, {"dog": 60, "cat": 60}), image_size=8, val_fraction=0.2)
    assert data.info.classes == ("cat", "dog")
    everything = {(name, f"{i:02}.png") for name in ("cat", "dog") for i in range(60)}
    test, val, train = parts_by_hand(everything, 0.1, 0.3, 1)
    assert (names(data.test), names(data.val), names(data.train)) == (test, val, train)
    assert 4 < len(test) < 24 and 12 < len(val) < 36 and len(test) + len(val) + len(train) == 120
    for part in (data.train, data.val, data.test):
        assert labelled(part) == sorted(labelled(part)) and all(k == (n == "dog") for n, _, k in labelled(part))


def test_a_new_image_moves_no_other(tmp_path):
    def parts(root):
        data = load_data("folder", root=root, image_size=8)
        return {image: part for part in ("train", "val", "test") for image in names(getattr(data, part))}

    flat, inside = fill(tmp_path / "flat", {"dog": 40, "cat": 40}), tmp_path / "inside"
    fill(inside / "train", {"dog": 40, "cat": 40})
    fill(inside / "test", {"dog": 1, "cat": 1}, start=90)
    for root, below in ((flat, flat), (inside, inside / "train")):
        before = parts(root)
        for added in (1, 3):
            fill(below, {"cat": added}, start=50 + added)
            after = parts(root)
            assert len(after) == 80 + 2 * (root == inside) + {1: 1, 3: 4}[added]
            assert {image: after[image] for image in before} == before
        (below / "dog" / "07.png").unlink()
        later = parts(root)
        assert later == {image: part for image, part in after.items() if image != ("dog", "07.png")}
    copied = tmp_path / "elsewhere"
    shutil.copytree(flat, copied)
    assert parts(copied) == parts(flat)  # where the folder lies says nothing


@pytest.mark.parametrize("given", [("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_given_splits(tmp_path, given):
    for i, name in enumerate(given):
        fill(tmp_path / name, {"cat": 30, "dog": 30}, start=30 * i)
    data = load_data("folder", root=tmp_path)
    own = {(name, f"{i:02}.png") for name in ("cat", "dog") for i in range(30)}
    val, train = (set(), own) if "val" in given else parts_by_hand(own, 0.1, 1)
    assert names(data.train) == train and len(data.val) == (60 if "val" in given else len(val))
    assert data.val.files[0].parts[-3] == ("val" if "val" in given else "train")
    if "test" in given:
        assert {path.parts[-3] for path in data.test.files} == {"test"} and len(data.test) == 60
    else:
        assert data.test is None
    assert not set(data.train.files) & set(data.val.files)


@pytest.mark.parametrize("given", [("val",), ("test",), ("val", "test")])
def test_a_folder_to_test_on(tmp_path, given):
    for name in given:
        fill(tmp_path / name, {"cat": 3, "dog": 4})
    data = load_data("folder", root=tmp_path, image_size=8)
    assert data.info.classes == ("cat", "dog") and data.train is None and set(data.parts) == set(given)
    assert data.tested == given[-1] and len(data.split(data.tested)) == 7
    assert data.split(data.tested)[3][1] == 1
    have = ", ".join(f"{name} \\(7 images\\)" for name in given)
    with pytest.raises(ValueError, match=f"no images in its 'train' split; it has {have}: .* can have its own train/"):
        data.split("train")


def test_a_part_without_images_says_what_to_do(tmp_path):
    (name,) = [f"{i:02}.png" for i in range(60) if share("cat", f"{i:02}.png") > 0.2][:1]
    picture(tmp_path / "cat" / name)
    data = load_data("folder", root=tmp_path, image_size=8)
    assert [len(part) for part in (data.train, data.val, data.test)] == [1, 0, 0]
    with pytest.raises(
        ValueError, match=r"no images in its 'val' split; it has train \(1 images\): .* larger val_frac"
    ):
        data.split("val")
    with pytest.raises(ValueError, match=r"no images in its 'test' split.*can have its own test/"):
        data.split("test")
    source = {"name": "folder", "root": str(tmp_path), "image_size": 8}
    with pytest.raises(ValueError, match="no images in its 'test' split"):
        load_source(source)  # as training begins
    (tmp_path / "train").mkdir()
    shutil.move(tmp_path / "cat", tmp_path / "train" / "cat")
    with pytest.raises(ValueError, match="no images in its 'val' split"):
        load_source(source)


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
        (lambda root: (root / "val").mkdir(), "val has no folders"),
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
    with pytest.raises(ValueError, match=r"gone.png cannot be read as an image: there is no image"):
        read_image(tmp_path / "gone.png", (8, 8), 3)
    with pytest.raises(ValueError, match="channels is 2"):
        read_image(tmp_path / "wide.png", (8, 8), 2)


# --- which part of an image is seen ---------------------------------------------------------------------------------


def map_of_places(path, width, height):
    """An image whose red is x and whose green is y, each from 0 to 255 over the whole side."""
    y, x = np.mgrid[:height, :width]
    places = np.stack([(x + 0.5) / width * 255, (y + 0.5) / height * 255, 0 * x], -1).round().astype(np.uint8)
    Image.fromarray(places).save(path)
    return path


@pytest.mark.parametrize(
    "width, height, size, crop_pct, share",
    [
        (200, 100, (28, 28), 0.875, (7 / 16, 7 / 8)),  # height to 32, width to 64; 28 of 64 by 28 of 32
        (100, 200, (28, 28), 0.875, (7 / 8, 7 / 16)),
        (512, 512, (224, 224), 0.875, (7 / 8, 7 / 8)),  # to 256; 224 of them
        (300, 100, (10, 20), 0.5, (1 / 3, 1 / 2)),  # to 60 × 20, for 40 × 20 must be covered; 20 of 60 by 10 of 20
        (200, 100, (26, 26), 1.0, (1 / 2, 1.0)),
    ],
)
def test_the_middle_is_seen(tmp_path, width, height, size, crop_pct, share):
    seen = read_image(map_of_places(tmp_path / "map.png", width, height), size, 3, crop_pct).float() / 255
    assert seen.shape == (3, *size)
    for axis, part, pixels in ((0, share[0], size[1]), (1, share[1], size[0])):
        line = seen[axis].mean(0) if axis == 0 else seen[axis].mean(1)
        centres = 0.5 + part * ((torch.arange(pixels) + 0.5) / pixels - 0.5)
        inner = slice(1, -1)  # bicubic, the outermost pixels are made of what is there
        assert (line - centres)[inner].abs().max() < 0.004  # one of 255, and rounding


def test_224_of_256_pixels_are_cut_out_as_they_are(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    seen = read_image(tmp_path / "noise.png", (224, 224), 3, 0.875)
    assert torch.equal(seen, torch.from_numpy(noise[16:240, 38:262]).permute(2, 0, 1))


def test_boxes_have_the_areas_shapes_and_places_asked_for():
    rng = np.random.RandomState(0)
    boxes = np.array([random_box(1000, 1000, (0.1, 0.6), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    top, left, height, width = boxes.T
    area, aspect = height * width / 1e6, np.log(width / height) / np.log(4 / 3)
    assert 0.099 < area.min() < 0.105 and 0.595 < area.max() < 0.601  # all fit: 0.6 · 4/3 is less than 1
    assert -1.01 < aspect.min() < -0.99 and 0.99 < aspect.max() < 1.01
    # of 4000 draws from a uniform distribution over a length of l, the mean is within five of l/√(12 · 4000)
    for value, mean, length in (
        *((area, 0.35, 0.5), (aspect, 0, 2)),
        *((top / (1000 - height), 0.5, 1), (left / (1000 - width), 0.5, 1)),
    ):
        assert abs(value.mean() - mean) < 5 * length / (12 * 4000) ** 0.5
    assert (top + height <= 1000).all() and (left + width <= 1000).all()


@pytest.mark.parametrize(
    "height, width, box",
    [
        (10, 100, (0, 43, 10, 13)),  # too wide: 10 · 4/3 of the width
        (100, 10, (43, 0, 13, 10)),  # too high: 10 ÷ 3/4 of the height
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_a_box_that_never_fits_is_the_middle(height, width, box):
    assert random_box(height, width, (1.0, 1.0), (3 / 4, 4 / 3), np.random.RandomState(0)) == box


def parts(tmp_path, n=4):
    files = [map_of_places(tmp_path / f"{i}.png", 200, 100) for i in range(n)]
    return RandomParts(FolderSet(files, list(range(n)), (8, 16), 3, "error"), (0.08, 1.0), (3 / 4, 4 / 3))


def test_a_part_is_cut_from_the_image_and_resized(tmp_path):
    images = parts(tmp_path)
    for place in range(50):
        seen, label = images[Draw(2, (0, 1, place))]
        assert label == 2 and seen.shape == (3, 8, 16)
        top, left, height, width = random_box(
            100, 200, (0.08, 1.0), (3 / 4, 4 / 3), np.random.RandomState([0, 1, place])
        )
        x = (left + (torch.arange(16) + 0.5) / 16 * width) / 200 * 255
        y = (top + (torch.arange(8) + 0.5) / 8 * height) / 100 * 255
        assert (seen[0, :, 1:-1].float() - x[1:-1]).abs().max() < 1.5
        assert (seen[1, 1:-1].float() - y[1:-1, None]).abs().max() < 1.5


def test_each_draw_has_its_own_part(tmp_path):
    images = parts(tmp_path)
    draws = [Draw(0, seed) for seed in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))]
    seen = [images[draw][0] for draw in draws]
    assert len({image.numpy().tobytes() for image in seen}) == 4  # repeats, epochs and seeds differ
    assert torch.equal(images[Draw(1, (0, 0, 0))][0], seen[0])  # nothing else decides


def test_parts_do_not_depend_on_workers_or_processes(tmp_path):
    images = parts(tmp_path, 12)

    def loaded(workers, rank=0, world_size=1):
        how = {"seed": 3, "shuffle": True, "drop_last": True, "repeats": 2, "draws": True}
        order = Batches(12, 3, **how, rank=rank, world_size=world_size)
        order.set_epoch(2)
        return list(make_loader(images, order, workers))

    alone = loaded(0)
    halves = [loaded(1), [batch for pair in zip(loaded(0, 0, 2), loaded(0, 1, 2), strict=True) for batch in pair]]
    for other in halves:
        for (x, labels), (y, same) in zip(alone, other, strict=True):
            assert torch.equal(x, y) and torch.equal(labels, same)
    (x, labels), _ = alone[0], alone[1]
    assert labels[0] == labels[1] and not torch.equal(x[0], x[1])  # a repeat is another part


@pytest.mark.filterwarnings("ignore:.*left out")
def test_parts_of_corrupted_images_are_skipped(broken):
    images = load_data("folder", root=broken, image_size=8, val_fraction=0, on_corrupt="skip").train
    seen = RandomParts(images, (0.5, 1.0), (1.0, 1.0))
    assert [seen[Draw(i, (0, 0, i))] is None for i in range(6)] == [False, False, True, False, True, False]
    assert images.skipped == 2 and len(seen) == 6


def test_crop_pct_is_part_of_the_description(tmp_path):
    fill(tmp_path / "train", {"cat": 1})
    fill(tmp_path / "val", {"cat": 1})
    map_of_places(tmp_path / "train" / "cat" / "00.png", 64, 64)
    data = load_data("folder", root=tmp_path, image_size=8, crop_pct=0.5)
    assert data.info.crop_pct == 0.5
    assert torch.equal(data.train[0][0], read_image(tmp_path / "train" / "cat" / "00.png", (8, 8), 3, 0.5))
    assert not torch.equal(data.train[0][0], read_image(tmp_path / "train" / "cat" / "00.png", (8, 8), 3))
    with pytest.raises(ValueError, match=r"crop_pct=0 must be a number above 0 and at most 1"):
        load_data("folder", root=tmp_path, crop_pct=0)


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
        with pytest.raises(
            ValueError, match=f"0{index}.png cannot be read as an image.*data.on_corrupt=skip in a recipe"
        ):
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


# --- what lies in the folder of a class besides ----------------------------------------------------------------------


def test_every_format_that_is_read_is_listed(tmp_path):
    """By its suffix, in any case."""
    from PIL import features

    kinds = {"PNG": "png apng", "JPEG": "jpg jpeg jpe jfif", "BMP": "bmp", "PPM": "ppm pgm pbm pnm", "GIF": "gif"}
    kinds |= {"TIFF": "tif tiff"} | ({"WEBP": "webp"} if features.check("webp") else {})
    (tmp_path / "a").mkdir()
    named = [(kind, suffix) for kind, suffixes in kinds.items() for suffix in suffixes.split()]
    for i, (kind, suffix) in enumerate(named):
        mode = "1" if suffix == "pbm" else "L" if suffix == "pgm" else "RGB"
        Image.new(mode, (9, 9), 255 if mode != "RGB" else (255, 255, 255)).save(
            tmp_path / "a" / f"{i:02}.{suffix}", kind
        )
    (tmp_path / "a" / "00.png").rename(tmp_path / "a" / "00.PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data("folder", root=tmp_path, image_size=8, val_fraction=0)
    found = [image for part in data.parts.values() for image in (part[i][0] for i in range(len(part)))]
    assert len(found) == len(named) and all((image > 250).all() for image in found)


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    fill(tmp_path / "train", {"cat": 3, "dog": 3})
    fill(tmp_path / "val", {"cat": 1, "dog": 1})
    before = load_data("folder", root=tmp_path, image_size=8).digests()
    for name in ("train/cat/a.heic", "train/cat/b.HEIC", "val/dog/c.heic", "train/dog/notes.txt", "train/dog/README"):
        (tmp_path / name).write_text("")
    picture(tmp_path / "train" / "cat" / "more" / "01.png")
    for litter in ("Thumbs.db", ".DS_Store", "._00.png", "desktop.ini"):
        (tmp_path / "train" / "cat" / litter).write_text("")
    (tmp_path / "train" / "__MACOSX").mkdir()
    with pytest.warns(UserWarning) as caught:
        data = load_data("folder", root=tmp_path, image_size=8)
    (line,) = [str(warning.message) for warning in caught]
    assert line.startswith(f"{tmp_path}: left out 3 .heic (train/cat/a.heic, …), 1 folder (train/cat/more), ")
    assert "1 file without a suffix (train/dog/README), 1 .txt (train/dog/notes.txt); images are files" in line
    assert len(data.train) == 6 and data.digests() == before and data.info.classes == ("cat", "dog")


def test_litter_alone_is_no_word_worth(tmp_path):
    fill(tmp_path, {"cat": 3})
    for litter in ("Thumbs.db", ".DS_Store", "desktop.ini", ".hidden"):
        (tmp_path / "cat" / litter).write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data("folder", root=tmp_path, image_size=8, val_fraction=0)


def test_a_class_without_images_says_what_it_has(tmp_path):
    fill(tmp_path, {"cat": 3})
    (tmp_path / "dog").mkdir()
    for i in range(12):
        (tmp_path / "dog" / f"{i}.heic").write_text("")
    with pytest.raises(
        FileNotFoundError, match=r"dog has no images \(\.png, .*\); it has 12 \.heic \(dog/0\.heic, …\)"
    ):
        load_data("folder", root=tmp_path)


@pytest.mark.parametrize(
    ("made", "wrong", "right"),
    [
        (["train", "valid", "test"], "valid", "val"),
        (["train", "Val"], "Val", "val"),
        (["Train"], "Train", "train"),
        (["training", "validation"], "training", "train"),
        (["train", "testing"], "testing", "test"),
    ],
)
def test_a_part_by_another_name_is_refused(tmp_path, made, wrong, right):
    for name in made:
        fill(tmp_path / name, {"cat": 2, "dog": 2})
    with pytest.raises(ValueError, match=f"its folder '{wrong}' must be called '{right}' to be read"):
        load_data("folder", root=tmp_path, image_size=8)


def test_a_class_may_have_such_a_name(tmp_path):
    fill(tmp_path, {"Test": 9, "dev": 9})
    assert load_data("folder", root=tmp_path, image_size=8).info.classes == ("Test", "dev")


def test_data_in_words(tmp_path):
    fill(tmp_path / "pets/train", {"cat": 6, "dog": 5})
    fill(tmp_path / "pets/val", {"cat": 2, "dog": 1})
    data = load_data("folder", root=tmp_path / "pets", image_size=(8, 16), channels=1)
    said = "2 classes (cat, dog); 11 train, 3 val images of 8 × 16, grey"
    assert data.in_words(f"{tmp_path}/pets/") == f"pets: {said}"
    assert data.in_words() == f"folder: {said}"
