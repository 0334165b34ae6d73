"""Counting operations where they happen: every convolution and matrix product that torch executes, by module.

At the level of tensor operators, so that functional products and custom attention are seen too. Nothing is kept
but counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spikevit.models import SpikingModel

aten = torch.ops.aten


@dataclass
class Operand:
    """Entries of a data operand, summed over all calls, and how many of them were not zero."""

    nonzero: int = 0
    size: int = 0

    @property
    def rate(self) -> float:
        """Share of entries that are not zero: for spikes, the firing rate."""
        return self.nonzero / self.size if self.size else 0.0


@dataclass
class OperatorCount:
    """What one operator of one module did, summed over all calls.

    macs: multiply-accumulates of the dense operation (padding included). operands: the data that went in; weights
    are not data, so a product of two activations has two, convolution and linear map have one.
    """

    module: str
    operator: str
    calls: int = 0
    macs: int = 0
    operands: list[Operand] = field(default_factory=list)

    def add(self, macs: int, data: list[Tensor]) -> None:
        """One more call."""
        self.calls += 1
        self.macs += macs
        self.operands = self.operands or [Operand() for _ in data]
        for operand, x in zip(self.operands, data, strict=True):
            operand.nonzero += int(x.count_nonzero())
            operand.size += x.numel()


def _convolution(x, weight, bias, stride, padding, dilation, transposed, *_):
    return "conv", lambda out: (x if transposed else out).numel() * prod(weight.shape[1:]), [x]


def _linear(x: Tensor, weight: Tensor, *_: Any) -> tuple[str, Callable[[Tensor], int], list[Tensor]]:
    return "linear", lambda out: out.numel() * x.shape[-1], [x]


def _product(a: Tensor, b: Tensor, *_: Any) -> tuple[str, Callable[[Tensor], int], list[Tensor]]:
    return "matmul", lambda out: out.numel() * a.shape[-1], [a, b]


OPERATORS: dict[Any, Callable[..., tuple[str, Callable[[Tensor], int], list[Tensor]]]] = {
    aten.convolution.default: _convolution,
    aten.linear.default: _linear,
    aten.mm.default: _linear,
    aten.addmm.default: lambda bias, x, weight, *_: _linear(x, weight),
    aten.bmm.default: _product,
    aten.baddbmm.default: lambda bias, a, b, *_: _product(a, b),
}


class _Counter(TorchDispatchMode):
    """Sees every operator; `running` are the modules that run, the innermost last, each with its operators so far."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, Counter[str]]] = [("", Counter())]
        self.counts: dict[tuple[str, str, int], OperatorCount] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in OPERATORS:
            operator, macs, data = OPERATORS[func](*args)
            module, seen = self.running[-1]
            key = module, operator, seen[operator]  # the n-th of its kind in one forward of the module
            seen[operator] += 1
            self.counts.setdefault(key, OperatorCount(module, operator)).add(macs(out), data)
        return out


@torch.no_grad()
def count(model: nn.Module, batches: Tensor | Iterable[Tensor]) -> list[OperatorCount]:
    """Runs the model over batches of images (or one batch) and counts its operators, in order of execution.

    What is executed is what is counted: a convolution that is shared by all time steps counts once.
    """
    with ExitStack() as stack:
        counter = stack.enter_context(_Counter())
        for name, module in model.named_modules():
            enter = module.register_forward_pre_hook(lambda *_, name=name: counter.running.append((name, Counter())))
            leave = module.register_forward_hook(lambda *_: counter.running.pop() and None)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        for images in [batches] if isinstance(batches, Tensor) else batches:
            model(images)
    return list(counter.counts.values())


def dense_macs(model: SpikingModel) -> int:
    """Multiply-accumulates of one image over all its time steps, of all convolutions and matrix products.

    As executed (the first convolution once for a still image), from shapes alone: works on the meta device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    c = model.config
    image = torch.empty(1, c.in_channels, *c.image_size, device=model.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops() // 2
