"""Digits: the 1,797 handwritten digits of 8×8 pixels that come with scikit-learn. No download."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

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
    pixels = torch.from_numpy(scans.images * 255 / 16).round()[:, None]  # 0..16 to 0..255
    images = F.interpolate(pixels, size=size, mode="nearest-exact").to(torch.uint8)
    whole = ImageSet(images.repeat(1, channels, 1, 1), torch.from_numpy(scans.target).long())

    rest, test = stratified(scans.target, 0.2, SEED)
    train, val = stratified(scans.target[rest], val_fraction, SEED)
    part = whole.part(rest[train])
    values = part.images[:, 0].double() / 255
    mean, std = round(float(values.mean()), 4), round(float(values.std()), 4)
    info = DataInfo("digits", tuple("0123456789"), channels, size, (mean,) * channels, (std,) * channels)
    return Data(info, part, whole.part(rest[val]), whole.part(test))
