"""Surrogate gradients: smooth stand-ins for the derivative of the Heaviside step.

Each is a frozen dataclass with two pure functions of u = h - threshold (any shape, elementwise): `derivative`,
which backpropagation uses, and `primitive`, the smooth step whose exact derivative it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from spikevit.errors import unknown
from spikevit.schema import positive


@dataclass(frozen=True)
class Surrogate(ABC):
    """A smooth step; `alpha` > 0 sets how steep it is."""

    alpha: float

    def __post_init__(self) -> None:
        positive(f"{type(self).__name__}: alpha", self.alpha)

    @abstractmethod
    def primitive(self, u: Tensor) -> Tensor:
        """The smooth step, rising from about 0 to about 1."""

    @abstractmethod
    def derivative(self, u: Tensor) -> Tensor:
        """d primitive / du."""

    def backward(self, grad: Tensor, u: Tensor) -> Tensor:
        """grad · derivative(u); a subclass may do it in fewer passes over memory."""
        return self.derivative(u).mul_(grad)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """ds/du = α σ(αu) (1 − σ(αu)). Default α = 4, as in SpikingJelly."""

    alpha: float = 4.0

    def primitive(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.alpha * u)

    def derivative(self, u: Tensor) -> Tensor:
        sg = torch.sigmoid(self.alpha * u)
        return self.alpha * sg * (1 - sg)

    def backward(self, grad: Tensor, u: Tensor) -> Tensor:
        return torch.ops.aten.sigmoid_backward(grad, (self.alpha * u).sigmoid_()).mul_(self.alpha)


@dataclass(frozen=True)
class ATan(Surrogate):
    """ds/du = (α/2) / (1 + (π α u / 2)²) (Fang et al., ICCV 2021). Default α = 2."""

    alpha: float = 2.0

    def primitive(self, u: Tensor) -> Tensor:
        return torch.atan(math.pi / 2 * self.alpha * u) / math.pi + 0.5

    def derivative(self, u: Tensor) -> Tensor:
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * u).square())


@dataclass(frozen=True)
class Triangle(Surrogate):
    """ds/du = α max(0, 1 − α|u|): a hat of area 1 (Bellec et al., NeurIPS 2018)."""

    alpha: float = 1.0

    def primitive(self, u: Tensor) -> Tensor:
        w = (self.alpha * u).clamp(-1, 1)
        return 0.5 + w - 0.5 * w * w.abs()

    def derivative(self, u: Tensor) -> Tensor:
        return self.alpha * (1 - self.alpha * u.abs()).clamp_min(0)


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """ds/du = α where |u| ≤ 1/(2α), else 0: a box of area 1 (Wu et al., STBP, 2018)."""

    alpha: float = 1.0

    def primitive(self, u: Tensor) -> Tensor:
        return (self.alpha * u + 0.5).clamp(0, 1)

    def derivative(self, u: Tensor) -> Tensor:
        return self.alpha * (u.abs() <= 0.5 / self.alpha).to(u.dtype)


@dataclass(frozen=True)
class Dspike(Surrogate):
    """ds/du = γ (1 − tanh²(γu)) / (2 tanh γ) where |u| ≤ 1, else 0 (Li et al., NeurIPS 2021); `alpha` is γ."""

    alpha: float = 2.5

    def primitive(self, u: Tensor) -> Tensor:
        return torch.tanh(self.alpha * u.clamp(-1, 1)) / (2 * math.tanh(self.alpha)) + 0.5

    def derivative(self, u: Tensor) -> Tensor:
        slope = self.alpha * (1 - torch.tanh(self.alpha * u).square()) / (2 * math.tanh(self.alpha))
        return slope * (u.abs() <= 1).to(u.dtype)


SURROGATES: dict[str, type[Surrogate]] = {
    "sigmoid": Sigmoid,
    "atan": ATan,
    "triangle": Triangle,
    "rectangle": Rectangle,
    "dspike": Dspike,
}


def make_surrogate(name: str, alpha: float | None = None) -> Surrogate:
    """The surrogate called `name`, with its default steepness unless `alpha` is given."""
    if name not in SURROGATES:
        raise unknown("surrogate", name, SURROGATES)
    kind = SURROGATES[name]
    return kind(alpha if alpha is not None else fields(kind)[0].default)  # type: ignore[arg-type]
