"""Linear map and convolution, each with batch norm, over time-first tensors; with and without neurons behind.

Tokens are (T, B, ..., C), maps (T, B, H, W, C). Batch statistics run over time, batch and space together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.neurons import Neurons, SomeSteps, Steady, Stream, build_neurons, needed


def is_constant(x: Tensor) -> bool:
    """Whether x (T, ...) is one step seen T times: a view of stride 0 over time, as of an image shown T times."""
    return len(x) > 1 and x.stride(0) == 0


def steps_apart(f, x: Any, *, rest: Tensor | None = None) -> Any:
    """f on (T·B, ...) for an f that treats all steps alike; once only, where x is constant over time.

    rest: what f makes of zeros, a vector over the last axis or None for zeros.
    """
    if isinstance(x, SomeSteps):
        return x.map(lambda data: steps_apart(f, data), rest) if x.rest is None else steps_apart(f, x.dense())
    if is_constant(x):
        y = f(x[0])
        return y.expand(len(x), *y.shape)
    return f(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def batch_norm(bn: Any, x: Tensor) -> Tensor:
    """Batch norm with the statistics of x (T, B, ..., C) over all axes but the last; updates the running ones.

    A constant x is normalised once. Its mean and variance are those of all T steps; the running variance gets the
    Bessel factor of T·B·H·W values, as if every step had been computed.
    """
    if not is_constant(x):
        return bn(x.flatten(0, -2)).view(x.shape)
    once = x[0].flatten(0, -2)
    before = bn.running_var.clone()
    y = bn(once).view(x[0].shape)
    n = len(once)
    share = 1 / bn.num_batches_tracked if bn.momentum is None else bn.momentum  # of this batch; None is a plain mean
    kept = before * (1 - share)
    bessel = len(x) * (n - 1) / (len(x) * n - 1)
    bn.running_var.data.copy_(kept + bessel * (bn.running_var - kept))  # .data: backward does not need the old value
    return y.expand(x.shape)


def folded(layer: nn.Linear | nn.Conv1d | nn.Conv2d, bn: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of `layer` followed by `bn` with its running statistics, as one affine map."""
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    shift = bn.bias - bn.running_mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias * scale
    return layer.weight * scale.view(-1, *(1,) * (layer.weight.dim() - 1)), shift


class LinearBN(nn.Module):
    """y = BN(W x + b) on the last axis of x (T, B, ..., C); in evaluation the two are one affine map.

    `bn` is None where it was folded into `linear` for good (`fold_batch_norm`).
    """

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out, bias=bias)
        self.bn: nn.BatchNorm1d | None = nn.BatchNorm1d(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.bn is None:
            return self.linear(x)
        if self.bn.training:
            return batch_norm(self.bn, self.linear(x))
        weight, bias = folded(self.linear, self.bn)
        return x.linear(self, weight, bias) if isinstance(x, Steady) else F.linear(x, weight, bias)


class SpikingLinear(LinearBN):
    """LIF(BN(W x + b)): spikes (T, B, ..., dim_out)."""

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = True, neuron: Neurons, threshold: float = 1.0):
        super().__init__(dim_in, dim_out, bias=bias)
        self.lif = build_neurons(neuron, threshold)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.lif(LinearBN.forward(self, needed(self.lif, x, stream)), stream)


class MembraneLinear(LinearBN):
    """BN(W · LIF(x) + b): pre-activation, from membrane potentials to membrane potentials (T, B, ..., dim_out)."""

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = True, neuron: Neurons):
        super().__init__(dim_in, dim_out, bias=bias)
        self.lif = build_neurons(neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return LinearBN.forward(self, self.lif(x, stream))


class ConvBN(nn.Module):
    """y = BN(conv(x)) on maps (T, B, H, W, C), padded so that stride 1 keeps an odd kernel's H × W; no bias.

    `bn` is None where it was folded into `conv` for good (`fold_batch_norm`); then `conv` has a bias.
    """

    def __init__(self, dim_in: int, dim_out: int, *, kernel: int = 3, stride: int = 1, groups: int = 1):
        super().__init__()
        padding = (kernel - 1) // 2 * (kernel % 2)
        self.conv = nn.Conv2d(dim_in, dim_out, kernel, stride, padding=padding, groups=groups, bias=False)
        self.bn: nn.BatchNorm1d | None = nn.BatchNorm1d(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.bn is None:
            return steps_apart(lambda m: as_maps(self.conv, m), x, rest=self.conv.bias)
        if self.bn.training:
            return batch_norm(self.bn, steps_apart(lambda m: as_maps(self.conv, m), x))
        conv, (weight, bias) = self.conv, folded(self.conv, self.bn)

        def convolve(maps: Tensor) -> Tensor:
            return F.conv2d(maps, weight, bias, conv.stride, conv.padding, groups=conv.groups)

        return steps_apart(lambda m: as_maps(convolve, m), x, rest=bias)


class SpikingConv(ConvBN):
    """LIF(BN(conv(x))) with a 3×3 max pool of stride 2 ahead of the neurons, behind them, or nowhere.

    pool: "membrane" (between BN and LIF), "spikes" (behind the LIF) or None. Spikes (T, B, H', W', dim_out).
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        pool: str | None = None,
        neuron: Neurons,
    ):
        super().__init__(dim_in, dim_out, kernel=kernel, stride=stride)
        self.pool = pool
        self.lif = build_neurons(neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = ConvBN.forward(self, needed(self.lif, x, stream))
        if self.pool == "membrane":
            x = max_pool(x)
        x = self.lif(x, stream)
        return max_pool(x) if self.pool == "spikes" else x


class MembraneConv(ConvBN):
    """BN(conv(LIF(x))), optionally with a 3×3 max pool of stride 2 on the spikes: membrane potentials in and out."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        pool: bool = False,
        neuron: Neurons,
    ):
        super().__init__(dim_in, dim_out, kernel=kernel, stride=stride, groups=groups)
        self.pool = pool
        self.lif = build_neurons(neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        spikes = self.lif(x, stream)
        return ConvBN.forward(self, max_pool(spikes) if self.pool else spikes)


def as_maps(f, x: Tensor) -> Tensor:
    """f, which takes (B, C, H, W), on x (B, H, W, C): the same memory, read in channels-last format."""
    return f(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def max_pool(x: Any) -> Any:
    """3×3 max pool of stride 2, padding 1, on maps (T, B, H, W, C)."""

    def pool(maps: Tensor) -> Tensor:
        return as_maps(lambda m: F.max_pool2d(m, 3, stride=2, padding=1), maps)

    if isinstance(x, SomeSteps):  # of one value for each channel, it is the same
        return x.map(lambda data: steps_apart(pool, data), x.rest)
    return steps_apart(pool, x)
