"""The certificate as a file: it can be read, re-checked in another process, and does not fit anything else."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path

import format1
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import spikevit
from spikevit import convert, create_model, load_model, quantise, record_spikes, save_model
from spikevit.conversion.certificate import (
    FORMAT,
    Certificate,
    LayerRecord,
    certify,
    fingerprint,
    is_of,
    load_certificate,
    verify,
    with_files,
)
from spikevit.neurons import ExpG, SpikeTrain, Staircase


@pytest.fixture(scope="module")
def made(trained):
    """Reference, spiking network, certificate and the images."""
    x = trained.x[:48]
    return trained.exact, *convert(trained.exact, x), x


@pytest.fixture(scope="module")
def floating(trained):
    """The same before exact mode."""
    x = trained.x[:24]
    return trained.model, *convert(trained.model, x), x


def printed(certificate: Certificate) -> str:
    console = Console(width=250, record=True, file=StringIO())
    console.print(certificate)
    return console.export_text()


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


def test_it_is_printed(made, floating):
    """The mode, and in float mode why it is not exact."""
    out = printed(made[2])
    assert "head_lif" in out and "Certificate on 48 images, exact mode" in out and "Not exact" not in out
    assert f"Lossless: 0 of {made[2].compared:,} codes differ on 48 images." in out
    out = printed(floating[2])
    assert "Certificate on 24 images, not exact" in out and "exact mode" not in out
    for reason in floating[2].reasons:
        assert f"Not exact: {reason}." in out
    assert floating[2].reasons[0].startswith("sums can outgrow what float32 holds: stem, ")


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


EDITS = {
    "images": lambda c: 47,
    "logits": lambda c: 1.0,
    "agreement": lambda c: 0.5,
    "exact": lambda c: not c.exact,
    "reasons": lambda c: [*c.reasons, "it is not"],
    "accumulators": lambda c: {**c.accumulators, "head": {"bound": 7, "type": "float32"}},
}
LAYER_EDITS = {
    "name": "another",
    "code": (1, 15),
    "compared": 7,
    "differing": 1,
    "largest": 1,
    "distinct": 2,
    "spikes": 0.0,
    "not_binary": 1,
}
ELSEWHERE = {"layers", "model", "data", "versions", "files", "format"}  # by the tests around, or not compared


def test_every_field_is_edited_below():
    assert EDITS.keys() | ELSEWHERE == {f.name for f in fields(Certificate)}
    assert LAYER_EDITS.keys() == {f.name for f in fields(LayerRecord)}


@pytest.mark.parametrize("kind", ["exact", "float"])
@pytest.mark.parametrize("name", EDITS)
def test_verify_finds_what_was_edited(made, floating, kind, name):
    """Of a float network it cannot be said that it is exact, nor anything else that is not so."""
    reference, spiking, certificate, x = made if kind == "exact" else floating
    assert certificate.exact == (kind == "exact")
    edited = replace(certificate, **{name: EDITS[name](certificate)})
    with pytest.raises(ValueError, match=f"not reproduced: {name} differ; it was made with"):
        verify(edited, reference, spiking, [x])


@pytest.mark.parametrize("name", LAYER_EDITS)
def test_verify_finds_what_was_edited_of_a_layer(made, name):
    reference, spiking, certificate, x = made
    first = certificate.layers[0]
    layers = [replace(first, **{name: LAYER_EDITS[name]}), *certificate.layers[1:]]
    with pytest.raises(ValueError, match=f"not reproduced: .*{first.name}.* differ"):
        verify(replace(certificate, layers=layers), reference, spiking, [x])


def test_verify_finds_layers_that_are_left_out_added_or_moved(made):
    reference, spiking, certificate, x = made
    first, *others = certificate.layers
    for layers, what in (
        (others, first.name),
        ([*certificate.layers, replace(first, name="another")], "another"),
        ([*certificate.layers, first], "order of the layers"),
        ([*others, first], "order of the layers"),
    ):
        with pytest.raises(ValueError, match=f"not reproduced: {what} differ"):
            verify(replace(certificate, layers=layers), reference, spiking, [x])


@pytest.mark.parametrize("edit", [{"lossless": False}, {"differing": 3}, {"lossless": None}])
def test_a_file_that_contradicts_itself(made, tmp_path, edit):
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(json.loads(made[2].to_json()) | edit))
    with pytest.raises(ValueError, match=f"proof.json contradicts itself: {next(iter(edit))} is "):
        load_certificate(path)


def test_networks_of_other_structure_are_other_models(made):
    """Same weights and codes, another dilation or scale."""
    reference, spiking, certificate, x = made
    for change in (
        lambda m: setattr(m.down[0].conv, "dilation", (1, 2)),
        lambda m: setattr(m.stages[2][0].attn, "shift", 1),
        lambda m: setattr(m.stages[0][0].mlp.fc1, "lif", nn.Identity()),
    ):
        other = copy.deepcopy(reference)
        change(other)
        with pytest.raises(ValueError, match="of another model: the SHA-256 of weights and structure"):
            verify(certificate, other, spiking, [x])


# --- what is no spike, and what is no logit --------------------------------------------------------------------------


def hooked(network: nn.Module, name: str, change) -> nn.Module:
    """A copy of which one layer's spikes are changed on their way out."""
    network = copy.deepcopy(network)

    def other(_module, _args, out):
        steps = out.steps.clone()
        change(steps)
        return SpikeTrain(steps, out.code, out.quantum)

    network.get_submodule(name).register_forward_hook(other)
    return network


def half(steps):
    """Half a spike where there is none in the last step, of the weight 1: the code is rounded to what it was."""
    steps[-1].view(-1)[steps[-1].view(-1) == 0] = 0.5


def twice(steps):
    """Two at half the weight, where one fired in the step before: the sum is the same."""
    first, second = steps[-2].view(-1), steps[-1].view(-1)
    at = ((first == 1) & (second == 0)).nonzero()[0]
    first[at], second[at] = 0, 2


def test_half_a_spike_is_none():
    """Behind the last layer, where no logit shows it: the codes agree, and yet it is not lossless."""
    model, x = nn.Sequential(nn.Linear(4, 16), Staircase(ExpG(2, 1))).double(), torch.randn(30, 4).double()
    spiking, whole = convert(model, x)
    assert whole.lossless and whole.not_binary == 0
    silent = int((record_spikes(spiking, x)["1"][-1] == 0).sum())
    c = certify(model, hooked(spiking, "1", half), [x])
    assert c.differing == 0 and c.layers[0].not_binary == silent and not c.lossless
    assert c.faults == [f"spikes that are neither 0 nor 1: {silent} (1)"]
    assert c.verdict.startswith("0 of 480 codes differ on 30 images; spikes that are neither 0 nor 1: ")
    assert "NOT 0 OR 1" in printed(c) and f"spikes that are neither 0 nor 1: {silent} (1)." in printed(c)


@pytest.mark.parametrize("name", ["down.0.lif", "head_lif"])
def test_two_spikes_at_half_the_weight_are_none(made, name):
    """Codes and logits agree to the bit."""
    reference, spiking, certificate, x = made
    c = certify(reference, hooked(spiking, name, twice), [x])
    assert c.differing == 0 and c.logits == 0 and c.agreement == 1
    assert {layer.name: layer.not_binary for layer in c.layers if layer.not_binary} == {name: 1}
    assert certificate.lossless and not c.lossless and c.faults == [f"spikes that are neither 0 nor 1: 1 ({name})"]


@pytest.mark.parametrize("value", [float("nan"), -1.0, 2.0**-149, 1000.0])
def test_other_numbers_are_no_spikes(value):
    model, x = nn.Sequential(nn.Linear(4, 16), Staircase(ExpG(2, 1))), torch.randn(30, 4)
    spiking, _ = convert(model, x)
    network = hooked(spiking, "1", lambda steps: steps.view(-1)[0].fill_(value))
    try:
        c = certify(model, network, [x])
    except ValueError as error:
        assert "logits are not finite" in str(error) and value != value
    else:
        assert c.not_binary == 1 and not c.lossless


def test_pools_of_spikes_are_not_spikes_of_neurons():
    """Means of steps are no zeros and ones, and need not be: what the neurons sent counts."""
    torch.manual_seed(0)
    model = quantise(nn.Sequential(nn.Conv2d(1, 4, 1), Staircase(ExpG(4, 1)), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1)))
    _, c = convert(model, torch.randn(9, 1, 4, 4).mul(64).round() / 64)
    assert c.lossless and c.not_binary == 0


def test_exact_mode_needs_equal_logits(made):
    """All codes agree; what reads them does not."""
    reference, spiking, _, x = made
    c = certify(reference, spiking, [x])
    assert c.lossless
    worse = replace(c, logits=1e-300)
    assert not worse.lossless and worse.faults == ["logits differ in exact mode"]
    assert replace(worse, exact=False).lossless  # in float mode they may
    other = copy.deepcopy(spiking)
    other.head.register_forward_hook(lambda _m, _a, out: out * (1 + 2.0**-50))
    c = certify(reference, other, [x])
    assert c.differing == 0 and 0 < c.logits < 1e-9 and not c.lossless


def test_logits_that_cannot_be_compared():
    model = nn.Sequential(nn.Linear(4, 16), Staircase(ExpG(2, 1)), nn.Linear(16, 3))
    x = torch.randn(30, 4)
    spiking, _ = convert(model, x)
    for change, message in (
        (lambda _m, _a, out: out * float("nan"), "logits are not finite"),
        (lambda _m, _a, out: out / 0, "logits are not finite"),
        (lambda _m, _a, out: out[:, :1], r"logits have shape \(30, 3\), those of the spiking network \(30, 1\)"),
    ):
        other = copy.deepcopy(spiking)
        other[2].register_forward_hook(change)
        with pytest.raises(ValueError, match=message):
            certify(model, other, [x])


# --- of before -------------------------------------------------------------------------------------------------------


def test_format_1():
    """It is read, and holds: same networks by the fingerprint of then, same figures."""
    old, model, x = load_certificate(format1.FILE), format1.network(), format1.images()
    assert old.format == 1 and old.exact and old.lossless and old.reasons == [] and old.not_binary == 0
    spiking, new = convert(model, x)
    again = verify(old, model, spiking, [x])
    assert again == new and again.format == FORMAT and again.accumulators["0"]["bound"] is not None
    assert is_of(old, model, spiking) and not is_of(old, spiking, model)


@pytest.mark.parametrize(
    "edit", [{"exact": False}, {"logits": 1.0}, {"agreement": 0.5}, {"images": 39}, {"layers": []}]
)
def test_format_1_edited(edit):
    old, model, x = load_certificate(format1.FILE), format1.network(), format1.images()
    spiking, _ = convert(model, x)
    with pytest.raises(ValueError, match="not reproduced"):
        verify(replace(old, **edit), model, spiking, [x])


def test_format_1_of_another_model():
    old, model, x = load_certificate(format1.FILE), format1.network(), format1.images()
    spiking, _ = convert(model, x)
    model[0].weight.data[0, 0] += 1
    with pytest.raises(ValueError, match="of another model"):
        verify(old, model, spiking, [x])


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
        ("\udc80", "is not a certificate: no UTF-8 text"),
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


# --- exact mode needs powers of two ----------------------------------------------------------------------------------


def test_grids_with_other_thresholds_are_refused():
    with pytest.raises(ValueError, match=r"grid_bits=8 \(exact mode\) with power_of_two=False: .* power_of_two=True"):
        create_model("ge2mst_tiny", grid_bits=8, power_of_two=False)
    assert create_model("ge2mst_tiny", power_of_two=False).config.grid_bits is None


def test_checkpoints_of_such_a_config_say_what_to_do(made, tmp_path):
    """As earlier versions wrote them."""
    path = tmp_path / "old.safetensors"
    save_model(made[0], path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["spikevit"])
    about |= {"format": 2, "config": about["config"] | {"power_of_two": False}}
    save_file(load_file(path), path, {"spikevit": json.dumps(about)})
    with pytest.raises(ValueError, match=r"was never exact: train it on with power_of_two=True"):
        load_model(path)
