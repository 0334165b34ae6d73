"""Batches as a pure function of seed and epoch, for one process and for many."""

import numpy as np
import pytest
import torch

from spikevit.data import Batches, collate, load_data, make_loader


def batches(n=103, batch_size=10, *, seed=7, shuffle=True, drop_last=True, **rest):
    return Batches(n, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last, **rest)


def test_depends_on_seed_and_epoch_alone():
    first = list(batches())
    torch.manual_seed(1)
    np.random.seed(1)
    assert list(batches()) == first and list(batches(seed=8)) != first
    other = batches()
    other.set_epoch(1)
    second = list(other)
    assert second != first and list(batches(seed=8)) != second  # not seed + epoch
    other.set_epoch(0)
    assert list(other) == first
    assert (
        sorted({i for batch in first for i in batch}) != list(range(103)) and len({i for b in first for i in b}) == 100
    )


def test_order_stays_for_ever():
    order = batches(20, 10, seed=1)
    order.set_epoch(2)
    assert next(iter(order)) == [15, 5, 4, 8, 2, 18, 10, 1, 14, 12]


def test_evaluation_sees_everything_in_order():
    whole = list(batches(shuffle=False, drop_last=False))
    assert [i for batch in whole for i in batch] == list(range(103)) and len(whole[-1]) == 3
    assert all(type(i) is int for i in whole[0])


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_what_one_would_see(world, drop_last):
    alone = list(batches(drop_last=drop_last))
    ranks = [batches(drop_last=drop_last, rank=rank, world_size=world) for rank in range(world)]
    seen = [list(part) for part in ranks]
    assert [len(part) for part in ranks] == [len(part) for part in seen]
    for rank, part in enumerate(seen):
        assert part == alone[rank::world][: len(part)]
    if drop_last:
        assert {len(part) for part in seen} == {10 // world}
    else:
        assert sorted(i for part in seen for batch in part for i in batch) == list(range(103))


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeats_come_one_behind_the_other(repeats):
    seen = set()
    for epoch in range(40):
        order = batches(repeats=repeats, drop_last=False)
        order.set_epoch(epoch)
        flat = [i for batch in order for i in batch]
        assert len(flat) == 103 and len(order) == 11  # an epoch is as long as without
        assert [flat.count(i) for i in flat[: 102 // repeats * repeats]] == [repeats] * (102 // repeats * repeats)
        assert all(len(set(flat[k : k + repeats])) == 1 for k in range(0, 103, repeats))
        seen |= set(flat)
    assert seen == set(range(103))  # other images in other epochs


def test_repeats_begin_with_the_same_images():
    alone, twice = (list(batches(repeats=repeats)) for repeats in (1, 2))
    assert twice[0][::2] == twice[0][1::2] == alone[0][:5] and twice[1][::2] == alone[0][5:]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("repeats", [1, 3])
def test_draws_say_where_in_the_epoch_an_image_comes(world, repeats):
    whole = [i for batch in batches(repeats=repeats) for i in batch]
    for rank in range(world):
        part = batches(repeats=repeats, draws=True, rank=rank, world_size=world)
        part.set_epoch(0)
        for batch in part:
            for image, (seed, epoch, place) in batch:
                assert (seed, epoch, image) == (7, 0, whole[place])
        places = [draw.seed[2] for batch in part for draw in batch]
        assert len(set(places)) == len(places) and all(place // 10 % world == rank for place in places)
    later = batches(draws=True)
    later.set_epoch(5)
    assert {draw.seed[1] for batch in later for draw in batch} == {5}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n": 9}, "n is 9, but batch_size 10 × world_size 1 needs 10"),
        ({"n": 15, "world_size": 2}, "n is 15, but batch_size 10 × world_size 2 needs 20"),
        ({"n": 0, "drop_last": False}, "n is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2; it must be between 0 and 1"),
        ({"world_size": 0}, "world_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        batches(**options)


@pytest.mark.parametrize("workers", [0, 1])
def test_loader(workers):
    digits = load_data("digits").test
    order = batches(len(digits), 50)
    loader = make_loader(digits, order, workers)
    state = torch.get_rng_state()
    for epoch in (0, 1):
        order.set_epoch(epoch)
        for (images, labels), index in zip(loader, list(order), strict=True):
            assert torch.equal(images, digits.images[index]) and torch.equal(labels, digits.labels[index])
    assert torch.equal(torch.get_rng_state(), state)  # a pass draws nothing from the global generator
    assert len(loader) == 7 and loader.persistent_workers == (workers > 0)


def test_loader_refuses():
    digits = load_data("digits").test
    with pytest.raises(ValueError, match="n = 103 images; the data set has 360"):
        make_loader(digits, batches())
    with pytest.raises(ValueError, match="workers is -1"):
        make_loader(digits, batches(360), workers=-1)


def test_collate():
    image = torch.ones(1, 2, 2, dtype=torch.uint8)
    images, labels = collate([(image, 3), None, (image, 4)])
    assert images.shape == (2, 1, 2, 2) and images.dtype == torch.uint8
    assert labels.tolist() == [3, 4] and labels.dtype == torch.int64
    made = (images, labels)
    assert collate(made) is made
    with pytest.raises(RuntimeError, match="all 2 images"):
        collate([None, None])


@pytest.mark.parametrize(
    "image, label, message",
    [
        (
            torch.zeros(8, 9).byte(),
            0,
            r"images have the shape \(8, 9\); it must be \(C, H, W\): grey images are \(1, H, W",
        ),
        (torch.zeros(2, 1, 8, 9).byte(), 0, r"images have the shape \(2, 1, 8, 9\)"),
        (torch.zeros(1, 8, 9).long(), 0, r"images are torch.int64; they must be torch.uint8 \(0 … 255\) or float"),
        (torch.zeros(1, 8, 9).byte(), 0.5, r"labels are torch.float64 \(2,\); they must be one whole number an image"),
        (torch.zeros(1, 8, 9).byte(), [0, 1], "they must be|items have"),
        (torch.zeros(1, 8, 9).byte(), "cat", "items have 2 parts; they must be .* a tensor and a whole number"),
        ("cat", 0, "items have 2 parts"),
        (object(), 0, "images of a batch must be tensors"),
    ],
)
def test_collate_refuses(image, label, message):
    with pytest.raises(ValueError, match=message):
        collate([(image, label)] * 2)


def test_collate_refuses_several_sizes_and_more_than_images_and_labels():
    image = torch.zeros(1, 8, 8).byte()
    with pytest.raises(ValueError, match=r"must be tensors \(C, H, W\) of one size"):
        collate([(image, 0), (image[:, :7], 0)])
    with pytest.raises(ValueError, match="items have 3 parts"):
        collate([(image, 0, 1)])
    with pytest.raises(ValueError, match="images have the shape"):
        collate((image, torch.zeros(1).long()))  # of __getitems__, too


def test_collate_takes_any_whole_numbers():
    images, labels = collate([(np.full((1, 2, 2), 0.5, np.float32), np.int32(k)) for k in (3, 4)])
    assert images.dtype == torch.float32 and labels.dtype == torch.int64 and labels.tolist() == [3, 4]
