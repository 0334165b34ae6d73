"""What a network is, as one number: its weights, the class of every module and its plain attributes.

The same on every machine and in every process: no addresses, no order of sets, no device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.layers.grid import OnGrid
from spikevit.models import SpikingModel
from spikevit.neurons import ExpG, ExpGIF
from spikevit.profiling.observe import FIRING

NO_STRUCTURE: Any = {FIRING: {"backend"}, OnGrid: {"levels"}, SpikingModel: {"name"}}  # do not change what is computed
OF_ANY_MODULE = frozenset(vars(nn.Module()))
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)


def fingerprint(*models: nn.Module) -> str:
    """SHA-256 of models: of every module its name, class, tensors and plain attributes, such as stride or threshold.

    Attributes that hold functions or objects count with their names only; what a `forward` does, not at all.
    """
    digest = hashlib.sha256()
    for model in models:
        for name, lines in structure(model).items():
            digest.update(repr((name, lines)).encode())
    return digest.hexdigest()


def structure(model: nn.Module) -> dict[str, list[str]]:
    """What is known of every module, by name. One that has several names is described at the first."""
    found: dict[str, list[str]] = {}
    first: dict[nn.Module, str] = {}
    for name, m in model.named_modules(remove_duplicate=False):
        found[name] = [f"is {first[m]}"] if m in first else list(_lines(m))
        first.setdefault(m, name)
    return found


def _lines(m: nn.Module) -> Iterator[str]:
    yield type(m).__name__
    for name, tensor in sorted((m._parameters | m._buffers).items()):
        yield f"{name} {as_text(tensor)}"
    without = OF_ANY_MODULE.union(*(names for kind, names in NO_STRUCTURE.items() if isinstance(m, kind)))
    for name, value in sorted(vars(m).items()):
        if name not in without:
            yield f"{name} = {as_text(value)}"


def as_text(value: Any) -> str:
    """A value as text; lists and tuples alike, of a dataclass what differs from its defaults."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        return f"{plain.dtype} {tuple(plain.shape)} {hashlib.sha256(_bytes(plain)).hexdigest()}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_text, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(as_text, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{as_text(k)}: {as_text(v)}' for k, v in value.items()))}}}"
    if is_dataclass(value) and not isinstance(value, type):
        texts = {f.name: as_text(getattr(value, f.name)) for f in fields(value)}
        return type(value).__name__ + as_text(
            {f.name: texts[f.name] for f in fields(value) if texts[f.name] != _default(f)}
        )
    return getattr(value, "__qualname__", type(value).__qualname__)


def _default(f: Any) -> str:
    return as_text(f.default if f.default_factory is MISSING else f.default_factory())


def _bytes(tensor: Tensor) -> bytes:
    return tensor.flatten().view(torch.uint8).numpy().tobytes()


def fingerprint_1(*models: nn.Module) -> str:
    """That of certificates of format 1: tensors by name, codes of neurons, bits of weights, and nothing else."""
    digest = hashlib.sha256()
    for model in models:
        for name, tensor in model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor.detach().cpu().contiguous()))
        for name, m in model.named_modules():
            if isinstance(c := getattr(m, "code", None), ExpG):  # by group, as all spikes of before
                order = ", weight" if isinstance(m, ExpGIF) and len(c.plain) > 2 else ""
                digest.update(f"{name} ExpG(steps={c.steps}, groups={c.groups}{order})".encode())
            elif hasattr(m, "code"):
                digest.update(f"{name} {m.code}".encode())
            if hasattr(m, "bits"):
                digest.update(f"{name} {m.bits}".encode())
    return digest.hexdigest()
