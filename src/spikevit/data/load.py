"""Data sets by name, load_data("folder", root=...), and those that a checkpoint says it was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from spikevit.data.cifar import CIFAR10, CIFAR100, load_cifar
from spikevit.data.digits import load_digits
from spikevit.data.folder import load_folder, own_parts
from spikevit.data.sets import Data, DataInfo, Side, limited
from spikevit.errors import printable, unknown
from spikevit.schema import Checked, Count, Range, fit, read, wrong

DATA_SETS: dict[str, Callable[..., Data]] = {
    "cifar10": partial(load_cifar, CIFAR10),
    "cifar100": partial(load_cifar, CIFAR100),
    "digits": load_digits,
    "folder": load_folder,
}


@dataclass
class DataSource(Checked):
    """name: digits, cifar10, cifar100 or folder. root: where the files are. image_size: a side or [height, width].

    image_size and channels are the data's own where they are None (digits 16×16 × 1, CIFAR 32×32 × 3, folder
    224×224 × 3). val_fraction: share of the training images held back for choosing the best epoch, where the data set
    has no such part of its own; of a folder, about that share. on_corrupt: what an unreadable image of a folder does:
    "error" raises, "skip" leaves it out of its batch with a warning. crop_pct: of a folder's images, the share of the
    shorter side that is seen in evaluation: 0.875 of 224 resizes it to 256 and cuts out the middle. limit: of each part
    so many images at most, as many of each class as there are (see `sets.limited`).
    """

    name: str = "digits"
    root: str | None = None
    image_size: Side | tuple[Side, Side] | None = None
    channels: Count | None = None
    val_fraction: Annotated[float, Range(least=0, below=1)] = 0.1
    on_corrupt: Literal["error", "skip"] = "error"
    crop_pct: Annotated[float, Range(above=0, most=1)] = 1.0
    limit: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in DATA_SETS:
            if Path(self.name).is_dir():
                raise wrong(
                    "name", self.name, f"{' or '.join(DATA_SETS)}: a folder is name='folder', root={self.name!r}"
                )
            raise unknown("data set", self.name, DATA_SETS)
        if self.crop_pct != 1 and self.name != "folder":
            raise wrong("crop_pct", self.crop_pct, f"1.0: images of {self.name!r} are seen whole")

    def load(self, **reading: Any) -> Data:
        """The data set; `reading` are more arguments of `load_folder`."""
        size = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        root = None if self.root is None else Path(self.root).expanduser()
        if self.name == "folder":
            reading = {"crop_pct": self.crop_pct} | reading
        whole = DATA_SETS[self.name](root, size, self.channels, self.val_fraction, self.on_corrupt, **reading)
        return whole if self.limit is None else limited(whole, self.limit)


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    val_fraction: float = 0.1,
    on_corrupt: Literal["error", "skip"] = "error",
    crop_pct: float = 1.0,
    limit: int | None = None,
) -> Data:
    """The data set of that name, in parts that are the same at every call and on every machine.

    The arguments are those of `DataSource`.
    """
    folder = None if root is None else str(root)
    return DataSource(name, folder, image_size, channels, val_fraction, on_corrupt, crop_pct, limit).load()


def load_source(source: Mapping[str, Any]) -> Data:
    """The data set that the fields of a recipe's `data` describe, to train on.

    Raises:
        ValueError: no images to train on, to test with, or, unless val_fraction is 0, to choose the best epoch on.
    """
    found = _source(source)
    data = found.load()
    for split in ("train", data.tested, *(["val"] if found.val_fraction else [])):
        data.split(split)
    return data


def load_data_of(
    about: Mapping[str, Any], *, root: str | Path | None = None, name: str | None = None, labels: bool = True
) -> Data:
    """The data for a checkpoint that says `about` of itself: its own, or the set called `name`.

    Its own are those it was trained on, from `root` where they lie elsewhere now; of a run that was limited to some,
    all of each part are given, so that it is tested on the whole. A warning tells where a part does not hold what it
    held then. A set by name comes in the size and channels of the network, and its images are read and normalised as
    those of training were. Of a folder without train, val and test all is for testing, for nothing of it was trained
    on.

    Args:
        labels: whether labels matter; without, the classes may be others.

    Raises:
        ValueError: data that are not what the checkpoint says, by field; a checkpoint that does not say where its data
            are, or, being older than parts by name, which images of a folder it was trained on.
    """
    described = about.get("data")
    theirs = DataInfo.of_checkpoint(described) if described is not None else None
    if name is not None:
        data = _by_name(about, theirs, name, root)
        if labels and theirs is not None:
            _compare(theirs, data.info, "classes")
        elif labels and data.info.num_classes != about["config"]["num_classes"]:
            theirs_, ours_ = about["config"]["num_classes"], data.info.num_classes
            raise ValueError(f"{name!r} has {ours_} classes; the network is for {theirs_}")
        return data
    if theirs is None or described is None or described.get("source") is None:
        raise ValueError("the checkpoint does not say what data it was trained on: name a data set")
    source = _source(described["source"])
    if root is not None:
        source = replace(source, root=str(root))
    data = replace(source, limit=None).load()
    fields = ("channels", "image_size", "mean", "std", "crop_pct", "interpolation")
    _compare(theirs, data.info, *(("classes",) if labels else ()), *fields)
    if "files" in described:
        seen = data if source.limit is None else limited(data, source.limit)
        _warn_of_changes(fit(described["files"], dict[str, str], "data.files"), seen, source.root, root is not None)
    elif source.name == "folder":
        data = _before_parts_by_name(data, Path(source.root or "").expanduser())
    return data


def _source(fields: Any) -> DataSource:
    """A source from the fields of a recipe's `data`, of which loading is not part."""
    if isinstance(fields, Mapping):
        fields = {key: value for key, value in fields.items() if key not in ("batch_size", "workers")}
    return read(DataSource, fields, "data")


def _by_name(about: Mapping[str, Any], theirs: DataInfo | None, name: str, root: str | Path | None) -> Data:
    """The set called `name`, for the network of a checkpoint."""
    config = about.get("config", {})
    size, channels = config.get("image_size"), config.get("in_channels")
    if theirs is not None:
        size, channels = theirs.image_size, theirs.channels
    size = fit(size, Side | tuple[Side, Side] | None, "image_size")
    seen = {} if theirs is None else {key: getattr(theirs, key) for key in ("crop_pct", "interpolation")}
    source = DataSource(name, None if root is None else str(root), size, channels)
    data = source.load(**({"whole": True} | seen if name == "folder" else {}))
    if theirs is None:
        return data
    return replace(data, info=replace(data.info, mean=theirs.mean, std=theirs.std, **seen))


def _compare(theirs: DataInfo, ours: DataInfo, *fields: str) -> None:
    """Refuses data that are not what a checkpoint says of them."""
    values = {field: (getattr(theirs, field), getattr(ours, field)) for field in fields}
    differ = [f"{field}: {_short(a)} there, {_short(b)} here" for field, (a, b) in values.items() if a != b]
    if differ:
        raise ValueError(f"these data are not what the checkpoint says of its own: {'; '.join(differ)}")


def _short(value: Any) -> str:
    """A value in at most a line; of a long list its beginning and its length."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(value)})"


def _warn_of_changes(files: Mapping[str, str], data: Data, root: str | None, elsewhere: bool) -> None:
    """One line where parts do not hold what they held when a checkpoint was made; elsewhere: root is another folder."""
    now = data.digests()
    changed = [part for part in now if files.get(part, now[part]) != now[part]]
    if changed:
        counts = ", ".join(f"{part} ({len(cast(Sized, data.parts[part])):,} images now)" for part in changed)
        where = f" in {root}" if root else ""
        whole = elsewhere and root and data.info.name == "folder" and not own_parts(Path(root).expanduser())
        all_of_it = f"; to test on all of them: --data folder --root {root}" if whole else ""
        said = f"other images{where} than when the checkpoint was made: {counts}{all_of_it}"
        warnings.warn(printable(said), stacklevel=3)


def _before_parts_by_name(data: Data, root: Path) -> Data:
    """Those parts of a folder that are the same for a checkpoint which is older than parts by name: its own folders."""
    given = own_parts(root)
    if "val" in given:
        return data
    if "test" in given:
        return replace(data, val=None)
    raise ValueError(
        f"the checkpoint is older than parts by file name: which images of {root} it was trained on is not known. "
        f"To test it on all of them, seen in training or not: data set 'folder' (--data folder --root {root})"
    )


__all__ = ["DATA_SETS", "DataSource", "load_data", "load_data_of", "load_source"]
