"""A small Ge²mS-T with one of everything, and a plain training loop."""

import torch
from torch import Tensor, nn

from spikevit import create_model

SHAPE = (1, 16, 16)


def fit(model: nn.Module, x: Tensor, labels: Tensor, epochs: int, lr: float) -> nn.Module:
    """Plain training: AdamW, batches of 64, one cycle of the learning rate."""
    steps = epochs * (len(x) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64)[: len(x) // 64]:
            loss = torch.nn.functional.cross_entropy(model(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def small(**config) -> nn.Module:
    """All parts of a Ge²mS-T: strided and plain stages, both kinds of mixers, windows and the whole grid."""
    settings = {"in_channels": 1, "image_size": 16, "widths": (16, 32, 32), "strides": (2, 2, 1), "time_steps": 4}
    return create_model("ge2mst_tiny", **{**settings, "depths": (1, 1, 1), **config})
