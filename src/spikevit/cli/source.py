"""A model and images to look at it with, for the verbs that take MODEL or CHECKPOINT."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Source:
    """A model in evaluation mode, `images` images in batches, and in words what they are."""

    model: Any
    images: int
    batch_size: int
    get: Any  # (start, stop) -> images, normalised
    about: str

    def batches(self, progress: bool = True) -> Iterator[Tensor]:
        """The images, batch by batch, with a bar on a terminal."""
        from rich.console import Console
        from rich.progress import track

        starts = range(0, self.images, self.batch_size)
        console = Console(stderr=True)
        quiet = not progress or not console.is_terminal
        for start in track(starts, "counting", console=console, transient=True, disable=quiet):
            yield self.get(start, min(start + self.batch_size, self.images))


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; gives what is to be called with the number done and the number in all."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def add_source(parser: argparse.ArgumentParser, *, images: int, batch_size: int) -> None:
    """Arguments that say which model and which images."""
    parser.add_argument("model", metavar="MODEL|CHECKPOINT", help="a name of `spikevit models`, or a .safetensors file")
    parser.add_argument("--data", help="data set (default: the checkpoint's test images; noise for a fresh model)")
    parser.add_argument("--root", help="folder of the data set, where it is not that of training")
    parser.add_argument("--images", type=int, default=images, help=f"how many, from the first (default: {images})")
    parser.add_argument("--batch-size", type=int, default=batch_size, help=f"default: {batch_size}")


def check_numbers(args: argparse.Namespace, *names: str) -> None:
    """Refuses numbers of images below 1: `names`, or those of `add_source`."""
    for name in names or ("images", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")


def load_source(args: argparse.Namespace) -> Source:
    """The model and images that the arguments name."""
    check_numbers(args)
    if Path(args.model).suffix == ".safetensors" or Path(args.model).exists():
        from spikevit.checkpoint import load_model

        return checkpoint_source(args, args.model, load_model(args.model))
    return _of_name(args)


def checkpoint_source(args: argparse.Namespace, path: str | Path, model: Any) -> Source:
    """The model of a checkpoint with images of the data set it was trained on, or of --data."""
    from spikevit.checkpoint import read_about
    from spikevit.data.load import load_data_of

    about = read_about(path)
    if args.data:
        return _of_split(args, model, other_data(args, model, about), "")
    if "data" not in about:
        raise ValueError(f"{path} does not say what data it was trained on: name a data set with --data")
    return _of_split(args, model, load_data_of(about, root=args.root), "")


def _of_name(args: argparse.Namespace) -> Source:
    import torch

    from spikevit.models import create_model
    from spikevit.profiling.calibrate import calibrate

    torch.manual_seed(0)
    model = create_model(args.model)
    fresh = "fresh weights, batch norm set by these images; "
    if args.data:
        source = _of_split(args, model, other_data(args, model, {}), fresh)
    else:
        c = model.config
        noise = torch.randn(args.images, c.in_channels, *c.image_size)
        about = f"{fresh}{args.images} images of noise"
        source = Source(model, args.images, args.batch_size, lambda start, stop: noise[start:stop], about)
    calibrate(model, source.get(0, min(16, source.images)))
    return source


def other_data(args: argparse.Namespace, model: Any, about: Mapping[str, Any]) -> Any:
    """The data set of --data in the size of the model; a folder's images are seen as those of training were."""
    from spikevit.data import load_data

    c = model.config
    seen = {"crop_pct": about.get("data", {}).get("crop_pct", 1.0)} if args.data == "folder" else {}
    return load_data(args.data, root=args.root, image_size=c.image_size, channels=c.in_channels, **seen)


def _of_split(args: argparse.Namespace, model: Any, data: Any, fresh: str) -> Source:
    from spikevit.data import normalise

    split = data.tested
    dataset = data.split(split)
    images = len(dataset) if args.images is None else min(args.images, len(dataset))

    def get(start: int, stop: int) -> Tensor:
        from spikevit.data.batches import take

        found, _ = take(dataset, range(start, stop))
        return normalise(found, data.info).to(model.dtype)

    about = f"{fresh}{images} {split} images of {data.info.name}"
    return Source(model, images, args.batch_size, get, about)
