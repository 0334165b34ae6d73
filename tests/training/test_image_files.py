"""A run on image files: random parts and repeats in training; the same middle of an image wherever it is looked at."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit import load_model, save_model
from spikevit.checkpoint import read_about
from spikevit.cli.main import main
from spikevit.data import load_data
from spikevit.data.load import load_data_of
from spikevit.data.sets import DataInfo
from spikevit.profiling.calibrate import calibrate
from spikevit.training.evaluate import as_input
from spikevit.training.module import Classifier
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build, train

SMALL = [
    *("model.config.embed_dim=32", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=2"),
    *("data.name=folder", "data.image_size=16", "data.crop_pct=0.5", "data.batch_size=8"),
    *("schedule.epochs=2", "schedule.warmup_epochs=1", "optimizer.lr=0.01", "augmentation.crop_padding=0"),
]
PARTS = ["augmentation.random_resized_crop=[0.25, 1.0]", "augmentation.repeats=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of 32 × 32, so that 16 of 32 pixels are seen; of test, each twice, with other pixels around these."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, count in (("train", 16), ("val", 8), ("test", 8)):
        for label in ("dark", "light"):
            (root / name / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (32, 32, 3), dtype=np.uint8) + 128 * (label == "light")
                Image.fromarray(pixels.astype(np.uint8)).save(root / name / label / f"{i:02}.png")
                if name == "test":
                    around = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    around[8:24, 8:24] = pixels[8:24, 8:24]
                    Image.fromarray(around).save(root / name / label / f"{i:02}-again.png")
    return root


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    where = tmp_path_factory.mktemp("runs") / "run"
    train(where, load_recipe("digits", [*SMALL, *PARTS, f"data.root={root}", "data.workers=1"]), progress=False)
    return where


@torch.no_grad()
def test_the_same_middle_is_seen_everywhere(trained, root, tmp_path, monkeypatch, capsys):
    about, path = read_about(trained / "best.safetensors"), str(tmp_path / "lively.safetensors")
    data = load_data_of(about)
    assert data.info == DataInfo.of_checkpoint(about["data"])
    assert data.info.crop_pct == 0.5
    images = torch.stack([image for image, _ in data.test])
    assert torch.equal(images[0::2], images[1::2])  # what is around the middle is not seen
    model = load_model(trained / "best.safetensors")
    calibrate(model, as_input(images, model, data.info))  # neurons that fire
    save_model(model, path, data=about["data"])
    logits = model(as_input(images, model, data.info))
    assert len({f"{share:.1%}" for share in logits.softmax(-1)[:, 0]}) > 5
    # eval
    right = int((logits.argmax(-1) == torch.tensor(data.test.labels)).sum())
    assert main(["eval", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["right"] == right
    # predict
    monkeypatch.setenv("COLUMNS", "500")
    assert main(["predict", path, *map(str, data.test.files)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if ".png" in line]
    for line, shares in zip(lines, logits.softmax(-1), strict=True):
        assert all(f"{name} {shares[k]:.1%}" in line for k, name in enumerate(data.info.classes))
    # profile, on the checkpoint's data and on a folder that --data names
    profiled = []
    for words in ([], ["--data", "folder", "--root", str(root)]):
        assert main(["profile", path, "--images", "4", "--json", "-", *words]) == 0
        profiled.append(json.loads(capsys.readouterr().out)["conventions"])
    assert profiled[0] == profiled[1]


def test_validation_and_the_test_of_a_run_see_it_too(trained):
    about = read_about(trained / "best.safetensors")
    data, recipe = load_data_of(about), load_recipe(trained / "recipe.yaml")
    module = Classifier(recipe, *build(recipe))
    module._trainer = type("Alone", (), {"global_rank": 0, "world_size": 1})()
    seen = torch.cat([images for images, _ in module.val_dataloader()])
    assert torch.equal(seen, torch.stack([image for image, _ in data.val]))
    assert json.loads((trained / "results.json").read_text())["total"] == len(data.test) == 32


def batches_of(root, *changes):
    """What the steps of one epoch are given, before augmentation on the device."""
    recipe = load_recipe("digits", [*SMALL, *changes, f"data.root={root}"])
    module = Classifier(recipe, *build(recipe))
    module._trainer = type("Alone", (), {"global_rank": 0, "world_size": 1})()
    order = module._train_batches()
    return [[module.train_set[i] for i in batch] for batch in order]


def test_without_these_options_training_sees_what_evaluation_would(root):
    data = load_data("folder", root=root, image_size=16, crop_pct=0.5)
    known = {image.numpy().tobytes(): label for image, label in data.train}
    seen = [item for batch in batches_of(root) for item in batch]
    assert len(seen) == 32 and {image.numpy().tobytes(): label for image, label in seen} == known


def test_parts_and_repeats(root):
    seen = [item for batch in batches_of(root, *PARTS) for item in batch]
    assert len(seen) == 32 and len({image.numpy().tobytes() for image, _ in seen}) == 32
    assert [label for _, label in seen[::2]] == [label for _, label in seen[1::2]]
    again = [item for batch in batches_of(root, *PARTS) for item in batch]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(seen, again, strict=True))


def test_images_in_memory_have_no_parts(tmp_path):
    recipe = load_recipe("digits", ["augmentation.random_resized_crop=[0.5, 1]"])
    with pytest.raises(ValueError, match=r"random_resized_crop=\[0.5, 1.0\] cuts image files.*'digits' has its images"):
        train(tmp_path / "run", recipe, progress=False)
    assert not (tmp_path / "run").exists()
