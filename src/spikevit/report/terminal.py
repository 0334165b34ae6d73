"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from spikevit.models import SpikingModel
from spikevit.profiling.conventions import AC_PJ, MAC_PJ, Energy, dense
from spikevit.profiling.count import OperatorCount


def summary(
    results: Mapping[str, Any],
    model: SpikingModel,
    rates: Mapping[str, float],
    counts: Sequence[OperatorCount],
    energy: Energy,
    images: int,
) -> Group:
    """Accuracy, firing rate of every layer of neurons, operations and energy per image."""
    macs = sum(c.macs for c in counts) / images
    ann = dense(counts, images, model.config.time_steps).mj
    facts = Table("", "", show_header=False, title=f"{model.name}", title_justify="left")
    for name, value in (
        ("test accuracy", f"{results['accuracy']:.2%} ({results['right']} of {results['total']})"),
        ("time steps", f"{model.config.time_steps}"),
        ("parameters", f"{results['parameters']:,}"),
        ("firing rate", f"{sum(rates.values()) / len(rates):.1%} per neuron and step, mean over layers"),
        ("dense operations", f"{macs / 1e6:.2f} M multiply-accumulates an image"),
        (
            "synaptic operations",
            f"{energy.sops / 1e6:.2f} M additions + {energy.macs / 1e6:.2f} M MAC (first convolution)",
        ),
        ("energy", f"{energy.mj * 1e3:.2f} µJ an image; the same network as an ANN {ann * 1e3:.2f} µJ"),
    ):
        facts.add_row(name, value)
    layers = Table("layer of neurons", "firing rate", title="Firing rates", title_justify="left")
    layers.add_column("")
    for name, rate in rates.items():
        layers.add_row(name, f"{rate:.1%}", "█" * round(rate * 40))
    note = (
        f"Energy: model, not measurement. Convention of the papers, 45 nm: {MAC_PJ} pJ a MAC, {AC_PJ} pJ an addition."
    )
    return Group(Text(), layers, facts, Text(note, style="dim"))
