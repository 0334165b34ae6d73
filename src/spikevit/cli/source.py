"""What verbs share: a model on a device, the data of a checkpoint or of --data, and images to look at it with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from spikevit.data import Data, DataInfo


FEW = 16  # images, of fewer accuracy says nothing


@dataclass
class Source:
    """A model in evaluation mode, `images` images in batches, and in words what they are.

    labelled: the images with labels that are the model's classes, and what they are; None where there are none such.
    """

    model: Any
    images: int
    batch_size: int
    get: Any  # (start, stop) -> images, normalised
    about: str
    labelled: tuple[Any, DataInfo] | None = None

    def batches(self, progress: bool = True) -> Iterator[Tensor]:
        """The images, batch by batch, with a bar on a terminal."""
        from rich.progress import track

        from spikevit.report.terminal import console

        starts, shown = range(0, self.images, self.batch_size), console(stderr=True)
        quiet = not progress or not shown.is_terminal
        for start in track(starts, "counting", console=shown, transient=True, disable=quiet):
            yield self.get(start, min(start + self.batch_size, self.images))

    def at_chance(self) -> str:
        """What to say where the model is right no more often than by chance; "" otherwise, or where it is not known:
        without labels, or of a handful of images.
        """
        from torch.utils.data import Subset

        from spikevit.training.evaluate import evaluate

        if self.labelled is None or self.images < FEW:
            return ""
        dataset, info = self.labelled
        return evaluate(self.model, Subset(dataset, range(self.images)), info, batch_size=64).at_chance


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; gives what is to be called with the number done and the number in all."""
    from rich.progress import Progress

    from spikevit.report.terminal import console

    shown = console(stderr=True)
    with Progress(transient=True, console=shown, disable=not shown.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# --- arguments --------------------------------------------------------------------------------------------------------


def add_data(parser: argparse.ArgumentParser, default: str = "the checkpoint's own") -> None:
    """Arguments that say which data set."""
    parser.add_argument("--data", help=f"data set (default: {default})")
    parser.add_argument("--root", help="folder of the data set, where it is not that of training")


def add_device(parser: argparse.ArgumentParser) -> None:
    """The argument that says where the model runs."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or cuda:N (default: auto, which is cuda where there is one)"
    )


def add_source(parser: argparse.ArgumentParser, *, images: int, batch_size: int) -> None:
    """Arguments that say which model, which images, and where they meet."""
    parser.add_argument("model", metavar="MODEL|CHECKPOINT", help="a name of `spikevit models`, or a .safetensors file")
    add_data(parser, "the checkpoint's test images; noise for a fresh model")
    parser.add_argument("--images", type=int, default=images, help=f"how many, from the first (default: {images})")
    parser.add_argument("--batch-size", type=int, default=batch_size, help=f"default: {batch_size}")
    add_device(parser)


def check_numbers(args: argparse.Namespace, *names: str) -> None:
    """Refuses numbers of images below 1: `names`, or those of `add_source`."""
    for name in names or ("images", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")


# --- the model, where it runs, and its data ---------------------------------------------------------------------------


def device_of(args: argparse.Namespace) -> torch.device:
    """The device of --device.

    Raises:
        ValueError: there is no such device here.
    """
    from spikevit.devices import find_device

    return find_device(args.device, "--device ")


def load(args: argparse.Namespace, path: str | Path) -> Any:
    """The model of a checkpoint, where --device says."""
    from spikevit.checkpoint import load_model

    return load_model(path, device_of(args))


def require_head(path: str | Path, about: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of a network without classes."""
    if about["config"].get("num_classes") == 0:
        raise ValueError(f"{path} has no head (num_classes=0) and names no classes: train it with one first")


def data_of(args: argparse.Namespace, path: str | Path, about: Mapping[str, Any], *, labels: bool = True) -> Data:
    """The data set that a checkpoint was trained on, or that of --data in the size of its model.

    labels: whether they matter, so that classes must be those of the checkpoint.
    """
    from spikevit.data.load import DATA_SETS, load_data_of
    from spikevit.errors import inside

    if labels:
        require_head(path, about)
    if not args.data and not (about.get("data") or {}).get("source"):
        raise ValueError(f"{path} does not say what data it was trained on: name a data set with --data")
    if args.data and args.data not in DATA_SETS and Path(args.data).is_dir():
        raise ValueError(f"--data {args.data} is a folder: --data folder --root {args.data}")
    with inside(f"--data {args.data}" if args.data else path):
        return load_data_of(about, root=args.root, name=args.data, labels=labels)


def chosen_on(data: Data, split: str) -> str:
    """That the accuracy on a split is no test, "" where it is one."""
    if data.test is not None or split != "val":
        return ""
    return "The data set has no test images: the best epoch, and thresholds, were chosen on these."


def as_input(images: Tensor, model: Any, data: Data) -> Tensor:
    """Images as the model takes them, where it is; normalised on the CPU, so that they are the same on every device."""
    from spikevit.data import normalise

    return normalise(images, data.info).to(model.device, model.dtype)


# --- a model and images -----------------------------------------------------------------------------------------------


def load_source(args: argparse.Namespace) -> Source:
    """The model and images that the arguments name."""
    check_numbers(args)
    if Path(args.model).suffix == ".safetensors" or Path(args.model).exists():
        return checkpoint_source(args, args.model, load(args, args.model))
    return _of_name(args)


def checkpoint_source(args: argparse.Namespace, path: str | Path, model: Any) -> Source:
    """The model of a checkpoint with images of the data set it was trained on, or of --data."""
    from spikevit.checkpoint import read_about

    about = read_about(path)
    data = data_of(args, path, about, labels=False)
    source = _of_split(args, model, data, "")
    if list((about.get("data") or {}).get("classes") or ()) == list(data.info.classes):
        source.labelled = data.split(data.tested), data.info
    return source


def _of_name(args: argparse.Namespace) -> Source:
    import torch

    from spikevit.checkpoint import describe
    from spikevit.models import create_model
    from spikevit.profiling.calibrate import calibrate

    torch.manual_seed(0)
    model = create_model(args.model)
    fresh = "fresh weights, batch norm set by these images; "
    if args.data:
        data = data_of(args, args.model, asdict(describe(model)), labels=False)
        source = _of_split(args, model.to(device_of(args)), data, fresh)
    else:
        c = model.config
        noise = torch.randn(args.images, c.in_channels, *c.image_size).to(device_of(args))
        about = f"{fresh}{args.images} images of noise"

        def get(start: int, stop: int) -> Tensor:
            return noise[start:stop]

        source = Source(model.to(noise.device), args.images, args.batch_size, get, about)
    calibrate(model, source.get(0, min(16, source.images)))
    return source


def _of_split(args: argparse.Namespace, model: Any, data: Data, fresh: str) -> Source:
    split = data.tested
    dataset: Any = data.split(split)
    images = len(dataset) if args.images is None else min(args.images, len(dataset))

    def get(start: int, stop: int) -> Tensor:
        from spikevit.data.batches import take

        found, _ = take(dataset, range(start, stop))
        return as_input(found, model, data)

    about = f"{fresh}{images} {split} images of {data.info.name}"
    return Source(model, images, args.batch_size, get, about)
