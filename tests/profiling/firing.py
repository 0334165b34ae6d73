"""A model that fires and images for it, the same for the same torch.manual_seed: what the counters are tested on."""

import torch
from torch import nn

from spikevit import create_model

SIDE = 16


def firing(name: str = "spikformer_tiny", *, pruned: float = 0.0, **config) -> nn.Module:
    """In evaluation mode and float64, with batch norm as after training, so that neurons fire.

    pruned: the share of weights of linear maps and convolutions that is set to 0, at random.
    """
    model = create_model(name, **{"image_size": SIDE, **config}).double().eval()
    for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.uniform_(bn.running_var, 0.02, 0.1)
        nn.init.uniform_(bn.bias, -0.2, 0.6)
    if pruned:
        for layer in (m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))):
            layer.weight.data *= torch.rand_like(layer.weight) >= pruned
    return model


def images(batch: int = 2, channels: int = 3, side: int = SIDE) -> torch.Tensor:
    """Still images (B, C, H, W), float64."""
    return torch.randn(batch, channels, side, side, dtype=torch.float64)


def recorded(case: dict, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """Model and input of a case of tests/golden/neurobench.json: images (B, C, H, W) or frames (T, B, C, H, W)."""
    torch.manual_seed(seed)
    model = firing(case["model"], pruned=case["pruned"], **case["config"])
    x = images(case["images"], model.config.in_channels)
    if case["binary_image"]:
        x[0] = x[0] > 0
    if case["frames"]:
        x = x.repeat(model.config.time_steps, 1, 1, 1, 1)
    return model, x
