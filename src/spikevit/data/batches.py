"""Which images make which batch: a pure function of seed and epoch, the same for one process and for many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate


class Draw(NamedTuple):
    """The index of an image, and what decides how it is cut: (seed, epoch, its place in the epoch)."""

    image: int
    seed: tuple[int, int, int]


class Batches(Sampler[list]):
    """Batches of indices out of 0 … n-1, in an order that depends on (seed, epoch) alone.

    The list of all batches is cut first; process `rank` of `world_size` takes its numbers rank, rank + world_size,
    … So all processes together see what one process sees that accumulates gradients over world_size batches.
    drop_last (training): only full batches, and as many for each process. Otherwise (evaluation) every index
    comes exactly once, and a process may have a batch less than another.
    repeats: each index comes that often, one behind the other, until there are n: ⌈n / repeats⌉ of them, others in
    another epoch. draws: batches of `Draw` in place of indices, for a data set that draws as it reads.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
        draws: bool = False,
    ):
        counts = {"n": n, "batch_size": batch_size, "world_size": world_size, "repeats": repeats}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}; it must be between 0 and 2**32 - 1")
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank is {rank}; it must be between 0 and {world_size - 1}, world_size being {world_size}"
            )
        if drop_last and n < batch_size * world_size:
            raise ValueError(
                f"n is {n}, but batch_size {batch_size} × world_size {world_size} needs {batch_size * world_size} "
                "images for one batch each; take a smaller batch_size"
            )
        self.n, self.batch_size, self.seed, self.shuffle = n, batch_size, seed, shuffle
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self.repeats, self.draws = repeats, draws
        full = n // batch_size
        self.total = full - full % world_size if drop_last else -(-n // batch_size)  # over all processes

    def set_epoch(self, epoch: int) -> None:
        """From the next pass on, the order of this epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.rank, self.total, self.world_size))

    def __iter__(self) -> Iterator[list]:
        order = np.arange(self.n)
        if self.shuffle:
            order = np.random.RandomState([self.seed, self.epoch]).permutation(self.n)  # NumPy keeps it for ever
        order = order.repeat(self.repeats)[: self.n]
        for batch in range(self.rank, self.total, self.world_size):
            first = batch * self.batch_size
            indices = order[first : first + self.batch_size].tolist()
            if self.draws:
                yield [Draw(index, (self.seed, self.epoch, first + i)) for i, index in enumerate(indices)]
            else:
                yield indices


def take(dataset: Any, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The images (n, C, H, W) and labels (n,) of these indices, as one batch."""
    if hasattr(dataset, "__getitems__"):
        return collate(dataset.__getitems__(indices))
    return collate([dataset[i] for i in indices])


def collate(batch: Any) -> tuple[Tensor, Tensor]:
    """Items (image (C, H, W), label) as one batch, images (B, C, H, W) and labels (B,); None is left out.

    A batch that ImageSet has made already passes through.

    Raises:
        ValueError: images of several sizes, without an axis of channels, or of another dtype than uint8 and float;
            labels that are not one whole number an image.
    """
    if not isinstance(batch, tuple):
        kept = [item for item in batch if item is not None]
        if not kept:
            raise RuntimeError(f"all {len(batch)} images of a batch are corrupted; the warnings name them")
        try:
            batch = tuple(default_collate(kept))
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"images of a batch must be tensors (C, H, W) of one size: {error}") from error
    if len(batch) != 2 or not all(isinstance(one, Tensor) for one in batch):
        raise ValueError(f"items have {len(batch)} parts; they must be (image, label), a tensor and a whole number")
    images, labels = batch
    if images.ndim != 4:
        shape = tuple(images.shape[1:])
        raise ValueError(
            f"images have the shape {shape}; it must be (C, H, W): grey images are (1, H, W), and recordings "
            "(T, C, H, W) are no images"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; they must be torch.uint8 (0 … 255) or float (0 … 1)")
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}; they must be one whole number an image")
    return batch if labels.dtype == torch.int64 else (images, labels.long())


def make_loader(dataset: Dataset, batches: Batches, workers: int = 0) -> DataLoader:
    """A DataLoader of (uint8 images (B, C, H, W), int64 labels (B,)); it draws nothing from torch's generator."""
    size = len(cast(Sized, dataset))
    if batches.n != size:
        raise ValueError(f"batches are made for n = {batches.n} images; the data set has {size}")
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be 0 (none) or more")
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: otherwise each pass takes a number from the global one
    )
