"""Images in folders, one folder a class, decoded when they are asked for (ImageNet's usual shape).

Where a folder has no parts of its own, the name of each file says which part it is in: what else lies there does not
matter, so that a new image moves none. What is seen of images: data/images.py, or random parts (RandomParts).
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spikevit.data.batches import Draw
from spikevit.data.images import SUFFIXES, load_image, pixels, seen
from spikevit.data.optional import need
from spikevit.data.sets import Data, DataInfo, Interpolation
from spikevit.errors import printable

PARTS = ("train", "val", "test")
MEANT = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")  # of file managers, besides what begins with a point
ARCHIVE = "__MACOSX"  # a folder that is in archives beside those of classes
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
TEST = 0.1  # share of a folder without parts
Files = tuple[list[Path], list[int]]  # images and their labels


def load_folder(
    root: Path | None,
    image_size: tuple[int, int] | None,
    channels: int | None,
    val_fraction: float,
    on_corrupt: str,
    crop_pct: float = 1.0,
    interpolation: Interpolation = "bicubic",
    whole: bool = False,
) -> Data:
    """Classes are the folders of root/train, or of root itself, in the order of their names.

    root/train, root/val, root/test: each is that part, and root/val is never taken for a test part; a folder with
    root/val or root/test alone has that part alone. Other parts are cut by u = SHA-256("class/name") / 2²⁵⁶, which is
    spread evenly over [0, 1), so that shares are about those asked for:

    - root/train without root/val: validation is u < val_fraction.
    - root/<class> alone: test is u < 0.1, validation 0.1 ≤ u < 0.1 + val_fraction; with `whole` all is for testing.
    """
    size, channels = image_size or (224, 224), channels or 3
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; image files can be read with 1 (grey) or 3 (RGB)")
    if root is None or not root.is_dir():
        where = "not given" if root is None else f"{str(root)!r}, which is no folder"
        raise FileNotFoundError(f"root is {where}; it must hold train/<class>/<image> or <class>/<image>")
    given = own_parts(root)
    refuse_misnamed(root, given)
    classes = folder_names(root / given[0] if given else root)
    others: dict[str, list[Path]] = {}
    parts = {name: list_images(root / name, classes, others, given[0]) for name in given}
    if not given:
        images = list_images(root, classes, others)
        bounds = {"test": TEST, "val": TEST + val_fraction, "train": 1.0}
        parts = {"test": images} if whole else cut(images, bounds)
    elif "train" in given and "val" not in given:
        parts |= cut(parts["train"], {"val": val_fraction, "train": 1.0})
    if others:
        right = f"images are files {', '.join(SUFFIXES)} in the folder of their class itself"
        warnings.warn(printable(f"{root}: left out {named(others, root)}; {right}"))

    mean, std = (MEAN, STD) if channels == 3 else ((0.5,), (0.5,))
    info = DataInfo("folder", classes, channels, size, mean, std, crop_pct, interpolation)

    def part(name: str) -> FolderSet | None:
        found = parts.get(name)
        return found and FolderSet(*found, size, channels, on_corrupt, crop_pct, interpolation)

    return Data(info, part("train"), part("val"), part("test"))


def own_parts(root: Path) -> list[str]:
    """Which of train, val and test root has as folders."""
    return [name for name in PARTS if (root / name).is_dir()]


def refuse_misnamed(root: Path, given: list[str]) -> None:
    """Refuses folders that are meant to be parts and would be left out, or taken for classes: valid, Train, testing."""
    for path in sorted(root.iterdir()):
        name = path.name.lower()
        part = MEANT.get(name, name)
        if path.name in PARTS or part not in PARTS or not path.is_dir():
            continue
        images = any(file.suffix.lower() in SUFFIXES for file in path.iterdir())
        if given or not images:  # else a class that is called so
            raise ValueError(printable(f"root={root}: its folder {path.name!r} must be called {part!r} to be read"))


def folder_names(root: Path) -> tuple[str, ...]:
    """The folders of root, sorted."""
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "." and p.name != ARCHIVE)
    if not names:
        raise FileNotFoundError(f"{root} has no folders; it must hold one for each class, with images in it")
    return tuple(names)


def list_images(root: Path, classes: tuple[str, ...], others: dict[str, list[Path]], first: str = "") -> Files:
    """The images of root/<class> for these classes, those of `first`, in the order of their names.

    others: takes in what else lies in these folders, by kind (see `kind_of`).
    """
    here = set(folder_names(root))
    missing, other = sorted(set(classes) - here), sorted(here - set(classes))
    if missing or other:
        raise ValueError(f"{root} has other classes than {first}: missing {missing or 'none'}, new {other or 'none'}")
    files, labels = [], []
    for label, name in enumerate(classes):
        inside = sorted(path for path in (root / name).iterdir() if not is_litter(path))
        found = [path for path in inside if path.suffix.lower() in SUFFIXES]
        left_out = by_kind(path for path in inside if path.suffix.lower() not in SUFFIXES)
        if not found:
            there = f"; it has {named(left_out, root)}" if left_out else ""
            raise FileNotFoundError(printable(f"{root / name} has no images ({', '.join(SUFFIXES)}){there}"))
        for kind, paths in left_out.items():
            others.setdefault(kind, []).extend(paths)
        files += found
        labels += [label] * len(found)
    return files, labels


def is_litter(path: Path) -> bool:
    """Whether a file manager or an archive left it, of which nothing is said."""
    return path.name[0] == "." or path.name.lower() in LITTER or path.name == ARCHIVE


def kind_of(path: Path) -> str:
    """What is no image, as it is counted: its suffix, "folder" or "file without a suffix"."""
    return "folder" if path.is_dir() else path.suffix.lower() or "file without a suffix"


def by_kind(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """The paths by `kind_of`."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(kind_of(path), []).append(path)
    return found


def named(kinds: Mapping[str, list[Path]], root: Path | None = None) -> str:
    """Kinds with their numbers and the first of each, from root: "12 .heic (cat/a.heic, …), 1 folder (cat/old)"."""
    by_number = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    shown = []
    for kind, paths in by_number[:5]:
        many = len(paths) > 1
        first = f"{paths[0].relative_to(root) if root else paths[0]}{', …' if many else ''}"
        shown.append(f"{len(paths):,} {kind}{'s' if kind == 'folder' and many else ''} ({first})")
    rest = sum(len(paths) for _, paths in by_number[5:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])


def cut(images: Files, bounds: dict[str, float]) -> dict[str, Files]:
    """Parts of the images by `place`: each has those below its bound and not below the one before; 1.0 is the rest."""
    parts: dict[str, Files] = {name: ([], []) for name in bounds}
    for path, label in zip(*images, strict=True):
        u = place(path)
        files, labels = parts[next(name for name, bound in bounds.items() if u < bound or bound >= 1)]
        files.append(path)
        labels.append(label)
    return parts


def place(path: Path) -> float:
    """SHA-256 of "class/name" as a number from 0 to 1."""
    return int(hashlib.sha256(class_and_name(path)).hexdigest(), 16) / 2**256


def class_and_name(path: Path) -> bytes:
    """What an image is known by, wherever its folder lies."""
    return os.fsencode(f"{path.parent.name}/{path.name}")


class FolderSet(Dataset):
    """Images read from files: an item is (uint8 (C, H, W), int), or None for a corrupted file that is skipped.

    `skipped` counts corrupted files, over all workers.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[int],
        size: tuple[int, int],
        channels: int,
        on_corrupt: str,
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
    ):
        self.files, self.labels, self.size, self.channels = files, labels, size, channels
        self.crop_pct, self.interpolation = crop_pct, interpolation
        self.skip = on_corrupt == "skip"
        self.corrupted = torch.zeros(len(files), dtype=torch.bool).share_memory_()

    @property
    def skipped(self) -> int:
        """How many files were found corrupted so far."""
        return int(self.corrupted.sum())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        return self.read(index, lambda image: seen(image, self.size, self.crop_pct, self.interpolation))

    def part(self, indices: np.ndarray) -> FolderSet:
        """The images of these indices (n,), in their order."""
        files, labels = ([whole[i] for i in indices] for whole in (self.files, self.labels))
        on_corrupt = "skip" if self.skip else "error"
        return FolderSet(files, labels, self.size, self.channels, on_corrupt, self.crop_pct, self.interpolation)

    def digest(self) -> str:
        """SHA-256 of the list of images: class/name of each."""
        return hashlib.sha256(b"\0".join(map(class_and_name, self.files))).hexdigest()

    def read(self, index: int, see: Callable[[Any], Tensor]) -> tuple[Tensor, int] | None:
        """An item, of which `see` says what is seen: from the image of Pillow to uint8 (C, *size)."""
        try:
            return load_image(self.files[index], self.channels, see), self.labels[index]
        except ValueError as error:
            if not self.skip:
                way = 'data.on_corrupt=skip in a recipe, on_corrupt="skip" in Python'
                raise ValueError(f"{error}; {way} leaves such files out") from error
            if not self.corrupted[index]:
                self.corrupted[index] = True
                warnings.warn(printable(f"{error}; it is left out"), stacklevel=2)
            return None


class RandomParts(Dataset):
    """Random parts of the images of a folder, each resized to the folder's size: random resized crops.

    Each image is decoded at its own resolution, so that no pixel is made of others twice. A part has a share of the
    area drawn from Uniform(scale) and a width ÷ height whose logarithm is drawn from Uniform(log ratio); its place is
    drawn evenly (Szegedy et al. 2015, arXiv:1409.4842, section 6). An item is asked for by a `Draw`, and depends on
    nothing else: not on workers, nor on what was read before.
    """

    def __init__(self, images: FolderSet, scale: tuple[float, float], ratio: tuple[float, float]):
        self.images, self.scale, self.ratio = images, scale, ratio

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int] | None:
        rng = np.random.RandomState(draw.seed)  # NumPy keeps its numbers for ever

        def part(image: Any) -> Tensor:
            top, left, height, width = random_box(image.height, image.width, self.scale, self.ratio, rng)
            found = image.crop((left, top, left + width, top + height))
            return pixels(found.resize(self.images.size[::-1], need("PIL.Image", "train").Resampling.BICUBIC))

        return self.images.read(draw.image, part)


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.RandomState
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of an image (see RandomParts): the first of ten draws that fits.

    Where none does, the middle: all of the image, or what of its longer side `ratio` allows.
    """
    area = rng.uniform(*scale, size=10) * height * width
    aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), size=10))
    heights, widths = np.rint(np.sqrt(area / aspect)).astype(int), np.rint(np.sqrt(area * aspect)).astype(int)
    fits = (heights > 0) & (widths > 0) & (heights <= height) & (widths <= width)
    if fits.any():
        h, w = int(heights[fits][0]), int(widths[fits][0])
        return rng.randint(height - h + 1), rng.randint(width - w + 1), h, w
    h, w = min(height, max(1, round(width / ratio[0]))), min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w
