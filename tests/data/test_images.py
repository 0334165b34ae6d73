"""One image from its file to its pixels: formats, turns, 16 bits, thin and huge ones; the same for every reader."""

import io
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit import create_model, save_model
from spikevit.cli.main import main
from spikevit.data import DataInfo, images, load_data, normalise, read_image
from spikevit.data.folder import FolderSet, RandomParts
from spikevit.data.load import load_data_of
from spikevit.profiling.calibrate import calibrate
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build


@pytest.fixture(autouse=True)
def impatient():
    """A test that waits is a test that fails."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(60)
    yield
    signal.alarm(0)


def noise(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(path, channels=1):
    """All pixels (H, W) or (H, W, 3), as they are."""
    with Image.open(path) as image:
        size = image.height, image.width
    read = read_image(path, size, channels)
    return read[0].numpy() if channels == 1 else read.permute(1, 2, 0).numpy()


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "ppm", "gif", "tif"])
@pytest.mark.parametrize("called", [None, "png"])
def test_formats_are_told_by_their_content(tmp_path, suffix, called):
    path = tmp_path / f"image.{called or suffix}"
    file = io.BytesIO()
    Image.fromarray(np.full((6, 9, 3), (200, 100, 50), np.uint8)).save(
        file, Image.registered_extensions()[f".{suffix}"]
    )
    path.write_bytes(file.getvalue())
    assert np.abs(whole(path, 3).astype(int) - (200, 100, 50)).max() < 8  # JPEG and WebP lose a little


def test_no_program_is_started_for_a_file(tmp_path, monkeypatch):
    trace, program = tmp_path / "trace", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho >> {trace}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    if "PIL.EpsImagePlugin" in sys.modules:
        monkeypatch.setattr(sys.modules["PIL.EpsImagePlugin"], "gs_binary", None)
    path = tmp_path / "image.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"image.png cannot be read as an image: it is none of PNG, JPEG"):
        read_image(path, (9, 9), 3)
    assert not trace.exists()


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name, kind in (("pipe.png", "no regular file"), ("folder.png", "a directory")):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image: .* is {kind}, not an image"):
            read_image(tmp_path / name, (8, 8), 3)


def test_a_warning_shows_no_escape_of_a_file_name(tmp_path):
    path = tmp_path / "\x1b[31mred.png"
    path.write_text("no image")
    with pytest.warns(UserWarning, match="left out") as caught:
        assert FolderSet([path], [0], (8, 8), 3, "skip")[0] is None
    assert "\x1b" not in str(caught[0].message) and r"\x1b[31mred.png" in str(caught[0].message)


# --- values ----------------------------------------------------------------------------------------------------------

UPRIGHT = {  # by EXIF's definition of where the first row and the first column of what is stored are shown
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: x[::-1].T,
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: x[:, ::-1].T,
}


@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_are_turned_as_exif_says(tmp_path, orientation, suffix):
    stored, exif = noise()[..., 0], Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"turned.{suffix}", exif=exif)
    shown = UPRIGHT.get(orientation, UPRIGHT[1])(stored)
    assert np.array_equal(read_image(tmp_path / f"turned.{suffix}", shown.shape, 1)[0], shown)


def test_broken_exif_turns_nothing(tmp_path):
    stored = noise()
    Image.fromarray(stored).save(tmp_path / "image.png", exif=b"Exif\0\0no TIFF at all")
    assert np.array_equal(whole(tmp_path / "image.png", 3), stored)


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_greys_of_16_bits_are_scaled(tmp_path, suffix):
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / f"deep.{suffix}"
    if suffix == "ppm":
        path.write_bytes(b"P5 256 256 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(path)
    expected = np.array([round(Fraction(255 * x, 65535)) for x in range(65536)]).reshape(256, 256)
    assert np.array_equal(whole(path), expected) and (expected[0, 0], expected[-1, -1]) == (0, 255)
    assert np.array_equal(whole(path, 3), np.stack([expected] * 3, -1))


@pytest.mark.parametrize("kind, words", [(np.float32, "floating-point numbers"), (np.int32, "whole numbers")])
def test_32_bits_are_refused_by_name(tmp_path, kind, words):
    Image.fromarray(noise()[..., 0].astype(kind)).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match=f"wide.tif .*its pixels are {words} of 32 bits.*save it with 8 or 16 bits"):
        read_image(tmp_path / "wide.tif", (8, 8), 3)


def on_white(colour, alpha):
    """Of colours and shares α from 0 to 255: the nearest to α/255 · colour + (1 − α/255) · 255."""
    colour, alpha = colour.astype(float), alpha[..., None] / 255
    return np.rint(alpha * colour + (1 - alpha) * 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_what_lets_through_is_on_white(tmp_path, suffix, channels):
    colour, alpha = noise(), noise(seed=1)[..., 0]
    alpha[0, :3], alpha[1] = (0, 255, 128), 255
    grey = np.repeat(colour[..., :1], 3, -1)
    for name, shown, stored in (
        ("rgba", colour, np.dstack([colour, alpha])),
        ("la", grey, np.dstack([colour[..., 0], alpha])),
    ):
        path, options = tmp_path / f"{name}.{suffix}", {"lossless": True, "exact": True} if suffix == "webp" else {}
        Image.fromarray(stored).save(path, **options)
        expected = on_white(shown, alpha)
        found = whole(path, channels).astype(float)
        if channels == 1:
            expected = np.rint(expected @ (0.299, 0.587, 0.114))
        assert np.abs(found - expected).max() <= 1
        assert np.array_equal(found[1], whole_opaque(tmp_path, shown[1:2], channels)[0]), "what hides all is as it was"
    assert whole(path, 3)[0, 0].tolist() == [255, 255, 255] and whole(path, 3)[0, 1].tolist() == grey[0, 1].tolist()


def whole_opaque(tmp_path, colour, channels):
    Image.fromarray(colour).save(tmp_path / "opaque.png")
    return whole(tmp_path / "opaque.png", channels)


@pytest.mark.filterwarnings("ignore:Palette images")
@pytest.mark.parametrize("mode", ["1", "P"])
def test_palettes_are_their_colours(tmp_path, mode):
    image = Image.fromarray(noise()).convert(mode)
    image.save(tmp_path / "image.png")
    assert np.array_equal(whole(tmp_path / "image.png", 3), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_colours_that_let_through_are_white(tmp_path, suffix):
    """One of a palette (red, here), and shares of each colour of it."""
    stored = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
    stored.putpalette([255, 0, 0, 0, 0, 255, 0, 0, 0])
    red, blue, black, white = [255, 0, 0], [0, 0, 255], [0, 0, 0], [255, 255, 255]
    stored.save(tmp_path / f"one.{suffix}", transparency=0)
    assert whole(tmp_path / f"one.{suffix}", 3).tolist() == [[white, blue, black], [black, blue, white]]
    if suffix == "png":
        stored.save(tmp_path / "shares.png", transparency=bytes([255, 0, 102]))
        assert whole(tmp_path / "shares.png", 3).tolist() == [[red, white, [153] * 3], [[153] * 3, white, red]]


@pytest.mark.parametrize(("mode", "key", "values"), [("L", 7, [7, 9]), ("RGB", (1, 2, 3), [(1, 2, 3), (1, 2, 4)])])
def test_a_colour_of_no_palette_that_lets_through(tmp_path, mode, key, values):
    image = Image.new(mode, (2, 1))
    image.putdata(values)
    image.save(tmp_path / "key.png", transparency=key)
    assert whole(tmp_path / "key.png", 3).tolist() == [[[255] * 3, [9] * 3 if mode == "L" else [1, 2, 4]]]


def test_a_grey_of_16_bits_that_lets_through(tmp_path):
    Image.fromarray(np.array([[0x0100, 0x0101, 0xFFFF]], np.uint16)).save(tmp_path / "key.png", transparency=0x0101)
    data = (tmp_path / "key.png").read_bytes()
    assert b"tRNS" in data
    assert whole(tmp_path / "key.png").tolist() == [[1, 255, 255]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_image_on_white_is_turned_too(tmp_path, suffix):
    stored, exif = np.dstack([noise(), np.full((6, 9), 255, np.uint8)]), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / f"turned.{suffix}", exif=exif)
    shown = stored[::-1].transpose(1, 0, 2)[..., :3]
    assert np.array_equal(read_image(tmp_path / f"turned.{suffix}", (9, 6), 3).permute(1, 2, 0).numpy(), shown)


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_of_several_pictures_the_first_is_read(tmp_path, suffix):
    first, second = (Image.new("L", (6, 4), grey) for grey in (40, 200))
    first.save(tmp_path / f"many.{suffix}", save_all=True, append_images=[second])
    assert (whole(tmp_path / f"many.{suffix}") == 40).all()


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_ink_is_colour(tmp_path, suffix):
    """Cyan takes red away, key (black) all: (1 − C)(1 − K)."""
    image = Image.new("CMYK", (16, 8))
    image.paste((255, 0, 0, 0), (0, 0, 8, 8))
    image.paste((0, 0, 0, 255), (8, 0, 16, 8))
    image.save(tmp_path / f"ink.{suffix}", quality=100) if suffix == "jpg" else image.save(tmp_path / f"ink.{suffix}")
    found = whole(tmp_path / f"ink.{suffix}", 3).astype(int)
    assert np.abs(found[4, 2] - (0, 255, 255)).max() < 6 and np.abs(found[4, 13]).max() < 6


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50_000, 1), (1, 50_000), (3, 40_000)])
@pytest.mark.parametrize("size, crop_pct", [((224, 224), 1.0), ((16, 48), 0.875), ((8, 8), 0.01)])
def test_thin_images_take_little(tmp_path, shape, size, crop_pct):
    """Black, white from the middle on: so is what is seen, half of it each."""
    long = max(shape)
    values = np.repeat([0, 255], long // 2).astype(np.uint8)
    pixels = np.broadcast_to(values if shape[1] == long else values[:, None], shape)
    Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "thin.png")
    before = peak(reset=True)
    seen = read_image(tmp_path / "thin.png", size, 1, crop_pct)[0].float() / 255
    assert peak() - before < 150e6
    line = seen.mean(0) if shape[1] == long else seen.mean(1)
    assert line[: len(line) // 4].max() < 0.5 < line[-len(line) // 4 :].min() and abs(line.mean() - 0.5) < 0.02


def peak(reset=False):
    """Bytes that this process has held at most, since the last reset."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux says what a process held at most")
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize("shape", [(40, 90), (300, 200), (64, 64)])
@pytest.mark.parametrize("size, crop_pct", [((32, 32), 1.0), ((24, 40), 0.5), ((100, 30), 0.875)])
def test_making_only_what_is_seen_changes_nothing(monkeypatch, shape, size, crop_pct):
    image = Image.fromarray(noise(*shape))
    one = np.asarray(images.middle(image, size, crop_pct)).astype(int)
    monkeypatch.setattr(images, "WHOLE", 0)
    other = np.asarray(images.middle(image, size, crop_pct)).astype(int)
    assert one.shape == other.shape == (*size, 3)
    assert np.abs(one - other).max() <= 1 and (one != other).mean() < 0.02  # bounds of the box have 24 bits


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST", 54)
    Image.fromarray(noise(6, 9)).save(tmp_path / "most.png")
    assert np.array_equal(whole(tmp_path / "most.png", 3), noise(6, 9))
    Image.fromarray(noise(5, 11)).save(tmp_path / "more.png")
    (tmp_path / "more.png").write_bytes((tmp_path / "more.png").read_bytes()[:60])  # no pixels in it
    with pytest.raises(ValueError, match=r"more.png .*it has 11 × 5 pixels; at most 54 are read"):
        read_image(tmp_path / "more.png", (8, 8), 3)


def test_lengths_that_a_file_claims_are_not_reserved(tmp_path):
    """A last chunk of PNG that says it has 4 GB: with 1 GB to spare it is read, or refused, as with more."""
    Image.fromarray(noise()).save(tmp_path / "image.png")
    content = (tmp_path / "image.png").read_bytes()
    at = content.index(b"IDAT") - 4
    (tmp_path / "image.png").write_bytes(content[:at] + (2**32 - 1).to_bytes(4, "big") + content[at + 4 :])
    code = f"""if True:
        import resource
        from spikevit.data import read_image
        import PIL.Image, PIL.PngImagePlugin, PIL.ImageOps
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
        try:
            assert read_image({str(tmp_path / "image.png")!r}, (6, 9), 3).shape == (3, 6, 9)
        except ValueError as error:
            assert "image.png cannot be read" in str(error)
        """
    peak()
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "image.png").open("wb") as file:
        file.truncate(2**40)  # all holes
    with pytest.raises(ValueError, match="image.png .*it has 1,099,511,627,776 bytes; at most 268,435,456 are read"):
        read_image(tmp_path / "image.png", (8, 8), 3)


def test_a_crop_that_cannot_be_is_refused(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png", (8, 8), 3, 1e-9).shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"image.png cannot be read"):
        read_image(tmp_path / "image.png", (8, 8), 3, 5e-324)


# --- one way for all -------------------------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path):
    """The first test images as PNG, of 8 × 8 and of 16 × 16 pixels, in class folders."""
    for size in (8, 16):
        for i, (image, label) in enumerate(load_data("digits", image_size=size).test):
            if i < 40:
                (tmp_path / str(size) / str(label)).mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[0].numpy()).save(tmp_path / str(size) / str(label) / f"{i:02}.png")
    return tmp_path


@pytest.mark.parametrize("saved", [8, 16])
@pytest.mark.parametrize("size, channels", [(16, 1), (8, 1), ((16, 24), 1), (32, 3), (11, 1)])
def test_digits_in_files_are_those_in_memory(digits, saved, size, channels):
    data = load_data("digits", image_size=size, channels=channels)
    how = data.info.image_size, channels, data.info.crop_pct, data.info.interpolation
    read = {int(path.stem): read_image(path, *how) for path in (digits / str(saved)).glob("*/*.png")}
    assert len(read) == 40 and all(torch.equal(read[i], data.test.images[i]) for i in read)


def test_predict_and_eval_of_a_folder_see_what_training_saw(digits, tmp_path, monkeypatch, capsys):
    recipe = load_recipe("digits", ["model.config.embed_dim=16", "model.config.depth=1", "model.config.num_heads=2"])
    model, data = build(recipe)
    calibrate(model, normalise(data.train.images[:64], data.info))  # neurons that fire
    about = data.info.to_dict() | {"source": vars(recipe.data)}
    save_model(model, tmp_path / "m.safetensors", data=about)
    monkeypatch.setenv("COLUMNS", "300")
    seen = {}
    for size in (8, 16):
        folder = load_data_of({"data": about, "config": {}}, name="folder", root=digits / str(size))
        seen[size] = {int(p.stem): image for p, (image, _) in zip(folder.test.files, folder.test, strict=True)}
        assert all(torch.equal(image, data.test.images[i]) for i, image in seen[size].items()) and len(seen[size]) == 40
    with torch.no_grad():
        shares = model.eval()(normalise(data.test.images[:40], data.info)).softmax(-1)
    for size in (8, 16):
        files = sorted((digits / str(size)).glob("*/*.png"), key=lambda path: path.name)
        assert main(["predict", str(tmp_path / "m.safetensors"), *map(str, files), "--top", "10"]) == 0
        rows = [line.split("│")[2:-1] for line in capsys.readouterr().out.splitlines() if ".png" in line]
        found = [sorted(cell.strip() for cell in row) for row in rows]
        assert found == [sorted(f"{k} {p:.1%}" for k, p in enumerate(row)) for row in shares.tolist()]
    assert len({max(row) for row in shares.tolist()}) > 20


def test_photographs_of_digits_are_seen_from_their_middle(tmp_path):
    square = noise(20, 20)[..., 0]
    Image.fromarray(np.pad(square, ((0, 0), (7, 7)))).save(tmp_path / "wide.png")
    assert np.array_equal(read_image(tmp_path / "wide.png", (20, 20), 1, 1.0, "nearest-exact")[0], square)
    doubled = read_image(tmp_path / "wide.png", (40, 40), 1, 1.0, "nearest-exact")[0]
    assert np.array_equal(doubled, square.repeat(2, 0).repeat(2, 1))
    assert read_image(tmp_path / "wide.png", (40, 40), 1, 0.5, "nearest-exact")[0, 0, 0] == square[5, 5]


def test_parts_of_files_are_upright_and_scaled_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "deep.png")
    stored = np.zeros((8, 8), np.uint8)
    stored[:4] = 255
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    parts = FolderSet([tmp_path / "deep.png", tmp_path / "turned.png"], [0, 1], (8, 8), 1, "error")
    whole_image = RandomParts(parts, (1.0, 1.0), (1.0, 1.0))
    from spikevit.data.batches import Draw

    assert (whole_image[Draw(0, (0, 0, 0))][0] == 255).all()
    assert torch.equal(whole_image[Draw(1, (0, 0, 0))][0][0], torch.from_numpy(stored[::-1].copy()))


# --- in memory -------------------------------------------------------------------------------------------------------


def test_images_in_memory_may_take_half_of_it(monkeypatch):
    monkeypatch.setattr(images, "memory", lambda: 2 * 1797 * 3 * 20 * 20)
    assert load_data("digits", image_size=20, channels=3).test.images.shape == (360, 3, 20, 20)
    with pytest.raises(ValueError, match=r"image_size=\(20, 21\) must be smaller: 1,797 images of 3 channels are"):
        load_data("digits", image_size=(20, 21), channels=3)


def test_a_size_that_no_machine_holds_is_refused_at_once():
    before = peak(reset=True)
    with pytest.raises(ValueError, match=r"image_size=\(16384, 16384\) must be smaller: 1,797 images .* 482 GB"):
        load_data("digits", image_size=16384)
    assert peak() - before < 100e6


def test_info_of_before_interpolation_has_that_of_its_data():
    for name, expected in (("digits", "nearest-exact"), ("cifar100", "bilinear"), ("folder", "bicubic")):
        info = DataInfo(name, ("a",), 1, (8, 8), (0.5,), (0.5,)).to_dict()
        del info["interpolation"]
        assert DataInfo.from_dict(info).interpolation == expected
    assert load_data("digits").info.interpolation == "nearest-exact"
    with pytest.raises(ValueError, match="unknown data.interpolation 'cubic'; did you mean bicubic"):
        DataInfo.from_dict({**info, "interpolation": "cubic"})


def test_models_take_both_sides(tmp_path):
    """[height, width] of a recipe, as far as the network, for images in memory and in files."""
    small = ["model.config.embed_dim=16", "model.config.depth=1", "model.config.num_heads=2"]
    recipe = load_recipe("digits", [*small, "data.image_size=[16, 24]"])
    model, data = build(recipe)
    assert model.config.image_size == (16, 24) == data.info.image_size and data.train.images.shape[1:] == (1, 16, 24)
    assert "image_size:\n  - 16\n  - 24\n" in recipe.to_yaml()
    for i in range(60):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(noise(30, 40, i)).save(tmp_path / "a" / f"{i}.png")
    folder = ["data.name=folder", f"data.root={tmp_path}", "data.image_size=[16, 24]", "data.batch_size=4"]
    parts = ["augmentation.random_resized_crop=[0.5, 1.0]", "augmentation.rand_augment=m9-n1"]
    from spikevit.training.module import Classifier

    recipe = load_recipe("digits", [*small, *folder, *parts])
    module = Classifier(recipe, *build(recipe))
    module._trainer = type("Alone", (), {"global_rank": 0, "world_size": 1})()
    batch = next(iter(module._train_batches()))
    x = torch.stack([module.train_set[draw][0] for draw in batch])
    x, _ = module.augment(x, torch.zeros(4).long(), epoch=0)
    assert x.shape == (4, 3, 16, 24) and module.model(x).shape == (4, 1)


def test_fresh_models_are_of_that_size_too():
    assert create_model("spikformer_tiny", image_size=(16, 24)).config.image_size == (16, 24)
