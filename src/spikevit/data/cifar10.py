"""CIFAR-10 from a folder (its layouts: data/cifar10_files.py) or from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from spikevit.data.cifar10_files import LAYOUTS, read_folder
from spikevit.data.optional import need
from spikevit.data.sets import Data, DataInfo, ImageSet, stratified

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SEED = 10  # of the split into training and validation


def load_cifar10(
    root: Path | None, image_size: tuple[int, int] | None, channels: int | None, val_fraction: float, on_corrupt: str
) -> Data:
    """root: the folder with the files, or its parent; None: the hub. 45,000 + 5,000 + 10,000 images by default.

    The test part is the official one; validation is cut out of the 50,000 training images. Another size than
    32×32 is made by bilinear interpolation.
    """
    if channels not in (None, 3):
        raise ValueError(f"channels is {channels}; cifar10 has 3")
    whole, test = read_hub() if root is None else read_folder(root)
    if image_size not in (None, (32, 32)):
        whole, test = (ImageSet(resize(part.images, image_size), part.labels) for part in (whole, test))
    train, val = stratified(whole.labels.numpy(), val_fraction, SEED)
    info = DataInfo("cifar10", CLASSES, 3, image_size or (32, 32), MEAN, STD)
    return Data(info, whole.part(train), whole.part(val), test)


def resize(images: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """Images uint8 (N, C, H, W) at `size`, a thousand at a time."""
    parts = images.split(1000)
    return torch.cat([F.interpolate(part, size=size, mode="bilinear", antialias=True) for part in parts])


def read_hub() -> tuple[ImageSet, ImageSet]:
    """Training and test images of uoft-cs/cifar10 through `datasets`, from its cache where it has them."""
    datasets = need("datasets", "hub")
    try:
        parts = datasets.load_dataset("uoft-cs/cifar10")
    except Exception as error:  # no network, no such page, a proxy: each has its own class
        raise ConnectionError(
            f"cannot get CIFAR-10 from the Hugging Face hub ({error}); give root, a folder that holds {LAYOUTS}"
        ) from error

    def images(part: Any) -> ImageSet:
        pixels = np.stack([np.asarray(image) for image in part["img"]]).transpose(0, 3, 1, 2)
        return ImageSet(torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor(list(part["label"])))

    return images(parts["train"]), images(parts["test"])
