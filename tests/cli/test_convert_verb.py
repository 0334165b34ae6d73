"""`spikevit convert`, and what other verbs make of a converted model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import spikevit
from spikevit import load_model, quantise, save_model
from spikevit.checkpoint import read_about
from spikevit.conversion.certificate import load_certificate
from spikevit.data import load_data, normalise
from spikevit.neurons import ExpGIF
from spikevit.profiling.calibrate import calibrate
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build

SMALL = [
    *("data.image_size=8", "model.config.widths=[8,16,16]", "model.config.depths=[1,1,1]"),
    *("model.config.strides=[1,2,1]", "model.config.head_width=8"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """In an empty folder, a terminal wide enough for any table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture(scope="module")
def made():
    """Models that fire as after training, in float and exact mode, and what training says of their data."""
    torch.manual_seed(0)
    recipe = load_recipe("ge2mst_digits", SMALL)
    model, data = build(recipe)
    calibrate(model, normalise(data.train.images[:64], data.info))
    exact = quantise(model)
    exact.name = model.name
    return {"float": model, "exact": exact}, data.info.to_dict() | {"source": vars(recipe.data)}


@pytest.fixture
def checkpoint(made):
    """Writes one of them to NAME.safetensors."""

    def write(name: str = "exact", **about) -> Path:
        models, data = made
        save_model(models[name], f"{name}.safetensors", **{"data": data, **about})
        return Path(f"{name}.safetensors")

    return write


def test_convert(cli, checkpoint):
    """All test images of the checkpoint's own data; the model and the certificate beside it."""
    status, out, err = cli("convert", checkpoint())
    assert status == 0, err
    certificate = load_certificate("exact-certificate.json")
    assert certificate.lossless and certificate.exact and certificate.images == 360
    assert "head_lif" in out and "exact-spiking.safetensors" in out and "exact-certificate.json" in out
    spiking, data = load_model("exact-spiking.safetensors"), load_data("digits", image_size=(8, 8))
    assert any(isinstance(m, ExpGIF) for m in spiking.modules())
    x = normalise(data.test.images, data.info)
    with torch.no_grad():
        assert torch.equal(spiking(x), load_model("exact.safetensors")(x))
    assert certificate.files["reference"] == "exact.safetensors"
    assert certificate.files["data"] == {"data": None, "root": None, "images": None, "batch_size": 64}


def test_verify_in_another_process(cli, checkpoint):
    cli("convert", checkpoint(), "--images", 50, "--batch-size", 20)
    path = {"PYTHONPATH": str(Path(spikevit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "spikevit.cli.main", "convert", "--verify", "exact-certificate.json"],
        env=os.environ | path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "exact-certificate.json holds: same models, same images, same figures." in done.stdout


def test_verify_finds_what_changed(cli, refused, checkpoint, made):
    cli("convert", checkpoint(), "--images", 20)
    assert cli("convert", "--verify", "exact-certificate.json")[0] == 0
    proof = Path("exact-certificate.json")
    text = proof.read_text()

    plain = json.loads(text)
    plain["files"]["data"]["images"] = 19
    proof.write_text(json.dumps(plain))
    assert "the data changed since the certificate was made" in refused("convert", "--verify", proof)

    plain = json.loads(text)
    plain["layers"][3]["spikes"] += 0.5
    proof.write_text(json.dumps(plain))
    assert f"not reproduced: {plain['layers'][3]['name']} differ" in refused("convert", "--verify", proof)

    proof.write_text(text)
    save_model(made[0]["float"], "exact.safetensors", data=made[1])
    assert "the certificate is of another model" in refused("convert", "--verify", proof)
    Path("exact.safetensors").unlink()
    assert "there is no checkpoint exact.safetensors" in refused("convert", "--verify", proof)
    proof.write_text("{")
    assert "exact-certificate.json is not a certificate of spikevit" in refused("convert", "--verify", proof)
    assert "there is no certificate none.json" in refused("convert", "--verify", "none.json")


def test_verify_says_which_files_it_checked(cli, checkpoint):
    cli("convert", checkpoint(), "--images", 4, "--no-report")
    status, out, _ = cli("convert", "--verify", "exact-certificate.json")
    assert status == 0
    assert "Checked: exact.safetensors and exact-spiking.safetensors, on 4 test images of digits.\n" in out


@pytest.fixture
def run(cli, checkpoint):
    """A run, its certificate in a folder of its own."""
    Path("run/proofs").mkdir(parents=True)
    checkpoint().rename("run/exact.safetensors")
    words = ("--images", 4, "--no-report", "--certificate", "run/proofs/p.json")
    assert cli("convert", "run/exact.safetensors", *words)[0] == 0
    return Path("run")


def changed(path: Path) -> None:
    """One weight of another last bit."""
    model, about = load_model(path), read_about(path)
    model.head.weight.data[0, 0] += 2.0**-12
    save_model(model, path, data=about["data"])


def test_verify_of_a_copied_run_checks_the_copy(cli, refused, run, tmp_path, monkeypatch):
    """By paths from the certificate's directory, wherever it is called from."""
    files = json.loads((run / "proofs/p.json").read_text())["files"]
    assert files["reference"] == "../exact.safetensors" and files["spiking"] == "../exact-spiking.safetensors"
    shutil.copytree(run, "copy")
    assert "copy/proofs/../exact-spiking" in cli("convert", "--verify", "copy/proofs/p.json")[1]
    changed(Path("copy/exact-spiking.safetensors"))
    message = refused("convert", "--verify", "copy/proofs/p.json")
    assert "copy/proofs/p.json, of copy/proofs/../exact.safetensors and copy/proofs/../exact-spiking" in message
    assert "of another model" in message
    monkeypatch.chdir(tmp_path / "run" / "proofs")
    assert cli("convert", "--verify", "p.json")[0] == 0, "the first one is as it was"


@pytest.mark.parametrize("absolute", [False, True], ids=["as typed", "whole paths"])
def test_certificates_of_before(cli, refused, run, absolute):
    """Whole paths are taken as they are while such files are there; others from the certificate's directory."""
    plain = json.loads((run / "proofs/p.json").read_text())
    prefix = f"{Path.cwd()}/" if absolute else ""
    for name, file in (("reference", "run/exact.safetensors"), ("spiking", "run/exact-spiking.safetensors")):
        plain["files"][name] = prefix + file
    (run / "p.json").write_text(json.dumps(plain))
    assert cli("convert", "--verify", "run/p.json")[0] == 0
    shutil.copytree(run, "copy")
    changed(Path("copy/exact.safetensors"))
    if absolute:
        assert f"Checked: {Path.cwd()}/run/exact.safetensors and" in cli("convert", "--verify", "copy/p.json")[1]
        shutil.rmtree(run)
    message = refused("convert", "--verify", "copy/p.json")
    assert (
        "of copy/exact.safetensors and copy/exact-spiking.safetensors: the certificate is of another model" in message
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c | {"images": 8000}, "images differ"),
        (lambda c: c | {"images": 4.0}, "images=4.0 must be a whole number"),
        (lambda c: c | {"images": True}, "images=True must be"),
        (lambda c: c | {"layers": [*c["layers"], c["layers"][0]]}, "order of the layers differ"),
        (lambda c: c | {"layers": c["layers"][1:]}, "not reproduced"),
        (lambda c: c | {"differing": 7}, "contradicts itself: differing is 7"),
        (lambda c: c | {"lossless": 1}, "contradicts itself: lossless is 1"),
        (lambda c: c | {"exact": False}, "contradicts itself: exact is False"),
        (lambda c: c | {"format": -5}, "format=-5 must be 1 to 2"),
        (lambda c: c | {"format": 1}, "of another model"),
        (lambda c: c | {"agreement": 4.0}, "agreement=4.0 must be"),
        (lambda c: c | {"logits": -1.0}, "logits=-1.0 must be"),
        (lambda c: c | {"accumulators": {}}, "accumulators differ"),
        (lambda c: c | {"versions": "x"}, "versions='x' must be a mapping"),
        (lambda c: c | {"files": {"reference": "x"}}, "files: Files lacks spiking, data"),
        (lambda c: c | {"files": {**c["files"], "data": {"images": -1}}}, "data.images=-1 must be"),
        (lambda c: c | {"layers": [{**c["layers"][0], "code": [10**9, 1]}, *c["layers"][1:]]}, "more than the 65535"),
        (lambda c: c | {"layers": [{**c["layers"][0], "largest": -1}, *c["layers"][1:]]}, "largest=-1 must be"),
        (lambda c: {k: v for k, v in c.items() if k != "reasons"}, "it lacks reasons"),
        (
            lambda c: c | {"layers": [{k: v for k, v in c["layers"][0].items() if k != "not_binary"}]},
            "lacks not_binary",
        ),
    ],
)
def test_verify_reads_every_field(cli, refused, checkpoint, edit, message):
    cli("convert", checkpoint(), "--images", 4, "--no-report")
    proof = Path("exact-certificate.json")
    proof.write_text(json.dumps(edit(json.loads(proof.read_text()))))
    error = refused("convert", "--verify", proof)
    assert message in error and "exact-certificate.json" in error


@pytest.mark.parametrize("numbers", ["NaN", "Infinity", "1e999", '0.0, "logits": 0.0'])
def test_verify_takes_numbers_once(cli, refused, checkpoint, numbers):
    cli("convert", checkpoint(), "--images", 4, "--no-report")
    proof = Path("exact-certificate.json")
    proof.write_text(proof.read_text().replace('"logits": 0.0', f'"logits": {numbers}'))
    assert "exact-certificate.json is not a certificate of spikevit: " in refused("convert", "--verify", proof)


def test_float_mode_and_exact(cli, checkpoint):
    """Without grids codes may differ: status 1, and they are counted; --exact puts weights on grids first."""
    status, *_ = cli("convert", checkpoint("float"))
    certificate = load_certificate("float-certificate.json")
    assert not certificate.exact and status == (0 if certificate.lossless else 1)
    assert certificate.agreement > 0.99
    files = ("--out", "a/snn.safetensors", "--certificate", "b.json")
    status, _, err = cli("convert", "float.safetensors", "--exact", *files, "--images", 64)
    assert status == 0, err
    assert load_certificate("b.json").exact and load_certificate("b.json").lossless
    assert load_model("a/snn.safetensors").config.grid_bits == 8
    assert load_certificate("b.json").files["reference"] == "float-exact.safetensors"
    assert cli("convert", "--verify", "b.json")[0] == 0


def test_code(cli, refused, checkpoint):
    path = checkpoint()
    assert cli("convert", path, "--code", "stages.*=1,15", "--code", "head_lif=2,5", "--images", 16)[0] == 0
    codes = {layer.name: layer.code for layer in load_certificate("exact-certificate.json").layers}
    wanted = {"head_lif": (2, 5, "weight"), "stages.0.0.mlp.fc1.lif": (1, 15), "down.1.lif": (4, 1)}
    assert codes == codes | wanted
    assert cli("convert", "--verify", "exact-certificate.json")[0] == 0
    new = ("--out", "x.safetensors", "--certificate", "x.json", "--images", 4)
    assert "7 levels; it must make the 15" in refused("convert", path, "--code", "head_lif=3,1", *new)
    assert "no layer of neurons is called that" in refused("convert", path, "--code", "heads=1,15", *new)
    assert "must read LAYER=n,G" in refused("convert", path, "--code", "head_lif=3", *new)
    assert not Path("x.safetensors").exists() and not Path("x.json").exists()


def test_refusals(refused, cli, checkpoint, made):
    path = checkpoint()
    assert "convert needs a checkpoint, or --verify" in refused("convert")
    assert "there is no checkpoint none.safetensors" in refused("convert", "none.safetensors")
    assert "--verify FILE names the models itself" in refused("convert", path, "--verify", "x.json")
    assert "--images 0 must be at least 1" in refused("convert", path, "--images", 0)
    assert "--batch-size -1 must be at least 1" in refused("convert", path, "--batch-size", -1)
    save_model(made[0]["exact"], "bare.safetensors")
    assert "does not say what data it was trained on" in refused("convert", "bare.safetensors")
    other = spikevit.create_model("spikformer_tiny", in_channels=1, image_size=8)
    save_model(other, "other.safetensors", data=made[1])
    assert "no staircase neurons: there is nothing to convert" in refused("convert", "other.safetensors")
    assert cli("convert", path, "--images", 4)[0] == 0
    before = Path("exact-spiking.safetensors").read_bytes()
    assert "exact-spiking.safetensors exists already and is not overwritten" in refused("convert", path)
    assert Path("exact-spiking.safetensors").read_bytes() == before
    assert "there is nothing to convert" in refused("convert", "exact-spiking.safetensors", "--images", 4)


def test_other_verbs_take_the_spiking_model(cli, checkpoint):
    cli("convert", checkpoint(), "--images", 8)
    results = {}
    for name in ("exact", "exact-spiking"):
        status, out, err = cli("eval", f"{name}.safetensors", "--json")
        assert status == 0, err
        results[name] = json.loads(out)
    assert results["exact"] == results["exact-spiking"] and results["exact"]["total"] == 360
    image = load_data("digits", image_size=(8, 8)).test.images[0, 0]
    Image.fromarray(image.numpy()).save("digit.png")
    tables = [cli("predict", f"{name}.safetensors", "digit.png", "--top", 3) for name in results]
    assert tables[0] == tables[1] and tables[0][0] == 0 and "digit.png" in tables[0][1]
    assert cli("check", "exact-spiking.safetensors", "--rule", "accumulate-only", "--images", 4)[0] == 0
    assert cli("check", "exact.safetensors", "--rule", "accumulate-only", "--images", 4)[0] == 1
