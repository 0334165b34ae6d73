"""Linear maps and convolutions whose weights lie on power-of-two grids, so that sums are exact in any order.

With inputs that are whole multiples of a power of two, every partial sum is a whole multiple of one, and no rounding
happens while it stays below 2^24 of them (float32) or 2^53 (float64). Evaluation takes the narrower type that holds
the bound, float32 only where its products are not computed in fewer bits; what leaves is float64, so that residual sums
are exact, too.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.neurons import Staircase

FLOAT32, FLOAT64 = 2**24, 2**53
BIAS_BITS = 8  # a bias lies on a grid 2^8 times finer than its weights


def float32_is_whole(device: torch.device) -> bool:
    """Whether products of float32 take all its 24 bits there: only on a CPU, with nothing that allows fewer.

    What may allow fewer: autocast, `torch.set_float32_matmul_precision`, the `fp32_precision` of torch's backends (from
    torch 2.9), and oneDNN's default mode in the environment. None of them touches float64.
    """
    if device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    if any(os.environ.get(f"{name}_DEFAULT_FPMATH_MODE", "strict").lower() != "strict" for name in ("ONEDNN", "DNNL")):
        return False
    onednn: Any = torch.backends.mkldnn
    places = (torch.backends, onednn, getattr(onednn, "matmul", None), getattr(onednn, "conv", None))
    if any(getattr(place, "fp32_precision", "none") not in ("none", "ieee") for place in places):
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch does not say: older and newer switches contradict each other
        return False


def round_to(x: Tensor, unit: Tensor | float) -> Tensor:
    """x rounded to multiples of `unit`, straight-through."""
    return x + ((x / unit).round() * unit - x).detach()


def on_input_grid(x: Tensor, bits: int) -> Tensor:
    """Images rounded to multiples of 2^(−bits)."""
    return (x * 2.0**bits).round() / 2.0**bits


def grid_of(weight: Tensor, bits: int) -> Tensor:
    """Per output channel the power of two whose multiples hold the weights in `bits` bits with a sign: (out,)."""
    top = weight.detach().abs().flatten(1).amax(1).clamp(min=2.0**-40)
    mantissa, exponent = torch.frexp(top / (2 ** (bits - 1) - 1))
    return torch.ldexp(torch.ones_like(mantissa), exponent - (mantissa == 0.5).to(exponent.dtype))


class OnGrid(nn.Module):
    """What GridLinear and GridConv2d share. bits: of a weight. levels: L of the codes that come in, None: the image."""

    weight: Any
    bias: Any
    bits: int
    levels: int | None

    def quantised(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Weight, bias and the weight's grid (out,)."""
        unit = grid_of(self.weight, self.bits)
        weight = round_to(self.weight, unit.view(-1, *(1,) * (self.weight.dim() - 1)))
        return weight, None if self.bias is None else round_to(self.bias, unit / 2**BIAS_BITS), unit

    def bound(self) -> int | None:
        """The largest sum that can occur, in units of its grid: max over outputs of Σ |w|/unit · L."""
        if self.levels is None:
            return None
        weight, _, unit = self.quantised()
        return round(float((weight.detach().double().abs().flatten(1).sum(1) / unit).max())) * self.levels

    @property
    def accumulates_in(self) -> torch.dtype:
        """The type that sums are exact in: float32 where it is whole and holds the bound; on images, float64."""
        bound = self.bound() if float32_is_whole(self.weight.device) else None
        return torch.float32 if bound is not None and bound <= FLOAT32 else torch.float64

    def forward(self, x: Any) -> Tensor:
        weight, bias, _ = self.quantised()
        if self.training:
            return self._map(x, weight, bias)
        dtype = torch.promote_types(self.accumulates_in, self.weight.dtype)
        y = self._map(x.to(dtype), weight.to(dtype), None).double()
        return y if bias is None else y + bias.double().view(self._channels())

    @abstractmethod
    def _map(self, x: Any, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with these weights."""

    @abstractmethod
    def _channels(self) -> tuple[int, ...]:
        """The shape in which a bias is added."""


class GridLinear(OnGrid, nn.Linear):
    """nn.Linear on a grid."""

    def _map(self, x: Any, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _channels(self) -> tuple[int, ...]:
        return (-1,)


class GridConv2d(OnGrid, nn.Conv2d):
    """nn.Conv2d on a grid."""

    def _map(self, x: Any, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)  # pads as padding_mode says

    def _channels(self) -> tuple[int, ...]:
        return (-1, 1, 1)


GRIDS = {nn.Linear: GridLinear, nn.Conv2d: GridConv2d, GridLinear: GridLinear, GridConv2d: GridConv2d}


def on_grid_(model: nn.Module, bits: int, levels: int) -> nn.Module:
    """Puts every linear map and convolution of the model on grids, in place; returns it.

    bits: of a weight, 8 or more. levels: the most levels of the codes between them. The first layer, in order of
    registration, is taken for the one that sees the image, which has no such levels: it sums in float64.

    Raises:
        ValueError: a batch norm is left (it would have to be folded before), or a layer with other weights.
    """
    if type(bits) is not int or not 2 <= bits <= 16:
        raise ValueError(f"bits={bits!r} of a weight must be a whole number from 2 to 16, 8 is usual")
    levels_in = None  # of the first
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"{name} is a batch norm: fold it into the layer in front of it before going on a grid")
        if (kind := type(layer)) not in GRIDS:
            if not isinstance(layer, Staircase) and next(layer.parameters(recurse=False), None) is not None:
                raise ValueError(f"{name or 'the model'} is a {kind.__name__}: grids exist for Linear and Conv2d")
            continue
        layer.__class__ = GRIDS[kind]
        layer.bits, layer.levels = bits, levels_in
        levels_in = levels
    return model
