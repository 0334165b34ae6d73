"""One picture of a trained model: what it sees, and the spikes of one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spikevit.models import SpikingModel
from spikevit.models.checkpoint import write_atomically
from spikevit.profiling.observe import record_spikes

SHOWN = 48  # neurons of a layer in the raster


def draw(
    path: Path,
    model: SpikingModel,
    x: Tensor,
    images: Tensor,
    labels: Tensor,
    predictions: Tensor,
    classes: Sequence[str],
) -> Path:
    """Writes a PNG: 18 test images with predictions (wrong ones first), and the raster of the first of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wrong = (predictions != labels).nonzero().flatten().tolist()[:6]
    right = (predictions == labels).nonzero().flatten().tolist()[: 18 - len(wrong)]
    chosen = right[:1] + wrong + right[1:]

    figure = Figure(figsize=(12, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle = np.asarray(figure.subfigures(1, 2, width_ratios=[1, 1.25]))
    left.suptitle(f"{len(labels)} test images, {int((predictions == labels).sum())} right", fontsize=11)
    for axis, i in zip(left.subplots(6, 3).flat, chosen, strict=False):
        axis.imshow(images[i].movedim(0, -1).squeeze(-1), cmap="gray_r")
        good = predictions[i] == labels[i]
        seen, truth = classes[int(predictions[i])], classes[int(labels[i])]
        axis.set_title(seen if good else f"{seen}, is {truth}", fontsize=9, color="black" if good else "crimson", pad=2)
        axis.axis("off")

    spikes = record_spikes(model, x[chosen[:1]])
    middle.suptitle(
        f"Spikes of the first image, a “{classes[int(labels[chosen[0]])]}”, over {model.config.time_steps} steps",
        fontsize=11,
    )
    raster, bars = middle.subplots(1, 2, width_ratios=[3, 1], sharey=True)
    columns = torch.cat([_sample(s) for s in spikes.values()]).numpy()  # (layers · SHOWN, T)
    raster.imshow(
        columns, aspect="auto", cmap="Greys", interpolation="none", vmin=0, vmax=1, extent=_extent(columns, len(spikes))
    )
    raster.set_xticks(range(1, columns.shape[1] + 1))
    raster.set_xlabel(f"time step ({SHOWN} neurons a layer)")
    raster.set_yticks([i + 0.5 for i in range(len(spikes))], spikes, fontsize=8)
    for i in range(1, len(spikes)):
        raster.axhline(i, color="tab:blue", linewidth=0.6)
    for t in range(1, columns.shape[1]):  # a gap between steps
        raster.axvline(t + 0.5, color="white", linewidth=8)
    bars.barh([i + 0.5 for i in range(len(spikes))], [float(s.mean()) for s in spikes.values()], color="tab:blue")
    bars.set_xlabel("firing rate")
    bars.tick_params(labelleft=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    return path


def _sample(spikes: Tensor) -> Tensor:
    """Evenly spaced neurons of one image's spikes (T, 1, …) as (SHOWN, T)."""
    flat = spikes.flatten(1)
    return flat[:, torch.linspace(0, flat.shape[1] - 1, SHOWN).long()].T


def _extent(columns, layers: int) -> tuple[float, float, float, float]:
    """Steps 1 … T on the x axis, one unit for each layer on the y axis, the first on top."""
    return (0.5, columns.shape[1] + 0.5, layers, 0)
