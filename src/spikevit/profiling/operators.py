"""What torch's operators mean for a cost: which are products and of what, which move data, which only touch entries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import prod
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """One call of a product of two tensors. geometry: of a convolution, what decides which entries meet."""

    operator: str
    operands: tuple[Tensor, Tensor]
    geometry: tuple[Any, ...] = ()

    @property
    def countable(self) -> bool:
        """Whether entries of its operands can be looked at: not complex or sparse ones."""
        return all(x.layout == torch.strided and not x.is_complex() for x in self.operands)

    def again(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        """The same convolution with another weight, as a function of its input."""
        stride, padding, dilation, transposed, output_padding, groups = self.geometry
        return lambda x: aten.convolution(
            x, weight, None, stride, padding, dilation, transposed, output_padding, groups
        )


def _convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups, *_):
    return Product("conv", (x, weight), (stride, padding, dilation, transposed, output_padding, groups))


def _matmul(a: Tensor, b: Tensor, *_: Any, **_scales: Any) -> Product:
    return Product("matmul", (a, b))


def _added(_bias: Tensor, a: Tensor, b: Tensor, *_: Any, **_scales: Any) -> Product:
    return _matmul(a, b)


PRODUCTS: dict[Any, Callable[..., Product]] = {
    aten.convolution.default: _convolution,
    aten.mm.default: _matmul,
    aten.bmm.default: _matmul,
    aten.mv.default: lambda a, v: _matmul(a, v[:, None]),
    aten.dot.default: lambda a, b: _matmul(a[None], b[:, None]),
    aten.addmm.default: _added,
    aten.addmv.default: lambda bias, a, v, *_, **_scales: _matmul(a, v[:, None]),
    aten.baddbmm.default: _added,
    aten.addbmm.default: _added,
    aten._int_mm.default: _matmul,
}

# The lists of operators.yaml: what an operator that is no product does, by its name.
_LISTS = yaml.safe_load(resources.files("spikevit.profiling").joinpath("operators.yaml").read_text(encoding="utf-8"))
WORK: dict[str, str] = {name: work for work, names in _LISTS.items() for name in names}


def work_of(func: Any) -> tuple[str, str]:
    """An operator's bare name ("add" for aten::add_.Tensor) and its list in operators.yaml, or "unknown"."""
    namespace, _, name = func._schema.name.partition("::")
    if namespace not in ("aten", "prims"):
        return func._schema.name, "unknown"
    for bare in (name, name.rstrip("_"), name.strip("_")):
        if bare in WORK:
            return bare, WORK[bare]
    return name, "unknown"


class Watch(TorchDispatchMode):
    """Sees every operator that runs, and of one that is made of others its parts, unless it is a product."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in PRODUCTS and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        return self.call(func, args, kwargs)

    @abstractmethod
    def call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Runs one operator."""


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among an operator's arguments or results, lists of them too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


@cache
def fan_out(size: int, kernel: int, stride: int, padding: int, dilation: int, outputs: int, transposed: bool):
    """For each of `size` positions along one axis: how many outputs it takes part in, those in bounds only."""
    counts = [0] * size
    for i in range(size):
        for tap in range(kernel):
            if transposed:
                counts[i] += 0 <= i * stride - padding + tap * dilation < outputs
            else:
                o, rest = divmod(i + padding - tap * dilation, stride)
                counts[i] += rest == 0 and 0 <= o < outputs
    return tuple(counts)


def spread_of(product: Product, out: Tensor) -> Tensor:
    """Of a convolution: with how many weights an entry of its input is multiplied, by position (H, W) (float64)."""
    x, weight = product.operands
    stride, padding, dilation, transposed, _, groups = product.geometry
    device = "cpu" if x.is_meta else x.device
    spread = torch.tensor(weight.shape[1] if transposed else weight.shape[0] // groups, device=device).double()
    for i, (size, kernel, outputs) in enumerate(zip(x.shape[2:], weight.shape[2:], out.shape[2:], strict=True)):
        taps = fan_out(size, kernel, stride[i], padding[i], dilation[i], outputs, transposed)
        spread = spread[..., None] * torch.tensor(taps, device=device).double()
    return spread


def dense_macs(product: Product, out: Tensor) -> int:
    """Multiply-accumulates of the dense operation, padding included, as papers and FLOP counters have them."""
    a, b = product.operands
    if product.operator == "conv":
        transposed = product.geometry[3]
        return (a if transposed else out).numel() * prod(b.shape[1:])
    return a.shape[:-2].numel() * a.shape[-2] * a.shape[-1] * b.shape[-1]
