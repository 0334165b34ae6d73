"""One image: from its file to the pixels that a network is given, in training, in evaluation and for `predict`.

Only formats that decode in this process are opened, whatever a file is called; of several pictures in a file (GIF,
TIFF) the first. What lets through is laid on white. What is seen of an image follows the data set (`seen`), so that an
image of it, saved and read again, has the pixels that it had.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikevit.data.optional import need
from spikevit.files import regular_file
from spikevit.schema import wrong

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "GIF", "TIFF")  # none that starts a program, as EPS does
SUFFIXES = (  # of files in these formats
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".tif", ".tiff"),
)
MOST = 2**26  # pixels of an image, which Pillow holds in four bytes each
BYTES = 2**28  # of a file
WHOLE = 2**24  # pixels of a scaled image; of a larger one only the part that is seen is made


def read_image(
    path: str | Path, size: tuple[int, int], channels: int, crop_pct: float = 1.0, interpolation: str = "bicubic"
) -> Tensor:
    """The image as uint8 (C, *size), grey (1 channel) or RGB (3), of which `seen` says what is seen.

    Raises:
        ValueError: no image of `FORMATS`, a damaged one, one of 32-bit pixels or of too many; names the file.
    """
    return load_image(path, channels, lambda image: seen(image, size, crop_pct, interpolation))


def load_image(path: str | Path, channels: int, see: Callable[[Any], Tensor]) -> Tensor:
    """What `see` makes of the image of Pillow in that file, upright, grey or RGB."""
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; image files can be read with 1 (grey) or 3 (RGB)")
    pil = need("PIL.Image", "train")
    try:
        with pil.open(io.BytesIO(content(path)), formats=FORMATS) as file:
            if file.width * file.height > MOST:
                raise ValueError(f"it has {file.width} × {file.height} pixels; at most {MOST:,} are read")
            image = eight_bits(file, "RGB" if channels == 3 else "L")
        del file  # and its pixels
        with suppress(Exception):  # EXIF that cannot be read does not say that the image lies on its side
            need("PIL.ImageOps", "train").exif_transpose(image, in_place=True)
        return see(image)
    except pil.UnidentifiedImageError:
        raise ValueError(f"{path} cannot be read as an image: it is none of {', '.join(FORMATS)}") from None
    except MemoryError:  # which says nothing of the file
        raise
    except Exception as error:  # each decoder fails in its own way
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def content(path: str | Path) -> bytes:
    """What is in an image file. Of an open one Pillow reserves what it claims to hold, and mixes up turned TIFF."""
    if (size := regular_file(path, "an image").stat().st_size) > BYTES:
        raise ValueError(f"it has {size:,} bytes; at most {BYTES:,} are read")
    return Path(path).read_bytes()


def eight_bits(file: Any, mode: str) -> Any:
    """The image with 8 bits a value, on white where it lets through; greys of 16 bits are scaled: x / 257, rounded."""
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format in ("PNG", "PPM")):  # which end at 16 bits
        scaled, clear = greys(), file.info.get("transparency")
        if isinstance(clear, int):  # the one grey that lets through
            scaled = [*scaled[:clear], 255, *scaled[clear + 1 :]]
        file = file.convert("I").point(scaled, "L")
        file.info.pop("transparency", None)
    if file.mode in ("I", "F"):
        kind = "whole" if file.mode == "I" else "floating-point"
        raise ValueError(f"its pixels are {kind} numbers of 32 bits, of no known range: save it with 8 or 16 bits")
    return on_white(file).convert(mode)


def on_white(file: Any) -> Any:
    """The image as it looks on white paper: α · colour + (1 − α) · 255."""
    if file.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in file.info:
        return file
    above = (file.convert("LA") if file.mode == "La" else file).convert("RGBA")
    paper = need("PIL.Image", "train").new("RGBA", above.size, "white")
    paper.alpha_composite(above)
    paper.info = dict(above.info)  # EXIF, which says how it is turned
    return paper


@cache
def greys() -> list[int]:
    """The nearest grey of 8 bits to each of 16."""
    return [round(x / 257) for x in range(65536)]


def seen(image: Any, size: tuple[int, int], crop_pct: float, interpolation: str) -> Tensor:
    """What a network of inputs `size` sees of an image, uint8 (C, *size).

    "bicubic", of image files: the middle, scaled as it is. Otherwise, of images in memory, which are squares: the
    middle square, resized as they are; images of their size stay as they are.
    """
    if interpolation == "bicubic":
        return pixels(middle(image, size, crop_pct))
    side = max(1, round(min(image.size) * crop_pct))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resize(pixels(image)[None, :, top : top + side, left : left + side], size, interpolation)[0].contiguous()


def middle(image: Any, size: tuple[int, int], crop_pct: float) -> Any:
    """The middle (H, W) of the image, scaled, bicubic, so that it would just cover (H, W) / crop_pct."""
    height, width = size
    least_height, least_width = round(height / crop_pct), round(width / crop_pct)
    scale = max(least_height / image.height, least_width / image.width)
    fitted = max(least_width, round(image.width * scale)), max(least_height, round(image.height * scale))
    left, top = (fitted[0] - width) // 2, (fitted[1] - height) // 2
    bicubic = need("PIL.Image", "train").Resampling.BICUBIC
    if fitted[0] * fitted[1] <= WHOLE:
        return image.resize(fitted, bicubic).crop((left, top, left + width, top + height))
    across, down = image.width / fitted[0], image.height / fitted[1]  # pixels of the file in one that is seen
    right, bottom = min(image.width, (left + width) * across), min(image.height, (top + height) * down)
    return image.resize((width, height), bicubic, box=(left * across, top * down, right, bottom))


def pixels(image: Any) -> Tensor:
    """An image of Pillow as uint8 (C, H, W)."""
    values = np.asarray(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def resize(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Images uint8 (N, C, H, W) at `size`: "nearest-exact" repeats pixels, "bilinear" mixes them (antialiased)."""
    if images.shape[-2:] == size:
        return images
    found = images.new_empty(*images.shape[:2], *size)
    for some, resized in zip(images.split(1000), found.split(1000), strict=True):
        resized.copy_(F.interpolate(some, size=size, mode=interpolation, antialias=interpolation == "bilinear"))
    return found


def check_memory(images: int, channels: int, size: tuple[int, int]) -> None:
    """Refuses a size at which that many images would fill more than half of the machine's memory."""
    needed, have = images * channels * size[0] * size[1], memory()
    if needed > have / 2:
        right = f"smaller: {images:,} images of {channels} channels are {needed / 1e9:,.0f} GB, of {have / 1e9:.0f} GB"
        raise wrong("image_size", size, f"{right} of memory, of which they may take half")


def memory() -> int:
    """Bytes of memory that this process may have: the machine's, or fewer by a limit; 16 GB where neither is known."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ImportError, OSError, ValueError):
        return 2**34
    return machine if limit == resource.RLIM_INFINITY else min(machine, limit)
