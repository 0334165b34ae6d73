"""spikevit doctor: what is here, what runs where, what is missing."""

from __future__ import annotations

import argparse
from importlib import metadata

from spikevit.cli import threads

EXAMPLE = "example:\n  spikevit doctor"

# library: the extra that brings it, what it is for
OPTIONAL = {
    "lightning": ("train", "training"),
    "kornia": ("train", "augmentation"),
    "tensorboard": ("train", "logs"),
    "scikit-learn": ("train", "digits"),
    "pillow": ("train", "images in files"),
    "matplotlib": ("train", "pictures"),
    "jinja2": ("train", "reports"),
    "numba": ("train", "fast staircases on a CPU"),
    "datasets": ("hub", "data sets from the Hugging Face hub"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Prints versions, devices, neuron backends and missing libraries."""
    import platform

    import torch

    from spikevit import __version__
    from spikevit.neurons import BACKENDS, LIF
    from spikevit.report.terminal import console, words

    out, why = console(), str(threads.chosen or "")
    if not threads.chosen or threads.chosen.given:
        why = f"threads: {torch.get_num_threads()}{why and f' ({why})'}"
    out.print(f"spikevit {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    out.print(f"CPU: {platform.machine()}, {why}", soft_wrap=True)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    out.print(f"GPU: {', '.join(gpus) or 'none'}")
    out.print(f"neuron backends: {', '.join(BACKENDS)} (default: {LIF().backend})")
    for library, (extra, use) in OPTIONAL.items():
        version = _version(library)
        if version is None and library == "lightning":
            version = _version("pytorch-lightning")
        if version:
            out.print("  ", words("✓", "green"), f" {library} {version}", sep="")
        else:
            missing = f' {library}: no {use}; pip install "spikevit[{extra}]"'
            out.print("  ", words("✗", "red"), missing, sep="")
    return 0


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
