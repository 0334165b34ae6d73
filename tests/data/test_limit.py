"""data.limit: so many images of each part, of all classes alike, the same ones every time."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from spikevit.checkpoint import read_about
from spikevit.data import load_data
from spikevit.data.load import load_data_of
from spikevit.data.sets import balanced
from spikevit.training.recipe import load_recipe
from spikevit.training.run import train


@pytest.mark.parametrize(
    ("sizes", "count", "kept"),
    [
        ([100, 100, 100], 30, [10, 10, 10]),
        ([100, 100, 100], 31, None),  # one class has one more
        ([100, 5, 100], 45, [20, 5, 20]),  # a class has no more to give
        ([3, 3], 6, [3, 3]),
        ([10, 10, 10, 10], 2, None),  # fewer than classes
    ],
)
def test_balanced(sizes, count, kept):
    """In files the classes come one behind the other, as here."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    chosen = balanced(labels, count)
    found = Counter(labels[chosen].tolist())
    assert len(chosen) == count == len(set(chosen.tolist())) and sorted(chosen) == chosen.tolist()
    if kept:
        assert [found[i] for i in range(len(sizes))] == kept
    else:
        counts = [found[i] for i in range(len(sizes))]
        assert max(counts) - min(counts) == 1
    assert (balanced(labels, count) == chosen).all()
    assert sizes[0] <= 10 or chosen[:10].tolist() != list(range(10)), "not the first of each"


def test_digits():
    """1,293, 144 and 360 images: each part by itself, and what is smaller stays whole."""
    whole, some = load_data("digits"), load_data("digits", limit=200)
    assert [len(part) for part in some.parts.values()] == [200, 144, 200]
    assert set(Counter(some.train.labels.tolist()).values()) == {20}
    assert (some.info, some.digests()["val"]) == (whole.info, whole.digests()["val"])
    assert some.digests()["train"] != whole.digests()["train"]


@pytest.fixture
def folder(tmp_path):
    for part, many in (("train", 30), ("val", 12)):
        for label in ("dark", "light"):
            (tmp_path / "images" / part / label).mkdir(parents=True)
            for i in range(many):
                shade = 3 * i + 120 * (label == "light")
                Image.new("L", (16, 16), shade).save(tmp_path / "images" / part / label / f"{i:02}.png")
    return tmp_path / "images"


def test_a_folder(folder):
    some = load_data("folder", root=folder, image_size=16, channels=1, limit=10)
    assert [len(part) for part in some.parts.values()] == [10, 10]
    assert Counter(some.train.labels) == {0: 5, 1: 5}
    names = [path.name for path in some.train.files[:5]]
    assert names == sorted(names) and names != [f"{i:02}.png" for i in range(5)]
    image, label = some.train[0]
    assert image.shape == (1, 16, 16) and int(image[0, 0, 0]) == 3 * int(names[0][:2]) and label == 0


def test_a_limited_run_says_so_and_is_tested_on_all(tmp_path, folder, recwarn, capsys):
    small = ["model.config.embed_dim=16", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=1"]
    changes = ["data.limit=16", f"data.root={folder}", "data.name=folder", "data.image_size=16", "data.channels=1"]
    changes += ["data.batch_size=8", "schedule.epochs=1", "schedule.warmup_epochs=0", *small]
    results = train(tmp_path / "run", load_recipe("digits", changes), progress=False)
    assert (results["total"], results["limited"]) == (16, 16)
    about = read_about(tmp_path / "run/best.safetensors")
    assert about["data"]["source"]["limit"] == 16
    limited, whole = (load_data("folder", root=folder, image_size=16, channels=1, limit=n) for n in (16, None))
    assert about["data"]["files"] == limited.digests()
    data = load_data_of(about)
    assert data.digests() == whole.digests() and len(data.val) == 24
    assert not [w for w in recwarn if "other images" in str(w.message)]

    from spikevit.cli.train import show

    show(results, str(tmp_path / "run"))
    assert "data.limit=16: `spikevit eval` tests on all images." in " ".join(capsys.readouterr().out.split())

    Image.new("L", (16, 16), 9).save(folder / "train/dark/more.png")
    with pytest.warns(UserWarning, match=r"other images .*: train \(16 images now\)"):
        load_data_of(about)


def test_with_another_limit_it_is_another_run(tmp_path):
    from spikevit.training.run import new_run

    changes = ["schedule.epochs=1", "schedule.warmup_epochs=0", "model.config.embed_dim=16", "model.config.depth=1"]
    changes += ["model.config.num_heads=2", "model.time_steps=1", "data.limit=64"]
    directory = new_run(load_recipe("digits", changes), tmp_path / "run")
    train(directory, progress=False)
    (directory / "recipe.yaml").write_text(load_recipe(directory / "recipe.yaml", ["data.limit=128"]).to_yaml())
    with pytest.raises(ValueError, match="data.limit was 64, is 128"):
        train(directory, progress=False)


def test_data_that_are_given_are_not_limited(tmp_path):
    recipe = load_recipe("digits", ["data.limit=64"])
    with pytest.raises(ValueError, match="data.limit=64 must be left out where data are given"):
        train(tmp_path / "run", recipe, data=load_data("digits"), progress=False)
    for value in ("0", "-1", "1.5", "many"):
        with pytest.raises(ValueError, match="data.limit=.* must be a whole number of at least 1"):
            load_recipe("digits", [f"data.limit={value}"])
