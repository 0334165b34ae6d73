"""RandAugment's operations against Pillow's, which the recipes of the papers use."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from spikevit.data.config import OPERATIONS
from spikevit.data.rand_augment import COLOURS, WARPS, RandAugment, warp

MEAN = (0.5, 0.5, 0.5)
FIVE = ["equalize", "rotate", "shear_x", "translate_x", "translate_y"]  # Spikformer's
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
    result = RandAugment("m9-n1", MEAN)(x)
    kept = torch.tensor([torch.equal(a, x[0]) for a in result]).float().mean()
    assert 0.4 < kept < 0.6  # each acts with probability 1/2
    kinds = {(a * 255).round().byte().numpy().tobytes() for a in result}
    assert len(kinds) == 1 + 6 + 2 * (4 + 5)  # as it was; no sign: 6; both signs: 4 that enhance, 5 that warp
    assert result.min() >= 0 and result.max() <= 1
    assert not torch.equal(RandAugment("m9-n2", MEAN)(x), result)


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


def what_was_done(policy, names=None, n=2000, seed=0):
    """To n copies of an image at magnitude 9: an operation with its sign, "rotate+" or "invert", or "stay"."""
    x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    fill = torch.full((3, 1, 1), 0.5)
    marks, known, two = ["stay"], [x], x.repeat(2, 1, 1, 1)
    for name in names or OPERATIONS:
        s = torch.tensor([0.9, -0.9]).view(2, 1, 1, 1)
        plus, minus = (warp(name, two, s, fill) if name in WARPS else COLOURS[name](two, s)).clamp(0, 1)
        signs = [""] if torch.equal(plus, minus) else ["+", "-"]
        marks += [name + sign for sign in signs]
        known += [plus[None], minus[None]][: len(signs)]
    torch.manual_seed(seed)
    result = RandAugment(policy, MEAN, names)(x.repeat(n, 1, 1, 1))
    apart = torch.cdist(result.flatten(1), torch.cat(known).flatten(1), p=float("inf"))
    assert (apart.amin(1) < 1e-5).all()
    return [marks[k] for k in apart.argmin(1)]


def test_names_of_operations():
    assert tuple([*COLOURS, *WARPS]) == OPERATIONS and len(OPERATIONS) == 15


def test_without_deviation_a_seed_does_what_it_did_before_there_was_one():
    done = "stay sharpness+ contrast+ auto_contrast shear_x+ rotate- stay brightness- posterize stay stay auto_contrast"
    assert what_was_done("m9-n1", n=12, seed=5) == done.split()
    left = torch.get_rng_state()
    torch.manual_seed(5)
    torch.randint(15, (12,)), torch.rand(12), torch.randint(2, (12,))  # which, whether, which way: no magnitudes
    assert torch.equal(torch.get_rng_state(), left)


@pytest.mark.parametrize("names", [None, FIVE, ["rotate"]])
def test_which_operations_occur(names):
    done = [mark.rstrip("+-") for mark in what_was_done("m9-n1", names)]
    names = names or OPERATIONS
    assert set(done) == {"stay", *names}
    # 2000 draws, each operation with p = 1/(2 len(names)): within five standard deviations
    p = 0.5 / len(names)
    for name in names:
        assert abs(done.count(name) - 2000 * p) < 5 * (2000 * p * (1 - p)) ** 0.5


def shifts(policy, n=4000, width=400):
    """How many tenths of 0.45 of the width n pictures were moved, with sign; 0 where they stayed.

    A picture is a ramp from 0 to 1 over its width; its middle pixel says how far it was moved: (x + shift)/width.
    """
    ramp = (torch.arange(width) + 0.5) / width
    torch.manual_seed(0)
    moved = RandAugment(policy, MEAN, ["translate_x"])(ramp.expand(n, 3, 1, width))
    return (moved[:, 0, 0, width // 2] - ramp[width // 2]).double() / 0.45 * 10


def test_magnitudes_are_drawn_for_each_image():
    always = shifts("m9-n1").abs()
    assert torch.allclose(always[always > 1], torch.tensor(9.0).double(), atol=1e-3)
    drawn = shifts("m9-n1-mstd0.4")
    for sign in (1, -1):
        some = drawn[drawn * sign > 1].abs()
        assert 800 < len(some) < 1200  # half of the pictures, half of these each way
        # Normal(9, 0.4) is cut at 10, 2.5 deviations up: the mean falls by 0.4 · (φ(2.5) − 2.5 · Φ(−2.5)) = 0.0008
        assert abs(some.mean() - 8.9992) < 5 * 0.4 / len(some) ** 0.5
        assert abs(some.std() - 0.4) < 5 * 0.4 / (2 * len(some)) ** 0.5
        assert len(some.unique()) > 700


def test_magnitudes_are_cut_to_0_and_10():
    drawn = RandAugment("m9-n1-mstd20", MEAN).magnitudes(4000)
    assert drawn.min() == 0 and drawn.max() == 10
    # P(z < −9/20) = 0.3264 and P(z > 1/20) = 0.4801 of a standard normal variable z
    assert abs((drawn == 0).double().mean() - 0.3264) < 0.04 and abs((drawn == 10).double().mean() - 0.4801) < 0.04


def test_refuses():
    with pytest.raises(ValueError, match="rand_augment_ops has 'color', but the images are grey"):
        RandAugment("m9-n1", (0.5,), ["rotate", "color"])
    with pytest.raises(ValueError, match="unknown operation of rand_augment_ops 'rotat'; did you mean rotate"):
        RandAugment("m9-n1", MEAN, ["rotat"])


def test_flat_images_survive():
    x = torch.full((64, 3, 8, 8), 0.25)
    torch.manual_seed(0)
    assert RandAugment("m9-n2", MEAN)(x).isfinite().all()
    assert torch.equal(x, torch.full((64, 3, 8, 8), 0.25))  # the input is left alone
