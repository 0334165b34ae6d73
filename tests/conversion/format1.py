"""The network, the images and the file of a certificate that an earlier version wrote (format 1)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from spikevit import quantise
from spikevit.neurons import ExpG, Staircase

FILE = Path(__file__).parent / "records" / "certificate_format_1.json"


def _numbers(*shape: int) -> Tensor:
    """Sixteenths from -8 to 8, the same on every machine."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 37 + 11) % 17 - 8).view(shape) / 16


def network() -> nn.Module:
    """Two layers of neurons of different codes, in exact mode."""
    model = nn.Sequential(
        nn.Linear(4, 12),
        Staircase(ExpG(4, 1)),
        nn.Linear(12, 8),
        Staircase(ExpG(3, 1), 2.0),
        nn.Linear(8, 3),
    )
    for p in model.parameters():
        if p.dim():
            p.data = _numbers(*p.shape)
    return quantise(model).eval()


def images() -> Tensor:
    """Forty of them."""
    return 2 * _numbers(40, 4)
