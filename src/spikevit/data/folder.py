"""Images in folders, one folder a class, decoded when they are asked for (ImageNet's usual shape).

What is seen of them: the middle, in evaluation and where a recipe says nothing else, or random parts (RandomParts).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spikevit.data.batches import Draw
from spikevit.data.optional import need
from spikevit.data.sets import Data, DataInfo, stratified

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SEED = 80  # of the splits
Files = tuple[list[Path], list[int]]  # images and their labels


def load_folder(
    root: Path | None,
    image_size: tuple[int, int] | None,
    channels: int | None,
    val_fraction: float,
    on_corrupt: str,
    crop_pct: float = 1.0,
) -> Data:
    """Classes are the folders of root/train, or of root itself, in the order of their names.

    root/train with root/val: val is for validation. Without root/val it is cut out of train (val_fraction).
    root/test is the test part; without it there is none: root/val is never taken for it.
    root/<class> without train: a tenth of all images is for testing, val_fraction of all for validation.
    """
    size, channels = image_size or (224, 224), channels or 3
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; image files can be read with 1 (grey) or 3 (RGB)")
    if root is None or not root.is_dir():
        where = "not given" if root is None else f"{str(root)!r}, which is no folder"
        raise FileNotFoundError(f"root is {where}; it must hold train/<class>/<image> or <class>/<image>")
    given = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if given and "train" not in given:
        raise FileNotFoundError(f"{root} has {' and '.join(given)} but no train")

    classes = folder_names(root / "train" if given else root)
    parts = {name: list_images(root / name, classes) for name in given}
    if not given:
        whole = list_images(root, classes)
        parts["train"], parts["test"] = cut(whole, 0.1)
        val_fraction = val_fraction / 0.9  # of what is left
    if "val" not in parts:
        parts["train"], parts["val"] = cut(parts["train"], val_fraction)

    mean, std = (MEAN, STD) if channels == 3 else ((0.5,), (0.5,))
    info = DataInfo("folder", classes, channels, size, mean, std, crop_pct)
    sets = {name: FolderSet(*files, size, channels, on_corrupt, crop_pct) for name, files in parts.items()}
    return Data(info, sets["train"], sets["val"], sets.get("test"))


def folder_names(root: Path) -> tuple[str, ...]:
    """The folders of root, sorted."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not names:
        raise FileNotFoundError(f"{root} has no folders; it must hold one for each class, with images in it")
    return tuple(names)


def list_images(root: Path, classes: tuple[str, ...]) -> Files:
    """The images of root/<class> for these classes, in the order of their names; an error where others are there."""
    here = set(folder_names(root))
    missing, other = sorted(set(classes) - here), sorted(here - set(classes))
    if missing or other:
        raise ValueError(f"{root} has other classes than train: missing {missing or 'none'}, new {other or 'none'}")
    files, labels = [], []
    for label, name in enumerate(classes):
        inside = (root / name).iterdir()
        found = sorted(path for path in inside if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
        if not found:
            raise FileNotFoundError(f"{root / name} has no images ({', '.join(SUFFIXES)})")
        files += found
        labels += [label] * len(found)
    return files, labels


def cut(files: Files, fraction: float) -> tuple[Files, Files]:
    """(rest, taken): that fraction of the images, of each class in proportion, always the same ones."""
    paths, labels = files

    def pick(indices: np.ndarray) -> Files:
        return [paths[i] for i in indices], [labels[i] for i in indices]

    rest, taken = stratified(labels, fraction, SEED)
    return pick(rest), pick(taken)


def read_image(path: str | Path, size: tuple[int, int], channels: int, crop_pct: float = 1.0) -> Tensor:
    """The image as uint8 (C, *size), grey (1 channel) or RGB (3); a ValueError names a file that is none.

    It is scaled, bicubic, until the shorter side fits size / crop_pct; the middle is cut out.
    """
    return pixels(middle(open_image(path, channels), size, crop_pct))


def open_image(path: str | Path, channels: int) -> Any:
    """The image of Pillow, decoded, grey or RGB."""
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; image files can be read with 1 (grey) or 3 (RGB)")
    pil = need("PIL.Image", "train")
    try:
        with pil.open(path) as file:
            return file.convert("RGB" if channels == 3 else "L")
    except Exception as error:  # each decoder fails in its own way
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def middle(image: Any, size: tuple[int, int], crop_pct: float) -> Any:
    """The middle (H, W) of the image, scaled so that it would just cover (H, W) / crop_pct."""
    height, width = size
    least_height, least_width = round(height / crop_pct), round(width / crop_pct)
    scale = max(least_height / image.height, least_width / image.width)
    fitted = max(least_width, round(image.width * scale)), max(least_height, round(image.height * scale))
    image = image.resize(fitted, need("PIL.Image", "train").Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def pixels(image: Any) -> Tensor:
    """An image of Pillow as uint8 (C, H, W)."""
    return torch.from_numpy(np.array(image).reshape(image.height, image.width, -1)).permute(2, 0, 1).contiguous()


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
    ):
        self.files, self.labels, self.size, self.channels = files, labels, size, channels
        self.crop_pct = crop_pct
        self.skip = on_corrupt == "skip"
        self.corrupted = torch.zeros(len(files), dtype=torch.bool).share_memory_()

    @property
    def skipped(self) -> int:
        """How many files were found corrupted so far."""
        return int(self.corrupted.sum())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        return self.read(index, lambda image: middle(image, self.size, self.crop_pct))

    def read(self, index: int, see: Callable[[Any], Any]) -> tuple[Tensor, int] | None:
        """An item, of which `see` says what is seen: from the image of Pillow to one of `size`."""
        try:
            return pixels(see(open_image(self.files[index], self.channels))), self.labels[index]
        except ValueError as error:
            if not self.skip:
                raise ValueError(f"{error}; on_corrupt='skip' leaves such files out") from error
            if not self.corrupted[index]:
                self.corrupted[index] = True
                warnings.warn(f"{error}; it is left out", stacklevel=2)
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

        def part(image: Any) -> Any:
            top, left, height, width = random_box(image.height, image.width, self.scale, self.ratio, rng)
            found = image.crop((left, top, left + width, top + height))
            return found.resize(self.images.size[::-1], need("PIL.Image", "train").Resampling.BICUBIC)

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
