"""The spike-driven check of a model on images, in one call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spikevit.profiling import check as checking
from spikevit.profiling.check import Check, Rule, load_rule
from spikevit.profiling.count import count


def check(model: nn.Module, images: Tensor | Iterable[Any], rule: str | Path | Rule = "accumulate-only") -> Check:
    """Whether every product of the model is an accumulate, and why not: `.passed`, `.verdicts`; prints as a table.

    Args:
        model: ours or any other; it runs in evaluation mode.
        images: one batch, or batches, as in `count`. Fresh weights are silent: see `calibrate`.
        rule: "accumulate-only", "asynchronous", "integer-spikes-allowed", a YAML file, or a Rule.

    Raises:
        ValueError: no such rule; no images, or inputs the model does not take.
    """
    rule = rule if isinstance(rule, Rule) else load_rule(rule)
    return checking.check(count(model, images), rule)
