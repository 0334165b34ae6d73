"""Dynamic time steps: every layer of neurons, or every block, learns at which time steps its spikes are worth it.

Reconstruction after Datta, Liu, Li, Beerel, "Spiking Neural Networks with Dynamic Time Steps for Vision Transformers"
(arXiv 2311.16456; ICASSP 2025), of which the abstract was available: trainable scores of time steps, a binary mask of
them on the spikes of every layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.adaptive.adapted import Adapted, require_time
from spikevit.errors import unknown
from spikevit.layers import Block
from spikevit.models import SpikingModel
from spikevit.neurons import Neuron, TimeGate
from spikevit.neurons.gate import PATTERNS
from spikevit.schema import NotNegative, Share, fit, of_kind, wrong

PER = ("layer", "block")
FIRST, LAST = 0.8, 0.2  # scores that training starts from: the last step is the easiest to close


class DynamicTimeSteps(Adapted):
    """A model whose layers of neurons pass spikes at some of its T time steps: S_t ← m_t · S_t (`time_mask`).

    loss = task + weight · mean_l Σ_t σ(a_t^l), or with a target: task + weight · max(0, mean_l Σ_t m_t^l − target);
    l over layers of neurons. See `allocate_time_steps`.
    """

    method = "time_steps"
    work_unit = "time steps, mean over layers"

    def __init__(
        self,
        model: SpikingModel,
        units: Mapping[str, list[str]],
        gates: Sequence[TimeGate],
        *,
        per: str,
        pattern: str,
        target: float | None,
        weight: float,
    ):
        super().__init__(model)
        self.per, self.pattern, self.target, self.weight = per, pattern, target, weight
        self.units = dict(units)
        self.gates = nn.ModuleList(gates)
        neurons = dict(model.named_modules())
        for gate, names in zip(gates, self.units.values(), strict=True):
            for name in names:
                object.__setattr__(neurons[name], "gate", gate)  # not a child of the neuron: several share it
        self.train(model.training)

    @property
    def frozen(self) -> bool:
        """Whether the masks are constants, and what they close is not computed."""
        return all(gate.fixed is not None for gate in self._gates())

    def options(self) -> dict[str, Any]:
        """Of `allocate_time_steps`; of a frozen model its masks."""
        options = {"max_steps": self.config.time_steps, "per": self.per, "pattern": self.pattern}
        options |= {"target": self.target, "weight": self.weight}
        if self.frozen:
            options["frozen"] = {
                unit: [int(bit) for bit in gate.open] for unit, gate in zip(self.units, self._gates(), strict=True)
            }
        return options

    def table(self) -> dict[str, tuple[bool, ...]]:
        """The mask of every layer of neurons, by name, in the order of the network's modules."""
        of = {name: gate.open for gate, names in zip(self._gates(), self.units.values(), strict=True) for name in names}
        return {name: of[name] for name, m in self.model.named_modules() if isinstance(m, Neuron)}

    def __rich__(self):
        from spikevit.report.terminal import time_steps

        return time_steps(self)

    @property
    def mean_steps(self) -> float:
        """mean_l Σ_t m_t^l over layers of neurons, of the T steps that the model runs."""
        table = [mask[: self.config.time_steps] for mask in self.table().values()]
        return sum(map(sum, table)) / len(table)

    @property
    def meets_target(self) -> bool:  # type: ignore[override]
        """Whether mean_steps is down to the target."""
        return self.target is None or self.mean_steps <= self.target + 1e-9

    def penalty(self) -> Tensor:
        """What is added to the task's loss."""
        if self.frozen:
            return super().penalty()
        if self.target is None:
            return self.weight * self._mean([gate.scores.sigmoid() for gate in self._gates()])
        return self.weight * (self._mean([gate.mask() for gate in self._gates()]) - self.target).relu()

    def _mean(self, masks: list[Tensor]) -> Tensor:
        layers = torch.tensor([len(names) for names in self.units.values()]).to(masks[0])
        return (torch.stack(masks).sum(1) * layers).sum() / layers.sum()

    def _gates(self) -> Iterator[Any]:
        return iter(self.gates)

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and the mean number of open steps over layers, the same for all images (B,)."""
        logits = self(images)
        return logits, torch.full((len(logits),), self.mean_steps, device=logits.device)

    def freeze(self) -> DynamicTimeSteps:
        """A copy whose masks are constants: in evaluation, masked (layer, step) cells are not computed.

        A closed step emits zeros. What sees nothing but closed steps is known without computing it: the bias remains.
        Currents behind a layer's last open step are not computed, nor is its membrane. A layer with no open step
        emits nothing at all. Spikes and logits are those of the masked model.
        """
        return self._fixed([gate.open for gate in self._gates()])

    def _fixed(self, masks: Sequence[Sequence[bool]]) -> DynamicTimeSteps:
        gates = [TimeGate(pattern=self.pattern, fixed=mask) for mask in masks]
        return DynamicTimeSteps(
            copy.deepcopy(self.model),
            self.units,
            gates,
            per=self.per,
            pattern=self.pattern,
            target=self.target,
            weight=self.weight,
        )

    @property
    def knob(self) -> str:
        """The score σ(a) above which a step is open; of a frozen model, how many steps it runs."""
        return "time_steps" if self.frozen else "score"

    @property
    def setting(self) -> float:
        """1/2, or T."""
        return float(self.config.time_steps) if self.frozen else 0.5

    def settings(self) -> list[float]:
        """Some of the scores that occur, and 1/2, the highest first: it opens the fewest steps. Frozen: 1 … T."""
        if self.frozen:
            return list(map(float, super().settings()))
        scores = torch.cat([gate.scores.detach().double() for gate in self._gates()]).sigmoid().unique()
        chosen = scores[torch.linspace(0, len(scores) - 1, min(10, len(scores))).long()][:-1]  # above all: none is open
        return sorted({0.5, *(round(s, 4) for s in chosen.tolist())}, reverse=True)

    def at(self, setting: float) -> SpikingModel:
        """The model with steps open whose score is above the setting, 0 to 1; of a frozen one, its first steps."""
        if self.frozen:
            return super().at(setting)
        setting = fit(setting, Share, "score")
        bits = [gate.scores.detach().double().sigmoid() > setting for gate in self._gates()]
        masks = [(b.long().cumprod(0) if self.pattern == "prefix" else b).tolist() for b in bits]
        return self._fixed(masks)


def allocate_time_steps(
    model: SpikingModel,
    max_steps: int | None = None,
    *,
    per: str = "layer",
    pattern: str = "prefix",
    target: float | None = None,
    weight: float = 0.3,
    steps: Mapping[str, int | Sequence[int]] | None = None,
    frozen: Mapping[str, Sequence[int]] | None = None,
) -> DynamicTimeSteps:
    """A copy of the model with trainable scores for each time step of each layer of neurons, and the masks of them.

    Args:
        model: any with a time axis.
        max_steps: T, the model's own where None. All masks start open.
        per: "layer" (scores for each layer of neurons) or "block" (shared by the layers of a block, or of a part of
            the stem).
        pattern: "prefix" (a layer is active for its first steps, which saves most) or "free".
        target: mean number of open steps over layers to train towards; None trains with a penalty on all scores.
        weight: of the penalty, λ.
        steps: by layer or block, shell patterns welcome: how many first steps, or a mask of T bits, to start from.
        frozen: masks of a frozen model, as `options()` of one gives them.

    Raises:
        ValueError: no time axis; a target outside (0, T]; names that fit no layer; masks that are not T bits.
    """
    require_time(model, "allocation of time steps")
    if taken := [name for name, _ in model.methods if name not in ("time_steps", "thresholds")]:
        raise ValueError(f"time steps are allocated first, then {taken[0]} is applied")
    names = [name for name, m in model.named_modules() if isinstance(m, Neuron)]
    if any(getattr(model.get_submodule(name), "gate", None) is not None for name in names):
        raise ValueError(f"time steps are allocated in {model.name or type(model).__name__} already")
    total = model.config.time_steps if max_steps is None else max_steps
    _check(total, per, pattern, target, weight)
    model = copy.deepcopy(model)
    _set_time_steps(model, total)
    units: dict[str, list[str]] = {}
    for name in names:
        units.setdefault(_block_of(model, name) if per == "block" else name, []).append(name)
    options: dict[str, Any] = {"per": per, "pattern": pattern, "target": target, "weight": weight}
    if frozen is not None:
        if list(frozen) != list(units):
            raise ValueError(f"frozen has masks of {list(frozen)[:3]}…; the model's are {list(units)[:3]}…")
        return DynamicTimeSteps(model, units, [TimeGate(pattern=pattern, fixed=m) for m in frozen.values()], **options)
    start = torch.linspace(FIRST, LAST, total, dtype=torch.get_default_dtype())
    gates = {unit: TimeGate(start.clone(), pattern=pattern) for unit in units}
    right = "a mapping: {layer: how many first steps, or a mask of them}"
    for key, given in of_kind("steps", {} if steps is None else steps, Mapping, right).items():
        found = [unit for unit in units if fnmatchcase(unit, key)]
        if not found:
            raise unknown(f"{per} of steps", key, units)
        mask = _mask_of(key, given, total, pattern)
        for unit in found:
            scores = gates[unit].scores
            assert scores is not None
            scores.data.copy_(torch.where(torch.tensor(mask), scores, -scores))
    for gate in gates.values():
        gate.to(model.device, model.dtype)
    return DynamicTimeSteps(model, units, list(gates.values()), **options)


def _check(total: int, per: str, pattern: str, target: float | None, weight: float) -> None:
    if type(total) is not int or total < 1:
        raise ValueError(f"max_steps={total!r} must be a whole number of at least 1")
    if per not in PER:
        raise unknown("per", per, PER)
    if pattern not in PATTERNS:
        raise unknown("pattern", pattern, PATTERNS)
    target = fit(target, float | None, "target")
    if target is not None and not 0 < target <= total:
        raise ValueError(f"target={target} must be a mean number of time steps above 0 and at most max_steps={total}")
    fit(weight, NotNegative, "weight")


def _mask_of(key: str, given: int | Sequence[int], total: int, pattern: str) -> list[bool]:
    """T bits of a number of first steps, or of a mask."""
    if isinstance(given, int):
        if not 0 <= given <= total:
            raise ValueError(f"steps[{key!r}]={given} must be between 0 and max_steps={total}")
        return [t < given for t in range(total)]
    if not isinstance(given, Sequence):
        raise wrong(f"steps[{key!r}]", given, f"a whole number from 0 to {total}, or a mask of {total} bits")
    mask = [bool(bit) for bit in given]
    if len(mask) != total:
        raise ValueError(f"steps[{key!r}]={list(given)} must have a bit for each of max_steps={total} steps")
    if pattern == "prefix" and sorted(mask, reverse=True) != mask:
        raise ValueError(f"steps[{key!r}]={list(given)} does not start with its open steps; pattern='free' allows it")
    return mask


def _set_time_steps(model: SpikingModel, total: int) -> None:
    """Of the model, and of those inside."""
    for m in model.modules():
        if isinstance(m, SpikingModel):
            m.config = replace(m.config, time_steps=total)


def _block_of(model: nn.Module, name: str) -> str:
    """The block that a layer of neurons is in, or the part of the stem."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:i])), Block):
            return ".".join(parts[:i])
    return ".".join(parts[:2]) if len(parts) > 1 and parts[1].isdigit() else parts[0]
