"""Where a model runs and which data it sees, for every verb alike."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit import create_model, load_model, save_model
from spikevit.cli.source import as_input, device_of, load_source
from spikevit.data import load_data, normalise
from spikevit.profiling.calibrate import calibrate
from spikevit.training.evaluate import evaluate

VERBS = ["eval", "predict", "profile", "check", "convert", "plan", "report"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("SPIKEVIT_TRACEBACK", raising=False)


def bare(path: str = "bare.safetensors", classes: int = 10) -> Path:
    """A checkpoint that does not say what data it is for, as of a converted original; its neurons fire."""
    torch.manual_seed(0)
    model = create_model("spikformer_tiny", in_channels=1, image_size=16, num_classes=classes, time_steps=1)
    calibrate(model, torch.randn(64, 1, 16, 16))
    save_model(model, path)
    return Path(path)


# --- devices ---------------------------------------------------------------------------------------------------------


def of(device: str) -> torch.device:
    return device_of(argparse.Namespace(device=device))


def test_devices_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert of("auto") == of("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "gpu", "meta", "", "cpu:1", "CPU"):
        with pytest.raises(ValueError, match=f"^--device {name} must be auto or a device that is here: cpu$"):
            of(name)


def test_devices_with_two(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert of("auto") == of("cuda") == torch.device("cuda") and of("cuda:1") == torch.device("cuda", 1)
    assert of("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device cuda:2 must be auto or a device that is here: cpu, cuda:0, cuda:1"):
        of("cuda:2")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_a_device(cli, refused, verb):
    Image.new("L", (16, 16)).save("x.png")
    assert "--device" in cli(verb, "--help")[1]
    words = {"predict": ["x.png"], "report": []}.get(verb, [])
    data = [] if verb == "report" else ["--data", "digits"]
    assert "--device cuda:9 must be auto or a device that is here: cpu" in refused(
        verb, bare(), *words, *data, "--device", "cuda:9"
    )


def test_images_go_where_the_model_is():
    """The meta device is no place to compute, but one to be at; what is normalised is so on the CPU."""
    data = load_data("digits")
    x = data.test.images[:3]
    away = as_input(x, create_model("spikformer_tiny").double().to("meta"), data)
    assert away.device.type == "meta" and away.dtype == torch.float64 and away.shape == x.shape
    here = as_input(x, create_model("spikformer_tiny"), data)
    assert torch.equal(here, normalise(x, data.info))


def test_a_model_by_name_is_moved(monkeypatch):
    """Its noise is the same everywhere."""
    seen = []
    monkeypatch.setattr("spikevit.cli.source.device_of", lambda args: seen.append(args.device) or torch.device("cpu"))
    words = argparse.Namespace(model="sdt_tiny", data=None, root=None, images=2, batch_size=1, device="somewhere")
    first, second = (torch.cat(list(load_source(words).batches(progress=False))) for _ in range(2))
    assert torch.equal(first, second) and set(seen) == {"somewhere"}


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["eval", "predict", "profile", "check", "convert", "plan"])
def test_a_checkpoint_without_data_says_what_to_do(refused, verb):
    Image.new("L", (16, 16)).save("x.png")
    words = ["x.png"] if verb == "predict" else []
    wanted = "bare.safetensors does not say what data it was trained on: name a data set with --data"
    assert wanted in refused(verb, bare(), *words)


def test_eval_of_a_checkpoint_without_data(cli):
    path, data = bare(), load_data("digits")
    score = evaluate(load_model(path), data.test, data.info)
    status, out, err = cli("eval", path, "--data", "digits", "--json")
    assert (status, err) == (0, "") and json.loads(out)["right"] == score.right and json.loads(out)["total"] == 360


def test_profile_and_check_of_a_checkpoint_without_data(cli):
    status, out, _ = cli("profile", bare(), "--data", "digits", "--images", 2, "--json", "-")
    assert status == 0 and json.loads(out)["data"] == "2 test images of digits"
    assert cli("check", bare(), "--data", "digits", "--images", 2)[0] in (0, 1)


@pytest.mark.parametrize("classes", [10, 7])
def test_predict_of_a_checkpoint_without_data(cli, classes):
    """Classes are those of --data where there are as many, else their numbers; mean and std are those of --data."""
    path, data = bare(classes=classes), load_data("digits")
    image = data.test.images[0]
    Image.fromarray(image[0].numpy()).save("digit.png")
    status, out, err = cli("predict", path, "digit.png", "--data", "digits", "--top", 1)
    with torch.no_grad():
        shares = load_model(path)(normalise(image[None], data.info)).softmax(-1)[0]
    assert (status, err) == (0, "") and f"{int(shares.argmax())} {float(shares.max()):.1%}" in out
    assert cli("predict", path, "digit.png", "--data", "digits", "--top", 99)[1].count("%") == classes


def test_predict_takes_a_data_set_only_where_it_is_missing(refused):
    data = load_data("digits")
    model = create_model("spikformer_tiny", in_channels=1, image_size=16, num_classes=10)
    save_model(model, "m.safetensors", data=data.info.to_dict())
    Image.new("L", (16, 16)).save("x.png")
    message = "--data digits: m.safetensors says itself what data it is for; leave --data out"
    assert message in refused("predict", "m.safetensors", "x.png", "--data", "digits")


def test_logits_that_are_not_finite_predict_nothing(refused, monkeypatch):
    model = load_model(bare())
    save_model(model, "m.safetensors", data=load_data("digits").info.to_dict())
    model.register_forward_hook(lambda _module, _args, out: out / 0)
    monkeypatch.setattr("spikevit.cli.predict.load", lambda args, path: model)
    Image.new("L", (16, 16)).save("x.png")
    message = refused("predict", "m.safetensors", "x.png")
    assert "m.safetensors: logits are not finite (NaN or infinite)" in message
    assert "--data mnist: unknown data set 'mnist'" in refused("eval", "m.safetensors", "--data", "mnist")
    monkeypatch.setattr("spikevit.cli.eval.load", lambda args, path: model)
    message = refused("eval", "m.safetensors", "--data", "digits", "--curve", "c.csv")
    assert "m.safetensors: outputs are not finite (NaN or infinite)" in message and not Path("c.csv").exists()


# --- images that chose the epoch -------------------------------------------------------------------------------------


@pytest.fixture
def no_test(tmp_path) -> Path:
    """A folder with train and val, and a checkpoint of a model for it."""
    noise = np.random.RandomState(0)
    for split, n in (("train", 6), ("val", 3)):
        for name in ("a", "b"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = noise.randint(0, 255, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{i}.png")
    source = {"name": "folder", "root": str(tmp_path / "images"), "image_size": 16, "channels": 1}
    data = load_data(**source)
    model = load_model(bare(classes=2))
    save_model(model, "m.safetensors", data=data.info.to_dict() | {"source": source})
    return Path("m.safetensors")


NOTE = "The data set has no test images: the best epoch, and thresholds, were chosen on these."


def test_eval_says_which_images_these_are(cli, no_test):
    """Without test images those of validation, whole; and that they are no test."""
    for words in ([], ["--split", "val"]):
        status, out, err = cli("eval", no_test, *words)
        assert (status, err) == (0, "") and "of 6 val images of folder right" in out and NOTE in out
        status, out, _ = cli("eval", no_test, *words, "--json")
        assert json.loads(out)["note"] == NOTE and json.loads(out)["split"] == "val"
    assert NOTE not in cli("eval", no_test, "--split", "train")[1]
    assert NOTE not in cli("eval", bare(), "--data", "digits", "--split", "val")[1]
