"""Augmentation of a batch on the device: crop, flip, RandAugment, normalise, mixup or cutmix, erasing.

All draws are made by torch's global generator: torch.manual_seed before a call makes it reproducible.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.data.config import AugmentConfig
from spikevit.data.optional import need
from spikevit.data.rand_augment import RandAugment
from spikevit.data.sets import DataInfo
from spikevit.schema import of_kind


def unit(images: Tensor) -> Tensor:
    """Images as float in [0, 1]: uint8 is divided by 255, float must be there."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; they must be torch.uint8 (0 … 255) or float (0 … 1)")
    if images.numel():
        least, most = (float(x) for x in images.aminmax())
        if not (least >= 0 and most <= 1):  # nor where one is NaN
            raise ValueError(f"float images have values from {least:g} to {most:g}; they must be in 0 … 1 (or uint8)")
    return images


def normalise(images: Tensor, info: DataInfo) -> Tensor:
    """(x - mean) / std per channel of images (..., C, H, W), uint8 or float in [0, 1]; all that evaluation does."""
    of_kind("info", info, DataInfo, "a DataInfo, as data.info is one")
    of_kind("images", images, Tensor, "a tensor; torch.from_numpy makes one of an array")
    if images.ndim < 3 or images.shape[-3] != info.channels:
        raise ValueError(f"images have the shape {tuple(images.shape)}; it must be (..., {info.channels}, H, W)")
    return standardise(unit(images), info)


def standardise(x: Tensor, info: DataInfo) -> Tensor:
    """(x - mean) / std per channel of float images in [0, 1]."""
    mean, std = torch.tensor((info.mean, info.std), dtype=x.dtype, device=x.device)[:, :, None, None]
    return (x - mean) / std


class Augment(nn.Module):
    """images (B, C, H, W), uint8 or float in [0, 1], and labels (B,) to (normalised float images, targets).

    Targets are the labels (B,), or probabilities (B, num_classes) where images were mixed. In eval() mode images
    are normalised and nothing else happens.
    """

    def __init__(self, config: AugmentConfig, info: DataInfo):
        super().__init__()
        self.config, self.info = config, info
        self.before, self.behind = nn.Sequential(), nn.Sequential()  # … normalisation
        if config.crop_padding or config.flip or config.erasing:
            kornia = need("kornia.augmentation", "train")
        if config.crop_padding:
            self.before.append(kornia.RandomCrop(info.image_size, padding=config.crop_padding))
        if config.flip:
            self.before.append(kornia.RandomHorizontalFlip(p=0.5))
        if config.rand_augment:
            self.before.append(RandAugment(config.rand_augment, info.mean, config.rand_augment_ops))
        if config.erasing:
            self.behind.append(kornia.RandomErasing(p=config.erasing, value=0.0))

    @torch.no_grad()
    def forward(self, images: Tensor, labels: Tensor, *, epoch: int) -> tuple[Tensor, Tensor]:
        """Images and targets of one batch; `epoch`, counted from 0, says whether mixing is still on."""
        if not self.training:
            return normalise(images, self.info), labels
        expected = (len(labels), self.info.channels, *self.info.image_size)
        if images.shape != expected:
            raise ValueError(
                f"images have the shape {tuple(images.shape)}; for {len(labels)} labels of "
                f"{self.info.name!r} it must be {expected}"
            )
        x = standardise(self.before(unit(images)), self.info)
        x, targets = self.mix(x, labels, epoch)
        return self.behind(x), targets

    def mix(self, x: Tensor, labels: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix, whichever is on; each batch gets one of them, with equal chance where both are."""
        both = ((mixup, self.config.mixup), (cutmix, self.config.cutmix))
        ways = [(way, alpha) for way, alpha in both if alpha > 0]
        off = self.config.mix_off_epoch
        if not ways or (off is not None and epoch >= off):
            return x, labels
        way, alpha = ways[int(torch.randint(len(ways), ()))]
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        partner = torch.randperm(len(x)).to(x.device)
        x, share = way(x, partner, share)
        targets = F.one_hot(labels, self.info.num_classes).to(x.dtype)
        return x, share * targets + (1 - share) * targets[partner]


def mixup(x: Tensor, partner: Tensor, share: float) -> tuple[Tensor, float]:
    """share · x + (1 - share) · x[partner], and share (Zhang et al. 2018, arXiv:1710.09412)."""
    return share * x + (1 - share) * x[partner], share


def cutmix(x: Tensor, partner: Tensor, share: float) -> tuple[Tensor, float]:
    """x with a box of x[partner], and the share of x that is left (Yun et al. 2019, arXiv:1905.04899).

    The box has the image's shape, 1 - share of its area, and a random centre; what sticks out is cut off.
    """
    height, width = x.shape[-2:]
    side = (1 - share) ** 0.5
    y, x0 = int(torch.randint(height, ())), int(torch.randint(width, ()))
    top, bottom = max(0, y - int(height * side) // 2), min(height, y + int(height * side) // 2)
    left, right = max(0, x0 - int(width * side) // 2), min(width, x0 + int(width * side) // 2)
    x = x.clone()
    x[:, :, top:bottom, left:right] = x[partner, :, top:bottom, left:right]
    return x, 1 - (bottom - top) * (right - left) / (height * width)
