"""Who sees a change of image 0? The figure of docs/explanation/batch-axis-defect.md.

    python benchmarks/leak_figure.py       # seconds; writes docs/images/batch-leak.png

qkformer_tiny with random weights, a batch of six images, run twice: as it is, and with image 0 replaced by another.
Shows, per image and time step, by how much the logits differ between the runs, and the share of spikes that differ,
with legacy_batch_leak=True and False. float64, so that what is equal is exactly equal.
"""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spikevit import create_model, record_spikes

IMAGES = 6
TARGET = Path(__file__).parents[1] / "docs" / "images" / "batch-leak.png"


def make(leak: bool) -> nn.Module:
    """The tiny model, its batch norms with statistics as after training, so that neurons fire."""
    torch.manual_seed(0)
    model = create_model("qkformer_tiny", legacy_batch_leak=leak).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.02, 0.1)
            nn.init.uniform_(module.weight, 0.8, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.6)
    return model.eval()


@torch.no_grad()
def differences(leak: bool) -> tuple[np.ndarray, np.ndarray]:
    """Per time step and image (T, B): largest change of a logit; share of all neurons whose spike changed, in %."""
    model = make(leak)
    torch.manual_seed(1)
    batch = torch.randn(IMAGES, 3, 32, 32, dtype=torch.float64)
    other = torch.cat([torch.randn_like(batch[:1]), batch[1:]])
    logits = (model(batch, per_step=True) - model(other, per_step=True)).abs().amax(-1)
    changed = torch.zeros(logits.shape, dtype=torch.float64)
    neurons = 0
    for runs in zip(record_spikes(model, batch).values(), record_spikes(model, other).values(), strict=True):
        # with the defect, one layer hands out (T·B, ...): time and batch in one axis
        ours, theirs = (spikes.reshape(*logits.shape, -1) for spikes in runs)
        changed += (ours != theirs).sum(-1)
        neurons += ours.shape[-1]
    return logits.numpy(), (100 * changed / neurons).numpy()


def draw(path: Path) -> None:
    """Two columns (with the defect, without), two rows (logits, spikes); a zero is written as 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    both = {leak: differences(leak) for leak in (True, False)}
    for row, (label, fmt) in enumerate((("largest change of a logit", ".2f"), ("spikes that changed, %", ".2f"))):
        others = max(float(both[leak][row][:, 1:].max()) for leak in both)  # image 0 may exceed the scale
        for column, leak in enumerate(both):
            axis, values = axes[row, column], both[leak][row]
            drawn = axis.imshow(values, cmap="Blues", vmin=0, vmax=1.3 * others)
            for t, b in np.ndindex(values.shape):
                text = "0" if values[t, b] == 0 else format(values[t, b], fmt)
                dark = values[t, b] > 0.75 * others
                axis.text(b, t, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
            axis.set_yticks(range(len(values)), range(1, len(values) + 1))
            axis.set_xticks(range(IMAGES), ["0\n(replaced)", *range(1, IMAGES)])
        figure.colorbar(drawn, ax=list(axes[row]), label=label, extend="max", shrink=0.9)
    for column, leak in enumerate(both):
        axes[0, column].set_title(f"legacy_batch_leak={leak}")
        axes[1, column].set_xlabel("image of the batch")
    for axis in axes[:, 0]:
        axis.set_ylabel("time step")
    figure.savefig(path, dpi=110)
    for leak, (logits, spikes) in both.items():
        print(f"legacy_batch_leak={leak}: largest change of another image: logit {logits[:, 1:].max():.3g}, ", end="")
        print(f"spikes {spikes[:, 1:].max():.3g} %")


if __name__ == "__main__":
    draw(TARGET)
    print(f"{TARGET.name}; {datetime.date.today()}, {platform.machine()}, torch {torch.__version__}")
