"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719), each image with operations of its own, on the device.

Operations and strengths are those of recipes that write "rand-m9-n1-mstd0.4-inc1", here "m9-n1-mstd0.4": magnitude m
of 10, more is stronger, drawn from a normal distribution of that deviation wherever an operation meets an image, and an
operation is carried out with probability 1/2. kornia's own RandAugment is something else: one operation
for a whole batch (which batch norm then sees), magnitudes of 30, brightness by addition, shear by up to 54 degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.data.config import OPERATIONS, check_operations, parse_policy
from spikevit.data.optional import need


def factor(s: Tensor) -> Tensor:
    """What enhancing operations multiply by: 0.1 … 1.9 for s between -1 and 1."""
    return (1 + 0.9 * s).clamp(min=0.1)


def blend(x: Tensor, plain: Tensor | float, s: Tensor) -> Tensor:
    """x moved away from `plain` (s > 0) or towards it (s < 0)."""
    return plain + factor(s) * (x - plain)


def grey(x: Tensor) -> Tensor:
    """Luma (B, 1, H, W) of grey or RGB images (B, 1 or 3, H, W)."""
    return need("kornia.color", "train").rgb_to_grayscale(x) if x.shape[1] == 3 else x


def auto_contrast(x: Tensor) -> Tensor:
    """Each channel of each image stretched to 0 … 1; one of a single value stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def posterize(x: Tensor, s: Tensor) -> Tensor:
    """Keeps the upper 4 (s = 0) to 0 (s = ±1) of the 8 bits of a pixel."""
    step = 2 ** (4 + (4 * s.abs()).int())
    return (x * 255).round().int() // step * step / 255


# Each takes images x (B, C, H, W) in [0, 1] and strengths s (B, 1, 1, 1) between -1 and 1.
COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "auto_contrast": lambda x, s: auto_contrast(x),
    "equalize": lambda x, s: need("kornia.enhance", "train").equalize(x),
    "invert": lambda x, s: 1 - x,
    "posterize": posterize,
    "solarize": lambda x, s: torch.where((x * 255).round() < 256 - (256 * s.abs()).int(), x, 1 - x),
    "solarize_add": lambda x, s: torch.where((x * 255).round() < 128, x + (110 * s.abs()).int() / 255, x),
    "color": lambda x, s: blend(x, grey(x), s),
    "contrast": lambda x, s: blend(x, grey(x).mean((2, 3), keepdim=True), s),
    "brightness": lambda x, s: blend(x, 0.0, s),
    "sharpness": lambda x, s: need("kornia.enhance", "train").sharpness(x, factor(s).flatten()),
}

# Where the pixel at (x, y) comes from, both in pixels from the upper left corner, in images of h × w.
WARPS: dict[str, Callable[[Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]] = {
    "rotate": lambda x, y, s, h, w: rotate(x - w / 2, y - h / 2, s * torch.pi / 6, h, w),
    "shear_x": lambda x, y, s, h, w: (x + 0.3 * s * y, y),
    "shear_y": lambda x, y, s, h, w: (x, y + 0.3 * s * x),
    "translate_x": lambda x, y, s, h, w: (x + 0.45 * s * w, y),
    "translate_y": lambda x, y, s, h, w: (x, y + 0.45 * s * h),
}


def rotate(x: Tensor, y: Tensor, angle: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Counterclockwise by `angle`, in radians, about the middle, from which x and y are counted."""
    return angle.cos() * x - angle.sin() * y + w / 2, angle.sin() * x + angle.cos() * y + h / 2


def warp(name: str, images: Tensor, s: Tensor, fill: Tensor) -> Tensor:
    """Bilinear; what comes from outside the image is `fill` (C, 1, 1)."""
    h, w = images.shape[-2:]
    x = (torch.arange(w, device=images.device) + 0.5)[None, None, :]
    y = (torch.arange(h, device=images.device) + 0.5)[None, :, None]
    x, y = torch.broadcast_tensors(*WARPS[name](x, y, s[:, 0], h, w))
    grid = torch.stack((2 * x / w - 1, 2 * y / h - 1), -1).expand(len(images), h, w, 2)
    inside = (grid.abs() <= 1).all(-1)[:, None]
    return torch.where(inside, F.grid_sample(images, grid, padding_mode="border", align_corners=False), fill)


class RandAugment(nn.Module):
    """n random operations of magnitude m on images (B, C, H, W) in [0, 1], with 1 (grey) or 3 (RGB) channels.

    policy: "m9-n1" is magnitude 9 of 10, one operation; "m9-n1-mstd0.4" draws magnitudes from Normal(9, 0.4), cut to
    0 … 10, for each operation on each image. fill: per channel, what moves in from outside. operations: which of
    OPERATIONS, drawn with equal chance; None is all (grey images: all but color, which does nothing to them).
    All draws are made on the CPU, by torch's global generator: one seed gives the same on every device.
    """

    def __init__(self, policy: str, fill: tuple[float, ...], operations: Sequence[str] | None = None):
        super().__init__()
        if len(fill) not in (1, 3):
            raise ValueError(f"rand_augment is {policy!r}, but the images have {len(fill)} channels; it needs 1 or 3")
        if len(fill) == 1 and "color" in (operations or ()):
            raise ValueError("rand_augment_ops has 'color', but the images are grey: leave it out")
        need("kornia.enhance", "train")
        self.policy, self.fill = parse_policy(policy), fill
        if operations is None:
            operations = [name for name in OPERATIONS if len(fill) == 3 or name != "color"]
        check_operations(operations)
        self.names = list(operations)

    def forward(self, images: Tensor) -> Tensor:
        """Other images of the same shape, in [0, 1]; about half of them, for n = 1, are as they were."""
        images, count = images.clone(), len(images)
        fill = torch.tensor(self.fill, dtype=images.dtype, device=images.device)[:, None, None]
        for _ in range(self.policy.n):
            kind = torch.randint(len(self.names), (count,))
            kind[torch.rand(count) < 0.5] = -1  # left as it is
            strength = (2 * torch.randint(2, (count,)) - 1) * self.magnitudes(count) / 10
            for k, name in enumerate(self.names):
                rows = (kind == k).nonzero()[:, 0]
                if len(rows):
                    s = strength[rows].to(images)[:, None, None, None]
                    rows = rows.to(images.device)
                    some = images[rows]
                    some = warp(name, some, s, fill) if name in WARPS else COLOURS[name](some, s)
                    images[rows] = some.clamp(0, 1)
        return images

    def magnitudes(self, count: int) -> Tensor:
        """As many magnitudes, 0 to 10: drawn where the policy has a deviation, all the same where it has none."""
        magnitude, _, std = self.policy
        if not std:
            return torch.full((count,), magnitude, dtype=torch.float64)
        return (magnitude + std * torch.randn(count, dtype=torch.float64)).clamp(0, 10)
