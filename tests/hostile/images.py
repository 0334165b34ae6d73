"""Image files, mutated: each must be read as pixels of the size asked for, or refused by name.

python tests/hostile/images.py 1200 0
"""

import io
import json
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from spikevit.data.images import read_image

SECONDS, BYTES = 5, 2**30  # more of either is a failure
SUFFIXES = {"PNG": "png", "JPEG": "jpg", "BMP": "bmp", "WEBP": "webp", "PPM": "ppm", "GIF": "gif", "TIFF": "tif"}


def peak(reset: bool = False) -> int:
    """Bytes that this process has held at most, since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def originals() -> list[tuple[str, bytes]]:
    """Small images in each format and mode, and the worst that are valid."""
    rng = np.random.default_rng(0)
    found = []

    def add(image: Image.Image, kind: str, **options: object) -> None:
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append((SUFFIXES[kind], file.getvalue()))

    colours = Image.fromarray(rng.integers(0, 256, (23, 31, 3), dtype=np.uint8))
    for kind in SUFFIXES:
        add(colours, kind)
    for mode in ("1", "L", "P", "LA", "RGBA"):
        add(colours.convert(mode), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    add(colours, "JPEG", exif=exif, progressive=True)
    add(colours.convert("CMYK"), "JPEG")
    add(colours.convert("P"), "PNG", transparency=bytes(range(256)))
    add(colours.convert("RGBA"), "WEBP", lossless=True)
    deep = rng.integers(0, 65536, (23, 31), dtype=np.uint16)
    for kind in ("PNG", "TIFF", "PPM"):
        add(Image.fromarray(deep), kind)
    add(Image.fromarray(deep.astype(np.float32)), "TIFF")
    add(colours, "TIFF", compression="tiff_lzw")
    add(colours, "GIF", save_all=True, append_images=[colours.rotate(90)])
    for shape in ((1, 50_000), (50_000, 1), (1, 1), (8_192, 8_192), (9_000, 9_000)):
        add(Image.new("1", shape), "PNG")
    found.append(("png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"))
    return found


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The file with one change or two: bits, bytes, pieces cut out, doubled or moved, numbers made large."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 3)):
        if not data:
            break
        at = int(rng.integers(len(data) if rng.random() < 0.5 else min(64, len(data))))  # half of them in the header
        end = at + int(rng.integers(1, 1 + max(1, len(data) // 4)))
        kind = rng.integers(7)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end]
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            number = int(rng.choice([0, 1, 9_000, 50_000, 2**16, 2**31 - 1, 2**32 - 1]))
            data[at : at + 4] = struct.pack(str(rng.choice(["<I", ">I"])), number)
        else:
            data[at:end] = rng.integers(0, 256, end - at, dtype=np.uint8).tobytes()
    return repaired(bytes(data)) if rng.random() < 0.7 else bytes(data)


def repaired(data: bytes) -> bytes:
    """A PNG with right checksums, so that what is wrong in it is looked at; any other file as it is."""
    found, at = bytearray(data[:8]), 8
    if data[:4] != b"\x89PNG":
        return data
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + size]
        found += data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + size
    return bytes(found + data[at:])


def campaign(count: int, seed: int) -> dict[str, int]:
    """Reads that many mutated images, each grey or RGB at some size; counts what became of them."""
    rng, sources = np.random.default_rng(seed), originals()
    found = dict.fromkeys(("images", "read", "refused", "tracebacks", "unnamed", "hangs", "large"), 0)
    found |= {"slowest_ms": 0, "largest_mb": 0}
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(count):
            suffix, content = sources[i % len(sources)]
            path = Path(folder) / f"{i}.{suffix}"
            path.write_bytes(content if i < len(sources) else mutated(content, rng))
            size = [(224, 224), (16, 16), (48, 96)][rng.integers(3)]
            channels, crop_pct = int(rng.choice([1, 3])), float(rng.choice([1.0, 0.875, 0.1]))
            how = str(rng.choice(["bicubic", "bilinear", "nearest-exact"]))
            before, start = peak(reset=True), time.perf_counter()
            found["images"] += 1
            try:
                image = read_image(path, size, channels, crop_pct, how)
                assert image.shape == (channels, *size)
                found["read"] += 1
            except ValueError as error:
                found["refused"] += 1
                found["unnamed"] += path.name not in str(error)
            except Exception as error:
                found["tracebacks"] += 1
                print(f"{i}: {error!r}", file=sys.stderr)
            taken, held = time.perf_counter() - start, peak() - before
            found["hangs"] += taken > SECONDS
            found["large"] += held > BYTES
            found["slowest_ms"] = max(found["slowest_ms"], round(1e3 * taken))
            found["largest_mb"] = max(found["largest_mb"], round(held / 1e6))
            path.unlink()
    return found


if __name__ == "__main__":
    print(json.dumps(campaign(*map(int, sys.argv[1:]))))
