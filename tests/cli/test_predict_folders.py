"""`predict` of folders: every image at any depth, in order; what cannot be read is left out and counted."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from spikevit import create_model, load_model, save_model
from spikevit.cli import predict
from spikevit.data import load_data, normalise
from spikevit.profiling.calibrate import calibrate


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def data():
    return load_data("digits", image_size=16)


@pytest.fixture
def photos(data):
    """A checkpoint, and ten test images in photos/, photos/more/ and photos/more/deep/, in the order of their paths."""
    torch.manual_seed(0)
    model = create_model("spikformer_tiny", in_channels=1, image_size=16, num_classes=10, depth=1, time_steps=2)
    calibrate(model, normalise(data.train.images[:64], data.info))
    save_model(model, "m.safetensors", data=data.info.to_dict())
    folders = ["photos/a", "photos", "photos/more", "photos/more/deep"]
    paths = [Path(folders[i % 4]) / f"{i}.png" for i in range(10)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.test.images[i][0].numpy()).save(path)
    return paths


def expected(data, paths, top=5):
    """By the names of the files, in their order."""
    ordered = sorted(paths)
    x = normalise(data.test.images[[int(path.stem) for path in ordered]], data.info)
    with torch.no_grad():
        best = load_model("m.safetensors")(x).softmax(-1).topk(top)
    return {
        str(p): list(zip(map(str, i.tolist()), v.tolist(), strict=True)) for p, v, i in zip(ordered, *best, strict=True)
    }


def same(found, wanted):
    assert list(found) == list(wanted)
    for path in wanted:
        assert [c for c, _ in found[path]] == [c for c, _ in wanted[path]]
        assert [p for _, p in found[path]] == pytest.approx([p for _, p in wanted[path]], abs=2e-6)


def in_json(text):
    return {one["image"]: [(t["class"], t["probability"]) for t in one["top"]] for one in json.loads(text)["images"]}


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_folder_is_gone_through_in_batches(cli, photos, data, batch):
    status, out, err = cli("predict", "m.safetensors", "photos", "--json", "-", "--batch-size", batch, "--top", 3)
    assert (status, err) == (0, "")
    same(in_json(out), expected(data, photos, 3))


def test_no_more_than_a_batch_is_held(cli, photos, monkeypatch):
    sizes = []
    original = torch.stack
    monkeypatch.setattr(torch, "stack", lambda x, *a, **k: (sizes.append(len(x)), original(x, *a, **k))[1])
    assert cli("predict", "m.safetensors", "photos", "--batch-size", 4)[0] == 0
    assert [n for n in sizes if n in (4, 2)][:3] == [4, 4, 2]


def test_files_and_folders_mixed(cli, photos, data):
    Image.new("L", (16, 16)).save("z.png")
    out = cli("predict", "m.safetensors", "z.png", "photos/more", "--json", "-")[1]
    assert list(in_json(out)) == ["z.png", *sorted(str(p) for p in photos if "more" in p.parts)]


def test_files_are_written_and_the_table_shown(cli, photos, data):
    status, out, _ = cli("predict", "m.safetensors", "photos", "--json", "o.json", "--csv", "o.csv", "--top", 2)
    wanted = expected(data, photos, 2)
    assert status == 0 and all(f"│ {path}" in out for path in wanted)
    same(in_json(Path("o.json").read_text()), wanted)
    with open("o.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "class", "probability", "class_2", "probability_2"]
    found = {
        r["image"]: [(r["class"], float(r["probability"])), (r["class_2"], float(r["probability_2"]))] for r in rows
    }
    same(found, wanted)


def test_what_cannot_be_read_is_counted(cli, photos, data):
    Path("photos/bad.png").write_text("no image")
    Path("photos/more/half.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    for name in ("photo.heic", "notes.txt", ".hidden.png", "Thumbs.db"):
        Path("photos", name).write_text("")
    Path("photos/.cache").mkdir()
    Path("photos/.cache/x.png").write_text("")
    status, out, err = cli("predict", "m.safetensors", "photos", "--json", "-")
    assert status == 1
    same(in_json(out), expected(data, photos))
    assert [one["image"] for one in json.loads(out)["unread"]] == ["photos/bad.png", "photos/more/half.jpg"]
    assert (
        "2 of 12 images cannot be read and are left out:" in err and "photos/bad.png cannot be read as an image" in err
    )
    left_out = err[err.index("Left out, as no images by their names: ") :]
    assert "1 .txt (photos/" in left_out and "1 .heic (photos/" in left_out


def test_a_file_given_by_name_must_be_readable(refused, photos):
    Path("bad.png").write_text("no image")
    assert "bad.png cannot be read as an image" in refused("predict", "m.safetensors", "photos", "bad.png")
    assert "none.png cannot be read as an image" in refused("predict", "m.safetensors", "none.png", "--csv", "o.csv")
    assert not Path("o.csv").exists()


def test_a_folder_without_images(refused, photos):
    Path("empty").mkdir()
    Path("empty/x.heic").write_text("")
    assert "empty has no images (.png, " in (line := refused("predict", "m.safetensors", "empty"))
    assert "; it has 1 .heic" in line
    Path("empty/x.png").write_text("")
    assert "none of 1 images can be read: empty/x.png cannot be read" in refused("predict", "m.safetensors", "empty")


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_nothing_is_written_over(refused, photos, monkeypatch, option):
    Path("mine").write_text("mine")
    monkeypatch.setattr(predict, "classify", lambda *a: pytest.fail("it is said before the work"))
    assert "mine exists already" in refused("predict", "m.safetensors", "photos", option, "mine")
    assert Path("mine").read_text() == "mine"
    assert "--batch-size 0 must be at least 1" in refused("predict", "m.safetensors", "photos", "--batch-size", 0)
