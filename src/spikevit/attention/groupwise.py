"""Group-wise attention (Ge²mS-T): heads look at windows of several sizes; spikes only, and a shift for a scale.

Reconstruction: the paper's text was not available (Hao et al., arXiv 2604.08894).
"""

from __future__ import annotations

from abc import abstractmethod
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.attention.mixer import Mixer
from spikevit.attention.ssa import spike_attention
from spikevit.neurons import Neurons, Stream

ACTIVATION = 0.4  # mean of clip(x, 0, θ) for x ~ N(0, 1) behind batch norm, θ about 2


class Groupwise(Mixer):
    """Heads are divided among the scales; scale s cuts the grid H × W into windows of w_s × w_s tokens.

    Grids that do not divide are padded behind the neurons, with zeros, which neither fire nor attend.

    Args:
        windows: side of each scale's windows, in tokens; 0 is the whole grid. Their number divides the heads.
        grid: (H, W) of the tokens, where they come without (T, B, N, C).
    """

    def __init__(
        self, dim: int, heads: int, *, windows: tuple[int, ...] = (0,), grid: tuple[int, int] | None = None, **options
    ):
        super().__init__(dim, heads, **options)
        if not windows or any(type(side) is not int or side < 0 for side in windows):
            raise ValueError(f"windows={windows!r} must be sides in tokens, 0 for the whole grid")
        if heads % len(windows):
            raise ValueError(f"windows={windows!r} are {len(windows)} scales, which do not divide num_heads={heads}")
        if grid and max(windows) > max(grid):
            raise ValueError(f"windows={windows!r} are larger than the grid of {grid[0]} × {grid[1]} tokens")
        self.windows, self.grid = windows, grid

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if x.dim() == 5:
            maps = x
        else:
            if not self.grid or self.grid[0] * self.grid[1] != x.shape[2]:
                raise ValueError(f"windows need the grid of the {x.shape[2]} tokens, not {self.grid}: set image_size")
            maps = x.unflatten(2, self.grid)
        if self.lif is not None:
            maps = self.lif(maps, stream)
        out = self.mix(self.proj_in(maps, stream), maps, stream)
        return self.project(out, stream).view(x.shape)

    def mix(self, parts: Tensor, x: Tensor, stream: Stream | None) -> Tensor:
        """From spikes of all parts (T, B, H, W, parts · C) to the input of proj_out (T, B, H, W, C)."""
        grid = (parts.shape[2], parts.shape[3])
        scales = parts.unflatten(-1, (len(self.parts), len(self.windows), -1)).unbind(-2)
        mixed = [self._scale(i, part, grid, stream) for i, part in enumerate(scales)]
        return self.after(torch.cat(mixed, -1), stream)

    def _scale(self, i: int, part: Tensor, grid: tuple[int, int], stream: Stream | None) -> Tensor:
        """Scale i's share of the channels (T, B, H, W, parts, c) to (T, B, H, W, c)."""
        (height, width), side = grid, self.windows[i]
        h, w = (side or height), (side or width)
        part = part.flatten(-2)
        if height % h or width % w:
            part = F.pad(part, (0, 0, 0, -width % w, 0, -height % h))
        windows = part.unflatten(3, (-1, w)).unflatten(2, (-1, h)).movedim(4, 3)  # (T, B, H/h, W/w, h, w, parts · c)
        heads = self.heads // len(self.windows)
        tokens = windows.flatten(4, 5).unflatten(-1, (len(self.parts), heads, -1)).movedim(4, -2)
        mixed = self.attend(i, tokens, stream).movedim(-2, 4).flatten(5)  # (T, B, H/h, W/w, M, c)
        maps = mixed.unflatten(4, (h, w)).movedim(3, 4).flatten(4, 5).flatten(2, 3)
        return maps[:, :, :height, :width]

    @abstractmethod
    def attend(self, scale: int, parts: Tensor, stream: Stream | None) -> Tensor:
        """Within windows: (T, B, …, parts, heads, M, d) to (T, B, …, heads, M, d)."""

    def after(self, x: Tensor, stream: Stream | None) -> Tensor:
        """Behind all scales: x as it is."""
        return x


class GroupwiseSSA(Groupwise):
    """GW-SSA: O = q kᵀ v · 2^(−p) in every window, then neurons; no softmax, the cheaper order of products.

    2·N·min(M, d)·d multiplications a head for windows of M tokens, linear in the number of tokens N.

    Args:
        shift: p; None keeps O at unit scale for fresh weights: round(log2(M·d·0.4³)) for each scale.
    """

    def __init__(self, dim: int, heads: int, *, shift: int | None = None, **options):
        super().__init__(dim, heads, **options)
        if shift is not None and type(shift) is not int:
            raise ValueError(f"shift={shift!r} must be a whole number: the scale is 2^(−shift)")
        self.shift = shift

    def attend(self, scale: int, parts: Tensor, stream: Stream | None) -> Tensor:
        """The product."""
        q, k, v = parts.unbind(-4)
        tokens, width = q.shape[-2:]
        shift = round(log2(tokens * width * ACTIVATION**3)) if self.shift is None else self.shift
        return spike_attention(q, k, v, 2.0**-shift)

    def after(self, x: Tensor, stream: Stream | None) -> Tensor:
        """Neurons."""
        return self.attn_lif(x, stream)


class GroupwiseQK(Groupwise):
    """Q-K channel masks inside windows: mask = neuron(Σ_tokens q), which channels of k pass in a window.

    No product of matrices. The neurons of the mask fire once, or not.
    """

    parts = ("q", "k")

    def __init__(self, dim: int, heads: int, *, neuron: Neurons, **options):
        super().__init__(dim, heads, neuron=neuron, **options)
        self.attn_lif = nn.ModuleList(neuron.mask() for _ in self.windows)

    def attend(self, scale: int, parts: Tensor, stream: Stream | None) -> Tensor:
        """mask ⊙ k."""
        q, k = parts.unbind(-4)
        masks: Any = self.attn_lif
        return masks[scale](q.sum(-2, keepdim=True), stream) * k
