"""Files of before steps were ordered by weight: they load, spike group by group, and their certificate verifies.

tests/golden/fired_by_group: a small exact-mode ge2mst_tiny of digits with n = 3, G = 2, as converted and certified then
(100 test images; the first stage and head_lif in rate coding, n = 1, G = 14).
"""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from spikevit import convert, load_model, record_spikes
from spikevit.cli.main import main
from spikevit.conversion.certificate import is_of, load_certificate, verify
from spikevit.data import load_data, normalise

BEFORE = Path(__file__).parents[1] / "golden" / "fired_by_group"


@pytest.fixture(scope="module")
def networks():
    return [load_model(BEFORE / f"{name}.safetensors") for name in ("reference", "spiking")]


@pytest.fixture(scope="module")
def x():
    data = load_data("digits", image_size=8)
    return normalise(data.test.images[:100], data.info)


def by_group(k: torch.Tensor, steps: int, groups: int) -> torch.Tensor:
    """The first groups fire at every step, the next one spells in binary what is left, the others rest."""
    spikes = []
    for _ in range(groups):
        mine = k.clamp(max=2**steps - 1)
        spikes += [mine // 2**j % 2 for j in reversed(range(steps))]
        k = k - mine
    return torch.stack(spikes)


def test_it_spikes_group_by_group(networks, x):
    reference, spiking = networks
    codes, spikes = record_spikes(reference, x), record_spikes(spiking, x)
    said = {layer.name: layer for layer in load_certificate(BEFORE / "certificate.json").layers}
    assert codes.keys() == spikes.keys() == said.keys()
    for name, layer in said.items():
        assert tuple(layer.code) == ((1, 14) if name.startswith(("stages.0", "head_lif")) else (3, 2))
        assert torch.equal(spikes[name].int(), by_group(codes[name][0].int(), *layer.code)), name
        assert layer.spikes == pytest.approx(float(spikes[name].sum() / codes[name].numel()), rel=1e-6)


def test_its_certificate_verifies(networks, x):
    certificate = load_certificate(BEFORE / "certificate.json")
    again = verify(certificate, *networks, x.split(64))
    assert again.lossless and again.exact and again.layers == certificate.layers and is_of(certificate, *networks)


def test_by_weight_it_is_another_network_with_fewer_spikes(networks, x):
    """Same codes; and neither passes for the other."""
    reference, spiking = networks
    again, certificate = convert(reference, x, codes={"head_lif": (1, 14), "stages.0.*": (1, 14)})
    before = load_certificate(BEFORE / "certificate.json")
    assert certificate.lossless
    with pytest.raises(ValueError, match="of another model"):
        verify(before, reference, again, [x])
    with pytest.raises(ValueError, match="of another model"):
        verify(certificate, reference, spiking, [x])
    with torch.no_grad():
        assert torch.equal(again(x), spiking(x))
    for now, was in zip(certificate.layers, before.layers, strict=True):
        assert now.distinct == was.distinct, now.name
        if was.code == (1, 14):
            assert now == was
        else:
            assert now.code == (3, 2, "weight") and now.spikes < was.spikes, now.name


def test_it_is_printed_with_its_order(capsys):
    Console(width=200).print(load_certificate(BEFORE / "certificate.json"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in lines if "down.1" in line] == [["down.1.lif", "3,", "2", "by", "group"]]
    assert not any("by group" in line for line in lines if "1, 14" in line)


def test_its_certificate_verifies_from_the_command_line(monkeypatch, capsys):
    monkeypatch.chdir(BEFORE)
    assert main(["convert", "--verify", "certificate.json"]) == 0
    assert "certificate.json holds: same models, same images, same figures" in capsys.readouterr().out
