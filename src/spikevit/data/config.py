"""Augmentation as data: what a recipe says of it. Imports neither torch nor kornia."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spikevit.errors import unknown
from spikevit.schema import Checked, Count, Natural, NotNegative, Positive, Share, wrong

OPERATIONS = (
    *("auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness"),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)


class Policy(NamedTuple):
    """RandAugment in numbers: n operations an image, each at a magnitude drawn from Normal(magnitude, std), 0 to 10."""

    magnitude: float
    n: int
    std: float = 0.0


@dataclass
class AugmentConfig(Checked):
    """What is done to the images of a training batch; nothing by default.

    random_resized_crop: (least, most) share of an image's area that a random part of it has, which is then resized to
    the size of the data, bicubic; None is the middle, as in evaluation. aspect_ratio: (least, most) width ÷ height of
    that part. Images of files are cut as they are read, at their own resolution (data/folder.py).
    repeats: how often an image comes in an epoch, one behind the other, each time changed in another way; an epoch
    stays as long as it was and has 1/repeats of the images (Hoffer et al. 2020, arXiv:1901.09335).
    crop_padding: pixels of zeros put around an image before a random crop back to its size.
    flip: mirror half of the images left to right.
    rand_augment: "m9-n1" is one operation an image at magnitude 9 of 10, "m9-n1-mstd0.4" one whose magnitude is drawn
    anew each time, from Normal(9, 0.4) (see data/rand_augment.py). rand_augment_ops: which of OPERATIONS; None is all.
    erasing: probability that a rectangle of an image is set to 0, the mean, behind normalisation.
    mixup, cutmix: alpha of the Beta(alpha, alpha) they draw from; 0 is off; with both, a batch gets one of them.
    mix_off_epoch: mixup and cutmix are off from this epoch on, counted from 0.
    """

    random_resized_crop: tuple[Positive, Positive] | None = None
    aspect_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    repeats: Count = 1
    crop_padding: Natural = 0
    flip: bool = False
    rand_augment: str | None = None
    rand_augment_ops: list[str] | None = None
    erasing: Share = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    mix_off_epoch: Natural | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("random_resized_crop", 1), ("aspect_ratio", float("inf"))):
            pair = getattr(self, name)
            if pair is not None and not pair[0] <= pair[1] <= most:
                bound = f" and at most {most}" if most == 1 else ""
                raise wrong(name, pair, f"(least, most), both above 0{bound}")
        if self.rand_augment is not None:
            parse_policy(self.rand_augment)
        if self.rand_augment_ops is not None:
            check_operations(self.rand_augment_ops)


def check_operations(names: Sequence[str]) -> None:
    """Refuses an empty list, a name that is none of OPERATIONS, and one that comes twice."""
    for name in names:
        if name not in OPERATIONS:
            raise unknown("operation of rand_augment_ops", name, OPERATIONS)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"rand_augment_ops is {list(names)!r}; it must name one operation or more, each once")


def parse_policy(policy: str) -> Policy:
    """A policy in numbers: "m9-n1" is (9.0, 1, 0.0), "m9-n1-mstd0.4" is (9.0, 1, 0.4)."""
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"m{number}-n(\d+)(?:-mstd{number})?", str(policy))
    if not found or not 0 < float(found[1]) <= 10 or int(found[2]) < 1:
        raise ValueError(
            f"rand_augment is {policy!r}; it must be 'm<magnitude>-n<operations>' with a magnitude above 0 and "
            "at most 10 and one operation or more, such as 'm9-n1', and may end in '-mstd<deviation of the magnitude>'"
        )
    return Policy(float(found[1]), int(found[2]), float(found[3] or 0))
