"""The certificate as a file: it can be read, re-checked in another process, and does not fit anything else."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import spikevit
from spikevit import convert, load_model, quantise, save_model
from spikevit.conversion.certificate import (
    FORMAT,
    certify,
    fingerprint,
    load_certificate,
    verify,
    with_files,
)
from spikevit.neurons import ExpG, Staircase


@pytest.fixture(scope="module")
def made(trained):
    """Reference, spiking network, certificate and the images."""
    x = trained.x[:48]
    return trained.exact, *convert(trained.exact, x), x


def mlp(**options) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), Staircase(ExpG(2, 1), **options), nn.Linear(16, 3))


def test_file(made, tmp_path):
    certificate = with_files(made[2], reference="a.safetensors", data={"images": 48})
    certificate.save(tmp_path / "new" / "proof.json")
    assert load_certificate(tmp_path / "new" / "proof.json") == certificate
    plain = json.loads((tmp_path / "new" / "proof.json").read_text())
    assert plain["lossless"] is True and plain["differing"] == 0 and plain["format"] == FORMAT
    assert plain["images"] == 48 and plain["files"]["data"] == {"images": 48} and "torch" in plain["versions"]
    figures = {"name", "code", "compared", "differing", "largest", "distinct", "spikes", "not_binary"}
    assert plain["layers"][0].keys() == figures
    assert [layer["name"] for layer in plain["layers"]] == [layer.name for layer in certificate.layers]


def test_it_is_printed(made, capsys):
    from rich.console import Console

    Console(width=200).print(made[2])
    out = capsys.readouterr().out
    assert "head_lif" in out and "48" in out


def test_verify(made):
    reference, spiking, certificate, x = made
    assert verify(certificate, reference, spiking, x.split(48)).layers == certificate.layers
    files = {"data": "here", "reference": "a.safetensors", "spiking": "b.safetensors"}
    again = verify(with_files(certificate, **files), reference, spiking, iter(x.split(7)))  # in other batches
    assert again.data == certificate.data and again.lossless and again.files == files


def test_verify_in_another_process(made, tmp_path):
    reference, spiking, certificate, x = made
    save_model(reference, tmp_path / "reference.safetensors")
    save_model(spiking, tmp_path / "spiking.safetensors")
    torch.save(x, tmp_path / "x.pt")
    certificate.save(tmp_path / "proof.json")
    script = """
import torch
from spikevit import load_model
from spikevit.conversion.certificate import load_certificate, verify
torch.set_num_threads(1)
models = [load_model(f"{name}.safetensors") for name in ("reference", "spiking")]
print(verify(load_certificate("proof.json"), *models, torch.load("x.pt").split(16)).lossless)
"""
    path = {"PYTHONPATH": str(Path(spikevit.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr


def test_verify_refuses_another_model(made, trained):
    reference, spiking, certificate, x = made
    other, _ = convert(reference, x[:2], codes={"head_lif": (1, 15)})
    changed = load_changed(reference)
    for models in ((reference, other), (changed, spiking), (trained.model, spiking), (spiking, reference)):
        with pytest.raises(ValueError, match="of another model: the SHA-256"):
            verify(certificate, *models, [x])


def load_changed(model: nn.Module) -> nn.Module:
    """A copy with one weight of another last bit."""
    import copy

    model = copy.deepcopy(model)
    weight = model.head.weight.data
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(10.0))
    return model


def test_verify_refuses_other_data(made):
    reference, spiking, certificate, x = made
    changed = x.clone()
    changed[-1, 0, 0, 0] = torch.nextafter(changed[-1, 0, 0, 0], torch.tensor(10.0))
    for other in (changed, x[:-1], x.flip(0), x.double()):
        with pytest.raises(ValueError, match="the data changed since the certificate was made"):
            verify(certificate, reference, spiking, [other])


def test_verify_refuses_figures_that_are_not_reproduced(made):
    reference, spiking, certificate, x = made
    first = certificate.layers[0]
    for layers in (
        [replace(first, differing=1), *certificate.layers[1:]],
        [replace(first, spikes=0.0), *certificate.layers[1:]],
    ):
        with pytest.raises(ValueError, match=f"not reproduced: {first.name} differ; it was made with"):
            verify(replace(certificate, layers=layers), reference, spiking, [x])
    with pytest.raises(ValueError, match=f"not reproduced: {first.name} differ"):
        verify(replace(certificate, layers=certificate.layers[1:]), reference, spiking, [x])
    for changes in ({"agreement": 0.5}, {"logits": 1.0}):
        with pytest.raises(ValueError, match=f"not reproduced: {next(iter(changes))} differ"):
            verify(replace(certificate, **changes), reference, spiking, [x])


def test_hash_of_the_images_does_not_depend_on_batches(made):
    reference, spiking, certificate, x = made
    assert certify(reference, spiking, x.split(5)).data == certificate.data
    flat = x.view(48, 1, 8, 32)
    assert certify(nn.Flatten(), nn.Flatten(), [flat]).data != certify(nn.Flatten(), nn.Flatten(), [x]).data


def test_fingerprint():
    """Names, values, types, codes and grids."""
    torch.manual_seed(0)
    model = mlp()
    first = fingerprint(model)
    assert fingerprint(model) == first
    model[1].code = ExpG(1, 3)
    assert fingerprint(model) != first
    model[1].code = ExpG(2, 1)
    assert fingerprint(model) == first
    assert fingerprint(model.double()) != first
    assert fingerprint(quantise(model.float())) != fingerprint(quantise(model, bits=12)) != first
    assert fingerprint(model, model) != fingerprint(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no certificate"),
        ("", "is not a certificate of spikevit"),
        ("{", "is not a certificate of spikevit"),
        ("[1, 2]", "is not a certificate of spikevit"),
        ("null", "is not a certificate of spikevit"),
        ('{"format": 1}', "is not a certificate of spikevit"),
        ("\udc80", "is not a certificate of spikevit"),
        ({"layers": [{"name": "x"}]}, "is not a certificate of spikevit"),
        ({"layers": 7}, "is not a certificate of spikevit"),
        ({"format": None}, "is not a certificate of spikevit"),
        ({"format": FORMAT + 1}, f"of format {FORMAT + 1}, this version of spikevit reads up to {FORMAT}"),
    ],
)
def test_broken_files(made, tmp_path, text, message):
    path = tmp_path / "proof.json"
    if isinstance(text, dict):
        text = json.dumps(json.loads(made[2].to_json()) | text)
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as refusal:
        load_certificate(path)
    assert "proof.json" in str(refusal.value)


def test_newer_fields_are_left_out(made, tmp_path):
    """Of the same format: what a later version adds does not break this one."""
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(json.loads(made[2].to_json()) | {"new": 1}))
    assert load_certificate(path) == made[2]


def test_a_certificate_needs_images(made):
    with pytest.raises(ValueError, match="no images"):
        certify(made[0], made[1], [])


def test_of_a_loaded_model(made, tmp_path):
    """Weights that went through a file have the same fingerprint."""
    save_model(made[1], tmp_path / "m.safetensors")
    assert fingerprint(load_model(tmp_path / "m.safetensors")) == fingerprint(made[1])
