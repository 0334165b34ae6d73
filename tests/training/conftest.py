"""A training that takes a second: a model of one block on a few images of two classes, dark and light."""

import pytest
import torch

from spikevit.data.sets import Data, DataInfo, ImageSet
from spikevit.training.recipe import load_recipe

SMALL = ["model.config.embed_dim=32", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=2"]
BRIEF = [*SMALL, "data.batch_size=16", "schedule.epochs=3", "schedule.warmup_epochs=0"]


def images_of(n: int, seed: int, classes: int = 2) -> ImageSet:
    """Pixels of class k lie between 60k and 60k + 99."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    pixels = torch.randint(0, 100, (n, 1, 16, 16), generator=random) + 60 * labels[:, None, None, None]
    return ImageSet(pixels.to(torch.uint8), labels)


@pytest.fixture
def shades():
    """Makes the data: 48 images to train with, 12 for validation, 8 to test with; other parts and classes on demand."""

    def make(classes=("dark", "light"), seed=0, **sizes) -> Data:
        sizes = {"train": 48, "val": 12, "test": 8} | sizes
        parts = {k: images_of(n, seed + i, len(classes)) if n else None for i, (k, n) in enumerate(sizes.items())}
        return Data(DataInfo("shades", tuple(classes), 1, (16, 16), (0.4,), (0.2,)), **parts)

    return make


@pytest.fixture
def brief():
    """Makes the recipe: three epochs of three steps, with changes."""
    return lambda *changes, name="digits": load_recipe(name, [*BRIEF, *changes])
