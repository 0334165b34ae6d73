"""ExpG-IF(n, G): the staircase as a layer to train, and the neuron that fires the same numbers as spikes.

Reconstruction: the paper's text was not available (Hao et al., Ge2mS-T, arXiv 2604.08894).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from spikevit.errors import unknown
from spikevit.neurons import staircase_numba
from spikevit.neurons.spike_train import SpikeTrain, horner
from spikevit.neurons.staircase import BACKENDS, ExpG, codes, expected_count, in_force, staircase
from spikevit.schema import positive, wrong


class Staircase(nn.Module):
    """A layer of ExpG-IF neurons for training: x (..., C) to a (..., C) = Δ·k, the equations are in `staircase`.

    No time axis and no state: cost does not depend on T.

    Args:
        code: steps and groups of the spikes that the neurons will fire.
        threshold: θ > 0 to start from; it learns. Below 2^−20 it counts as 2^−20 (nothing checks it while training).
        channels: C, for a threshold per channel; None for one.
        power_of_two: exact mode, Δ = 2^e: θ is rounded to L·2^round(log2(θ/L)), straight-through.
        backend: "fused", "numba" or "plain".
    """

    def __init__(
        self,
        code: ExpG,
        threshold: float = 1.0,
        *,
        channels: int | None = None,
        power_of_two: bool = False,
        backend: str = "fused",
    ):
        super().__init__()
        positive("threshold", threshold)
        if backend not in BACKENDS:
            raise unknown("backend", backend, BACKENDS)
        if backend == "numba":
            staircase_numba.compiled()
        self.code = code
        self.power_of_two = power_of_two
        self.backend = backend
        self.threshold = nn.Parameter(torch.full(() if channels is None else (channels,), float(threshold)))

    def forward(self, x: Tensor, stream: None = None) -> Tensor:
        return staircase(x, self.threshold, self.code, power_of_two=self.power_of_two, backend=self.backend)

    def codes(self, x: Tensor) -> Tensor:
        """k of x (...): integers from 0 to L."""
        return codes(x, self.threshold, self.code, self.power_of_two)

    def expected_count(self, x: Tensor) -> Tensor:
        """c̄ of clip(x/Δ, 0, L): how many spikes x costs, differentiable in x and in the threshold."""
        theta = in_force(self.threshold, self.code, self.power_of_two) + (self.threshold - self.threshold.detach())
        return expected_count(x / (theta / self.code.levels), self.code)

    @property
    def quantum(self) -> Tensor:
        """Δ = θ/L, of the threshold in force."""
        return in_force(self.threshold, self.code, self.power_of_two) / self.code.levels

    def extra_repr(self) -> str:
        channels = len(self.threshold) if self.threshold.dim() else None
        return f"{self.code}, channels={channels}, power_of_two={self.power_of_two}, backend={self.backend}"


class ExpGIF(nn.Module):
    """A layer of ExpG-IF neurons that spike: whole weighted inputs x (...) to spikes (T, ...) in {0, 1}.

        charge  v = Δ/2 + x                                             Δ = θ/L
        fire    for step j = 1..n, group g = 1..G:
                s_gj = [v ≥ w_j],  v ← v − w_j·s_gj                     w_j = Δ·2^(n−j)

    That is by weight, with the fewest spikes; with a code of order "group" the loop over groups is the outer one.

    The decoded output Σ_g Σ_j w_j·s_gj is `staircase(x)`: exactly where Δ is a power of two, else but within a few
    ulp of a boundary between codes. Shares no code with the staircase. Half-precision inputs are integrated in
    float32.

    Args:
        threshold: θ > 0, shape () or (C,).
        code: steps, groups, and the order in which they fire.

    Source: reconstruction: the paper's text was not available (Hao et al., Ge2mS-T, arXiv 2604.08894).
    """

    threshold: Tensor

    def __init__(self, threshold: float | Tensor, code: ExpG):
        super().__init__()
        threshold = torch.as_tensor(threshold).detach().clone()
        if not threshold.is_meta and not ((threshold > 0) & threshold.isfinite()).all():
            raise wrong("threshold", threshold.tolist(), "finite and greater than 0 everywhere")
        self.register_buffer("threshold", threshold)
        self.code = code

    @classmethod
    def from_staircase(cls, layer: Staircase, code: ExpG | None = None) -> ExpGIF:
        """The neurons that `layer` was trained for; `code` may group the same L levels otherwise."""
        code = code or layer.code
        if code.levels != layer.code.levels:
            raise ValueError(
                f"code={code} makes {code.levels} levels; it must make the {layer.code.levels} of the staircase, "
                "groups·(2^steps − 1)"
            )
        return cls(in_force(layer.threshold, layer.code, layer.power_of_two), code)

    def forward(self, x: Tensor, stream: None = None) -> SpikeTrain:
        return SpikeTrain(self.fire(x), self.code, self._weights(x.dtype)[-1])

    def fire(self, x: Tensor | SpikeTrain) -> Tensor:
        """Spikes (T, ...) of x (...), in x's dtype. x may be a sum of spikes."""
        x = x.decode() if isinstance(x, SpikeTrain) else x
        wide = torch.promote_types(x.dtype, torch.float32)
        weights = self._weights(wide)
        v = weights[-1] / 2 + x.to(wide)
        spikes = x.new_empty(len(weights), *x.shape)
        for s, w in zip(spikes, weights, strict=True):
            fires = v >= w
            v = torch.where(fires, v - w, v)
            s.copy_(fires)
        return spikes

    def decode(self, spikes: Tensor) -> Tensor:
        """Σ_g Σ_j w_j·s_gj of spikes (T, ...), in their dtype."""
        wide = torch.promote_types(spikes.dtype, torch.float32)
        _check_time(spikes, self.code)
        return (horner(spikes.to(wide), self.code) * self._weights(wide)[-1]).to(spikes.dtype)

    def codes(self, spikes: Tensor) -> Tensor:
        """Integer codes of spikes (T, ...)."""
        _check_time(spikes, self.code)
        return horner(spikes.to(torch.int32), self.code)

    @property
    def weights(self) -> Tensor:
        """w of all T steps, shape (T,) or (T, C); the last one is Δ."""
        return self._weights(self.threshold.dtype)

    def _weights(self, dtype: torch.dtype) -> Tensor:
        quantum = self.threshold.to(dtype) / self.code.levels
        return torch.stack([quantum * w for w in self.code.weights])

    def extra_repr(self) -> str:
        return f"{self.code}, channels={len(self.threshold) if self.threshold.dim() else None}"


def spiking_(model: nn.Module, codes: Mapping[str, ExpG]) -> nn.Module:
    """Puts neurons that spike in the place of every staircase of the model; codes: where not the staircase's own."""
    neurons: dict[nn.Module, ExpGIF] = {}  # a layer may be known by several names, of which the first counts
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if isinstance(layer, Staircase):
            if layer not in neurons:
                try:
                    neurons[layer] = ExpGIF.from_staircase(layer, codes.get(name))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
            model.set_submodule(name, neurons[layer])
    return model


def receive(f: Callable[[Tensor], Tensor], spikes: Tensor, code: ExpG, quantum: float | Tensor = 1.0) -> Tensor:
    """f(decoded spikes) for a linear map f without bias, from spikes (T, ...) step by step and without multiplying.

    Of steps by weight acc ← 2·acc + Σ_g f(s_gj), a shift and additions, see `horner`; Δ comes last, where it folds into
    the next scale. Equal to f(decode(spikes)) to the bit where Δ is a power of two and the sums of f are exact.
    """
    if isinstance(quantum, Tensor) and quantum.dim():
        raise ValueError(
            f"quantum of shape {tuple(quantum.shape)} must be one number; fold one per channel into the weights of f"
        )
    _check_time(spikes, code)
    return horner(torch.stack([f(s) for s in spikes]), code) * quantum


def rates(spikes: Tensor, code: ExpG) -> Tensor:
    """Firing rate of each group and step, float64 (G, n), of spikes (T, ...)."""
    _check_time(spikes, code)
    count = spikes.flatten(1).count_nonzero(1).double()
    return code.by_group(count / spikes[0].numel())


def histogram(codes: Tensor, levels: int) -> Tensor:
    """How often each code 0 … L occurs, int64 (L + 1,)."""
    counts = torch.bincount(codes.flatten(), minlength=levels + 1)
    if len(counts) > levels + 1:
        raise ValueError(f"codes up to {len(counts) - 1} are more than levels={levels} allow")
    return counts


def _check_time(spikes: Tensor, code: ExpG) -> None:
    if len(spikes) != code.time_steps:
        raise ValueError(f"spikes of {len(spikes)} time steps are not those of {code}, which takes {code.time_steps}")
