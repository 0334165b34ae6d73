"""RandAugment's operations against Pillow's, which the recipes of the papers use."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from spikevit.data.rand_augment import COLOURS, WARPS, RandAugment, warp

FILL = (20, 130, 240)


def images():
    """Two RGB images of 24 × 32: smooth shapes with some noise, as Pillow and as a tensor in [0, 1]."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    pictures = [Image.fromarray(a).resize((32, 24), Image.Resampling.BICUBIC) for a in small]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return pictures, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def affine(picture, *six):
    return picture.transform(picture.size, Image.Transform.AFFINE, six, Image.Resampling.BILINEAR, fillcolor=FILL)


ENHANCE = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
PILLOW = {
    "auto_contrast": lambda p, s: ImageOps.autocontrast(p),
    "equalize": lambda p, s: ImageOps.equalize(p),
    "invert": lambda p, s: ImageOps.invert(p),
    "posterize": lambda p, s: ImageOps.posterize(p, 4 - int(4 * abs(s))),
    "solarize": lambda p, s: ImageOps.solarize(p, 256 - int(256 * abs(s))),
    "solarize_add": lambda p, s: p.point([min(255, i + int(110 * abs(s))) if i < 128 else i for i in range(256)] * 3),
    "rotate": lambda p, s: p.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=FILL),
    "shear_x": lambda p, s: affine(p, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda p, s: affine(p, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda p, s: affine(p, 1, 0, 0.45 * s * p.width, 0, 1, 0),
    "translate_y": lambda p, s: affine(p, 1, 0, 0, 0, 1, 0.45 * s * p.height),
    **{
        name: lambda p, s, enhance=enhance: enhance(p).enhance(max(0.1, 1 + 0.9 * s))
        for name, enhance in ENHANCE.items()
    },
}


@pytest.mark.parametrize("name", [*COLOURS, *WARPS])
@pytest.mark.parametrize("level", [0.3, 0.9])
def test_operation_is_pillows(name, level):
    pictures, x = images()
    signs = torch.tensor([level, -level])
    s = signs[:, None, None, None]
    fill = torch.tensor(FILL)[:, None, None] / 255
    ours = (warp(name, x, s, fill) if name in WARPS else COLOURS[name](x, s)).clamp(0, 1) * 255
    for picture, mine, sign in zip(pictures, ours, signs.tolist(), strict=True):
        theirs = torch.from_numpy(np.array(PILLOW[name](picture, sign))).permute(2, 0, 1).float()
        assert not torch.equal(theirs, torch.from_numpy(np.array(picture)).permute(2, 0, 1).float())
        apart = (mine - theirs).abs()
        if name in WARPS:  # a pixel on the edge may fall inside for one and outside for the other
            assert (apart > 1.5).any(0).float().mean() < 0.01
        else:
            assert apart.max() < 1.5


def test_each_image_has_its_own_operation():
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(400, 3, 16, 16)
    torch.manual_seed(0)
    result = RandAugment("m9-n1", (0.5, 0.5, 0.5))(x)
    kept = torch.tensor([torch.equal(a, x[0]) for a in result]).float().mean()
    assert 0.4 < kept < 0.6  # each acts with probability 1/2
    kinds = {(a * 255).round().byte().numpy().tobytes() for a in result}
    assert len(kinds) == 1 + 6 + 2 * (4 + 5)  # as it was; no sign: 6; both signs: 4 that enhance, 5 that warp
    assert result.min() >= 0 and result.max() <= 1
    assert not torch.equal(RandAugment("m9-n2", (0.5, 0.5, 0.5))(x), result)


@pytest.mark.parametrize("channels", [1, 3])
def test_torchs_generator_alone_decides(channels):
    x = torch.rand(64, channels, 16, 12, generator=torch.Generator().manual_seed(0))
    operation = RandAugment("m5-n3", (0.5,) * channels)

    def run(seed, other):
        random.seed(other)
        np.random.seed(other)
        torch.manual_seed(seed)
        return operation(x)

    before = random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(run(1, 1), run(1, 2)) and not torch.equal(run(1, 1), run(2, 1))
    random.setstate(before[0])
    assert ("color" in operation.names) == (channels == 3)


def test_flat_images_survive():
    x = torch.full((64, 3, 8, 8), 0.25)
    torch.manual_seed(0)
    assert RandAugment("m9-n2", (0.5, 0.5, 0.5))(x).isfinite().all()
    assert torch.equal(x, torch.full((64, 3, 8, 8), 0.25))  # the input is left alone
