"""The bundled digits: sizes, fixed splits, values."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from spikevit.data import load_data


def test_parts_are_fixed_and_disjoint():
    torch.manual_seed(3)
    np.random.seed(3)
    data = load_data("digits", image_size=8)
    again = load_data("digits", image_size=8)
    parts = [data.train, data.val, data.test]
    assert [len(part) for part in parts] == [1293, 144, 360]
    assert all(
        torch.equal(a.images, b.images) for a, b in zip(parts, [again.train, again.val, again.test], strict=True)
    )
    assert data.test.labels[:10].tolist() == [0, 3, 4, 8, 9, 9, 0, 5, 0, 4]  # for ever
    counts = torch.stack([part.labels.bincount(minlength=10) for part in parts])
    assert counts.sum(0).tolist() == np.bincount(load_digits().target).tolist()
    assert counts[1].min() >= 14 and counts[2].min() >= 35


def test_test_part_does_not_depend_on_val_fraction():
    few, none = load_data("digits", val_fraction=0.3), load_data("digits", val_fraction=0)
    assert torch.equal(few.test.images, none.test.images) and len(none.train) == 1437 and len(few.val) == 432


def test_values_are_the_scans():
    scans = load_digits()
    seen = {image.numpy().tobytes() for image in load_data("digits", image_size=8).test.images}
    wanted = {np.round(scan * 255 / 16).astype(np.uint8).tobytes() for scan in scans.images}
    assert seen <= wanted and len(seen) > 350


def test_size_and_channels():
    data = load_data("digits", image_size=(16, 24), channels=2)
    image, _ = data.train[0]
    assert image.shape == (2, 16, 24) and torch.equal(image[0], image[1])
    assert data.info.image_size == (16, 24) and len(data.info.mean) == data.info.channels == 2
    small, _ = load_data("digits", image_size=8).train[0]
    assert torch.equal(image[0, ::2, ::3], small[0])  # enlarged by repeating pixels
    values = data.train.images.float() / 255
    assert abs(values.mean() - data.info.mean[0]) < 1e-3 and abs(values.std() - data.info.std[0]) < 1e-3
