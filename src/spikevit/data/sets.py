"""What a data set is: its description (DataInfo), its images in memory (ImageSet), its three parts (Data).

Images are uint8 (C, H, W), labels whole numbers; scaling and normalising are left to data/augment.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spikevit.errors import unknown
from spikevit.schema import Checked, Count, Range, Share, of_kind, read

Side = Annotated[int, Range(least=1, most=16_384)]  # pixels
Interpolation = Literal["nearest-exact", "bilinear", "bicubic"]
BY_NAME = {"digits": "nearest-exact", "cifar10": "bilinear", "cifar100": "bilinear"}  # where none is written
MORE = {  # images for a part
    "train": "a smaller val_fraction leaves more there, or a folder of images can have its own train/",
    "val": "a larger val_fraction sets more aside, or a folder of images can have its own val/",
    "test": "a folder of images can have its own test/",
}


@dataclass(frozen=True)
class DataInfo(Checked):
    """What a model must know of its data: class names, channels, image_size (H, W), mean and std per channel.

    Mean and std are those of pixel values in [0, 1]. crop_pct: the share of an image file's shorter side that is seen
    where it is read whole, in evaluation: it is resized to image_size / crop_pct and the middle is cut out.
    interpolation: how images are resized ("bicubic": those of files); see data/images.py.
    """

    name: str
    classes: tuple[str, ...]
    channels: Count
    image_size: tuple[Side, Side]
    mean: tuple[Share, ...]
    std: tuple[Annotated[float, Range(above=0, most=1)], ...]
    crop_pct: Annotated[float, Range(above=0, most=1)] = 1.0
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes={self.classes!r} must be one name or more, each once")
        for name in (self.name, *self.classes):
            if not name.isprintable():
                raise ValueError(f"{name!r} has characters that cannot be printed: take another name of data or class")
        for field in ("mean", "std"):
            if len(getattr(self, field)) != self.channels:
                raise ValueError(
                    f"{field} is {getattr(self, field)}; it needs a number for each of {self.channels} channels"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes, the width of a model's output."""
        return len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers: json.dumps takes it, from_dict reads it back."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataInfo:
        """The inverse of to_dict; a ValueError names what is missing, unknown or of another type."""
        if isinstance(values, Mapping) and "interpolation" not in values and str(values.get("name")) in BY_NAME:
            values = {**values, "interpolation": BY_NAME[values["name"]]}  # described before there was this field
        return read(cls, values, "data")

    @classmethod
    def of_checkpoint(cls, data: Mapping[str, Any]) -> DataInfo:
        """What the `data` of a checkpoint say of themselves, without where they came from."""
        return cls.from_dict({key: value for key, value in data.items() if key not in ("source", "files")})


class ImageSet(Dataset):
    """Images in memory: uint8 (N, C, H, W), with labels int64 (N,). An item is (uint8 (C, H, W), int)."""

    def __init__(self, images: Tensor, labels: Tensor):
        for name, tensor in (("images", images), ("labels", labels)):
            of_kind(name, tensor, Tensor, "a tensor; torch.from_numpy makes one of an array")
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; they must be uint8 (N, C, H, W)")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}; they must be int64 ({len(images)},)")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A whole batch at once, which a DataLoader asks for: uint8 (B, C, H, W), int64 (B,)."""
        index = torch.as_tensor(indices)
        return self.images[index], self.labels[index]

    def part(self, indices: np.ndarray) -> ImageSet:
        """The images of these indices (n,), in their order."""
        index = torch.from_numpy(indices)
        return ImageSet(self.images[index], self.labels[index])

    def digest(self) -> str:
        """SHA-256 of shape, labels and pixels."""
        found = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for tensor in (self.labels, self.images):
            found.update(np.ascontiguousarray(tensor.numpy()).data)
        return found.hexdigest()


@dataclass
class Data:
    """A data set: its description and its parts, any of which may be missing.

    The best epoch is chosen on val, which is no part of test. A part is any Dataset with a length whose items are
    (image (C, H, W), uint8 or float in [0, 1], label); with a method digest() it says what it holds, and with
    `labels`, of all items, whether they are of the classes is known from the start.
    """

    info: DataInfo
    train: Dataset | None = None
    val: Dataset | None = None
    test: Dataset | None = None

    def __post_init__(self) -> None:
        of_kind("info", self.info, DataInfo, "a DataInfo")
        for name, part in self.parts.items():
            check_labels(np.asarray(getattr(part, "labels", ())), self.info, f"{name}: ")

    def in_words(self, root: str | None = None) -> str:
        """Classes, images and sizes: "photos: 2 classes (cat, dog); 71 train, 9 val images of 32 × 32, grey"."""
        info, called = self.info, self.info.name
        if root and called == "folder":
            called = Path(root).expanduser().resolve().name
        classes = ", ".join(info.classes[:5]) + (", …" if info.num_classes > 5 else "")
        parts = ", ".join(f"{len(cast(Sized, part)):,} {name}" for name, part in self.parts.items())
        channels = {1: "grey", 3: "in colour"}.get(info.channels, f"{info.channels} channels")
        height, width = info.image_size
        return f"{called}: {info.num_classes} classes ({classes}); {parts} images of {height} × {width}, {channels}"

    @property
    def parts(self) -> dict[str, Dataset]:
        """The parts that there are, by name."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def digests(self) -> dict[str, str]:
        """SHA-256 of what each part holds: names of image files, pixels and labels in memory, or else its length."""
        return {name: digest(part) for name, part in self.parts.items()}

    @property
    def tested(self) -> str:
        """The split that accuracy is taken on: "test", or "val" where there are no test images."""
        return "test" if self.test is not None else "val"

    def split(self, name: str) -> Dataset:
        """The part called "train", "val" or "test"; a ValueError where there is none, or no image in it."""
        if name not in MORE:
            raise unknown("split", name, MORE)
        sizes = {key: len(cast(Sized, part)) for key, part in self.parts.items()}
        if not sizes.get(name):
            have = ", ".join(f"{key} ({size} images)" for key, size in sizes.items() if size)
            raise ValueError(
                f"{self.info.name!r} has no images in its {name!r} split; it has {have or 'none'}: {MORE[name]}"
            )
        return self.parts[name]


def check_labels(labels: Any, info: DataInfo, where: str = "") -> None:
    """Refuses labels, an array or a tensor of whole numbers, that are none of the classes."""
    if not len(labels):
        return
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= info.num_classes:
        bad, classes = least if least < 0 else most, ", ".join(info.classes[:3])
        more = ", …" if info.num_classes > 3 else ""
        raise ValueError(
            f"{where}label {bad} is none of the {info.num_classes} classes ({classes}{more}), which are counted from 0"
        )


def digest(part: Any) -> str:
    """What a part says of what it holds, or SHA-256 of its length."""
    return part.digest() if hasattr(part, "digest") else hashlib.sha256(str(len(part)).encode()).hexdigest()


def limited(data: Data, limit: int) -> Data:
    """The data set with at most `limit` images of each part, chosen by labels and their order alone: see `balanced`."""

    def some(part: Any) -> Any:
        return part if part is None or len(part) <= limit else part.part(balanced(part.labels, limit))

    return replace(data, train=some(data.train), val=some(data.val), test=some(data.test))


def balanced(labels: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Sorted indices of `count` of n ≥ count labels: as many of each class, or one more, while a class has any left."""
    labels = np.asarray(labels)
    order = np.random.RandomState(0).permutation(len(labels))
    turn = np.empty(len(labels), dtype=int)  # the how-manieth of its class each one is
    for name in np.unique(labels):
        members = order[labels[order] == name]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


def stratified(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices (rest, taken): ⌈fraction · n⌉ of the n labels are taken, of each class in proportion.

    Depends on labels, fraction and seed alone (NumPy's frozen RandomState stream). One of each class stays in rest.
    """
    labels = np.asarray(labels)
    order = np.random.RandomState(seed).permutation(len(labels))
    place = np.empty(len(labels))  # of each item among its shuffled class, from above 0 to 1
    names = np.unique(labels)
    for name in names:
        members = order[labels[order] == name]
        place[members] = np.arange(1, len(members) + 1) / len(members)
    count = min(math.ceil(round(fraction * len(labels), 6)), len(labels) - len(names))
    by_place = order[np.argsort(place[order], kind="stable")]
    return np.sort(by_place[count:]), np.sort(by_place[:count])
