"""Augmentation: what each option does, in what order, and that torch.manual_seed makes it reproducible."""

import subprocess
import sys

import pytest
import torch

from spikevit.data import Augment, AugmentConfig, DataInfo, normalise

INFO = DataInfo("toy", ("a", "b", "c"), 3, (16, 12), (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
GREY = DataInfo("grey", ("a", "b", "c"), 1, (16, 12), (0.5,), (0.25,))
EVERYTHING = {
    "crop_padding": 2,
    "flip": True,
    "rand_augment": "m9-n2-mstd1",
    "erasing": 0.5,
    "mixup": 0.5,
    "cutmix": 1.0,
}


def batch(info=INFO, n=32):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (n, info.channels, *info.image_size), generator=generator, dtype=torch.uint8)
    return images, torch.arange(n) % 3


def augment(info=INFO, seed=0, epoch=0, n=32, **options):
    torch.manual_seed(seed)
    return Augment(AugmentConfig(**options), info)(*batch(info, n), epoch=epoch)


def restored(x, info=INFO):
    """What normalise has made of images, back as pixels from 0 to 255."""
    mean, std = torch.tensor(info.mean).view(-1, 1, 1), torch.tensor(info.std).view(-1, 1, 1)
    return ((x * std + mean) * 255).round().long()


def test_normalise():
    images, _ = batch()
    x = normalise(images, INFO)
    assert torch.allclose(x[:, 1], (images[:, 1] / 255 - 0.4) / 0.25) and x.dtype == torch.float32
    assert torch.equal(normalise(images.float() / 255, INFO), x)
    assert torch.equal(normalise(images[0], INFO), x[0])
    with pytest.raises(ValueError, match=r"shape \(32, 3, 16, 12\); it must be \(..., 1, H, W\)"):
        normalise(images, GREY)
    with pytest.raises(ValueError, match=r"images are torch.int64"):
        normalise(images.long(), INFO)


@pytest.mark.parametrize("value", [255.0, 1.001, -0.001, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_floats_are_from_0_to_1(value, dtype):
    images = torch.rand(2, 3, 16, 12, dtype=dtype)
    assert normalise(images, INFO).isfinite().all() and len(normalise(images[:0], INFO)) == 0
    images[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=r"float images have values from .* must be in 0 … 1 \(or uint8\)"):
        normalise(images, INFO)
    with pytest.raises(ValueError, match="float images have values from"):
        Augment(AugmentConfig(flip=True), INFO)(images, torch.zeros(2).long(), epoch=0)


def test_nothing_by_default_and_in_eval_mode():
    images, labels = batch()
    x, targets = augment()
    assert torch.equal(x, normalise(images, INFO)) and torch.equal(targets, labels)
    x, targets = Augment(AugmentConfig(**EVERYTHING), INFO).eval()(images, labels, epoch=0)
    assert torch.equal(x, normalise(images, INFO)) and torch.equal(targets, labels)


@pytest.mark.parametrize("info", [INFO, GREY])
@pytest.mark.parametrize("options", [EVERYTHING] + [{key: value} for key, value in EVERYTHING.items()])
def test_torchs_seed_decides(options, info):
    x, targets = augment(info, 1, **options)
    again, same = augment(info, 1, **options)
    other, _ = augment(info, 2, **options)
    assert x.shape == (32, info.channels, 16, 12) and x.dtype == torch.float32 and x.isfinite().all()
    assert torch.equal(x, again) and torch.equal(targets, same)
    assert not torch.equal(x, other)


def test_crop_shifts_and_pads_with_zeros():
    images, _ = batch()
    shifts = set()
    for before, after in zip(images.long(), restored(augment(crop_padding=2)[0]), strict=True):
        padded = torch.zeros(3, 20, 16, dtype=torch.long)
        padded[:, 2:-2, 2:-2] = before
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(padded[:, i : i + 16, j : j + 12], after)]
        assert found
        shifts |= set(found)
    assert len(shifts) > 10


def test_flip_mirrors_about_half():
    images, _ = batch()
    x = restored(augment(flip=True)[0])
    same = [torch.equal(a, b) for a, b in zip(x, images.long(), strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(x, images.long(), strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and 8 < sum(mirrored) < 24


def test_erasing_sets_a_rectangle_to_the_mean():
    images, _ = batch()
    x = augment(erasing=1.0)[0]
    for before, after in zip(normalise(images, INFO), x, strict=True):
        gone = (after == 0).all(0) & (before != 0).any(0)
        rows, columns = gone.any(1), gone.any(0)
        assert gone.any() and torch.equal(gone, rows[:, None] & columns[None])
        assert torch.equal(after[:, ~gone], before[:, ~gone])
    untouched = sum(torch.equal(a, b) for a, b in zip(normalise(images, INFO), augment(erasing=0.3)[0], strict=True))
    assert 12 < untouched < 31


def test_mixup_is_a_blend_of_images_and_labels():
    whole = normalise(batch(n=3)[0], INFO)
    x, targets = augment(n=3, mixup=1.0)
    assert targets.shape == (3, 3) and torch.allclose(targets.sum(1), torch.ones(3))
    # three images of three classes: targets say which images were mixed, and how
    assert torch.allclose(x, torch.einsum("bk,kchw->bchw", targets, whole), atol=1e-5)
    assert torch.allclose(targets.sum(0), torch.ones(3), atol=1e-6)
    shares = torch.stack([augment(n=3, seed=seed, mixup=1.0)[1].amax(1) for seed in range(20)])
    assert shares.unique().numel() > 10


def test_cutmix_takes_a_box_of_as_many_pixels_as_targets_say():
    images, labels = batch(n=3)
    whole = normalise(images, INFO)
    boxes = 0
    for seed in range(20):
        x, targets = augment(n=3, seed=seed, cutmix=1.0)
        assert torch.allclose(targets.sum(1), torch.ones(3))
        for after, before, target, label in zip(x, whole, targets, labels, strict=True):
            kept = (after == before).all(0)
            assert abs(kept.float().mean() - target[label]) < 1e-6
            assert torch.equal(~kept, (~kept).any(1)[:, None] & (~kept).any(0)[None])
            if not kept.all():
                other = int(target.where(torch.arange(3) != label, torch.tensor(0.0)).argmax())
                assert torch.equal(after[:, ~kept], whole[other][:, ~kept])
                boxes += 1
    assert boxes > 10


def test_with_both_each_batch_gets_one_of_them():
    whole = normalise(batch(n=3)[0], INFO)
    boxes = 0
    for seed in range(40):
        x, targets = augment(n=3, seed=seed, mixup=1.0, cutmix=1.0)
        if (targets.amax(1) < 0.999).any():
            boxes += int((x[targets.amax(1) < 0.999] == whole[targets.amax(1) < 0.999]).any())
    assert 8 < boxes < 32


def test_erasing_comes_behind_mixing():
    x, targets = augment(mixup=1.0, erasing=1.0)
    assert targets.ndim == 2 and all((image == 0).all(0).any() for image in x)


def test_mixing_stops():
    images, _labels = batch()
    for epoch, mixed in ((4, True), (5, False), (6, False)):
        x, targets = augment(epoch=epoch, mixup=0.5, cutmix=1.0, mix_off_epoch=5)
        assert (targets.ndim == 2) == mixed
        assert torch.equal(x, normalise(images, INFO)) != mixed


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop_padding": -1}, "crop_padding=-1"),
        ({"crop_padding": 1.5}, "crop_padding=1.5"),
        ({"repeats": 0}, "repeats=0 must be a whole number of at least 1"),
        ({"random_resized_crop": (0, 1)}, r"random_resized_crop\[0\]=0 must be a number above 0"),
        ({"random_resized_crop": (0.5, 1.1)}, "both above 0 and at most 1"),
        ({"aspect_ratio": (2, 1)}, r"aspect_ratio=\(2.0, 1.0\) must be \(least, most\)"),
        ({"mix_off_epoch": -2}, "mix_off_epoch=-2"),
        ({"erasing": 1.5}, "erasing=1.5 must be a number of at least 0 and at most 1"),
        ({"mixup": -0.1}, "mixup=-0.1"),
        ({"cutmix": float("nan")}, "cutmix=nan"),
        ({"rand_augment": "m9"}, "rand_augment is 'm9'; it must be 'm<magnitude>-n<operations>'"),
        ({"rand_augment": "m11-n1"}, "at most 10"),
        ({"rand_augment": "m9-n0"}, "one operation or more"),
        ({"rand_augment": "m9-n1-mstd"}, "may end in '-mstd<deviation of the magnitude>'"),
        ({"rand_augment": "m9-mstd0.4-n1"}, "rand_augment is 'm9-mstd0.4-n1'"),
        ({"rand_augment": "m9-n1", "rand_augment_ops": ["rotat"]}, "'rotat'; did you mean rotate"),
        ({"rand_augment": "m9-n1", "rand_augment_ops": []}, r"rand_augment_ops is \[\]; it must name one"),
        ({"rand_augment": "m9-n1", "rand_augment_ops": ["invert", "invert"]}, "one operation or more, each once"),
    ],
)
def test_config_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**options)


def test_augment_refuses():
    images, labels = batch()
    one = Augment(AugmentConfig(), INFO)
    with pytest.raises(
        ValueError, match=r"shape \(32, 3, 16, 12\); for 31 labels of 'toy' it must be \(31, 3, 16, 12\)"
    ):
        one(images, labels[1:], epoch=0)
    two = DataInfo("events", ("a",), 2, (8, 8), (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(ValueError, match="rand_augment is 'm9-n1', but the images have 2 channels"):
        Augment(AugmentConfig(rand_augment="m9-n1"), two)


def test_missing_kornia_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    with pytest.raises(ImportError, match=r"kornia cannot be imported.*spikevit\[train\]"):
        Augment(AugmentConfig(flip=True), INFO)
    Augment(AugmentConfig(mixup=0.5), INFO)  # needs none


def test_import_needs_torch_and_numpy_only():
    heavy = ["kornia", "datasets", "sklearn", "PIL"]
    code = f"""if True:
        import sys
        sys.modules.update(dict.fromkeys({heavy}))
        from spikevit.data.config import AugmentConfig
        assert "torch" not in sys.modules
        from spikevit.data import *
        """
    subprocess.run([sys.executable, "-c", code], check=True)
