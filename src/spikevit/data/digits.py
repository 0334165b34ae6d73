"""Digits: the 1,797 handwritten digits of 8×8 pixels that come with scikit-learn. No download."""

from __future__ import annotations

from pathlib import Path

import torch

from spikevit.data.images import check_memory, resize
from spikevit.data.optional import need
from spikevit.data.sets import Data, DataInfo, ImageSet, stratified

SEED = 1797  # of both splits


def load_digits(
    root: Path | None, image_size: tuple[int, int] | None, channels: int | None, val_fraction: float, on_corrupt: str
) -> Data:
    """1,293 + 144 + 360 images for training, validation and test, 16×16 and of one channel by default.

    Enlarged by repeating pixels, which keeps the strokes; bilinear interpolation fills the holes of 8 and 9.
    """
    if root is not None:
        raise ValueError(f"root is {str(root)!r}; digits come with scikit-learn: leave root out")
    size, channels = image_size or (16, 16), channels or 1
    scans = need("sklearn.datasets", "train").load_digits()
    check_memory(len(scans.images), channels, size)
    pixels = torch.from_numpy(scans.images * 255 / 16).round().to(torch.uint8)[:, None]  # 0..16 to 0..255
    whole = ImageSet(pixels.repeat(1, channels, 1, 1), torch.from_numpy(scans.target).long())

    rest, test = stratified(scans.target, 0.2, SEED)
    train, val = stratified(scans.target[rest], val_fraction, SEED)
    parts = [whole.part(indices) for indices in (rest[train], rest[val], test)]
    parts = [ImageSet(resize(part.images, size, "nearest-exact"), part.labels) for part in parts]
    mean, std = statistics(parts[0].images[:, 0])
    description = tuple("0123456789"), channels, size, (mean,) * channels, (std,) * channels
    return Data(DataInfo("digits", *description, interpolation="nearest-exact"), *parts)


def statistics(images: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, uint8 taken as 0 … 1, to four digits."""
    counts, values = images.flatten().bincount(minlength=256).double(), torch.arange(256).double() / 255
    mean = (counts * values).sum() / counts.sum()
    variance = (counts * (values - mean) ** 2).sum() / (counts.sum() - 1)
    return round(float(mean), 4), round(float(variance.sqrt()), 4)
