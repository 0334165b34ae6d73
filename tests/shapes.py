"""A folder of one's own images, as a newcomer may have it: circles, squares and triangles in any colour and place."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")
SIDE = 48  # pixels


def draw_shapes(root: Path, each: int = 80, seed: int = 0) -> Path:
    """root/<shape>/<number>.png, `each` of every shape; returns root."""
    random = np.random.default_rng(seed)
    for shape in SHAPES:
        (root / shape).mkdir(parents=True)
        for i in range(each):
            dark, light = (tuple(map(int, random.integers(*between, 3))) for between in ((0, 110), (140, 256)))
            r = int(random.integers(8, 17))
            x, y = map(int, random.integers(r + 1, SIDE - r, 2))
            image = Image.new("RGB", (SIDE, SIDE), dark)
            pen = ImageDraw.Draw(image)
            if shape == "circle":
                pen.ellipse((x - r, y - r, x + r, y + r), fill=light)
            elif shape == "square":
                pen.rectangle((x - r, y - r, x + r, y + r), fill=light)
            else:
                pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=light)
            noisy = np.asarray(image).astype(int) + random.integers(-12, 13, (SIDE, SIDE, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / shape / f"{i:03}.png")
    return root
