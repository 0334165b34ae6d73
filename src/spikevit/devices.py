"""Devices by name."""

from __future__ import annotations

import torch


def find_device(device: str | torch.device, called: str = "device=") -> torch.device:
    """A device that is here; "auto" is a CUDA GPU where there is one, else the CPU.

    called: what stands before the device in errors.

    Raises:
        ValueError: there is no such device here: names those that are.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here = ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]
    if isinstance(device, (str, torch.device)) and str(device) in (*here, *(["cuda"] if gpus else []), "cpu:0"):
        return torch.device(device)
    raise ValueError(f"{called}{device} must be auto or a device that is here: {', '.join(here)}")
