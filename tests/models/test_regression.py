"""Our own small records of the tiny models, made after they matched the originals: they run everywhere.

`python tests/models/test_regression.py` makes them anew, on purpose only: a change of a record is a change of a model.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from spikevit import create_model, list_models, record_spikes

FILE = Path(__file__).parents[1] / "golden" / "spikes.json"
RECORDS = json.loads(FILE.read_text()) if FILE.exists() else {}


def run(name: str) -> dict:
    """Spikes (as hashes) and logits of a model whose weights and images do not depend on torch's generator."""
    model, random = create_model(name).double().eval(), np.random.RandomState(0)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not key.endswith("threshold"):
            if tensor.dim() > 1:
                inputs = tensor.shape[-1] / 16 if key.endswith("mixing.weight") else tensor[0].numel()
                values = random.randint(-64, 65, tensor.shape) / 128 / (inputs**0.5 / 4)
            elif key.endswith("running_var"):
                values = random.randint(16, 64, tensor.shape) / 128
            else:
                values = random.randint(-32, 97, tensor.shape) / 128 + key.endswith("bn.weight")
            tensor.copy_(torch.from_numpy(values))
    images = torch.from_numpy(random.randint(-64, 65, (2, 3, 32, 32)) / 32)
    spikes = {
        neuron: {
            "shape": list(s.shape),
            "fired": int(s.sum()),
            "sha256": hashlib.sha256(_bytes(s.numpy())).hexdigest(),
        }
        for neuron, s in record_spikes(model, images).items()
    }
    return {"spikes": spikes, "logits": model(images).tolist()}


def _bytes(sent: np.ndarray) -> bytes:
    """Spikes as bits; codes of a staircase as they are."""
    return sent.tobytes() if sent.dtype == np.uint8 else np.packbits(sent.astype(bool)).tobytes()


@pytest.mark.parametrize("name", list_models("*_tiny"))
def test_as_recorded(name):
    assert name in RECORDS, f"no record of {name}: make one with `python {Path(__file__).name}`"
    ours, record = run(name), RECORDS[name]
    assert ours["spikes"] == record["spikes"]
    np.testing.assert_allclose(ours["logits"], record["logits"], rtol=0, atol=1e-9)
    most = 0.9 * (create_model(name).config.expg.levels if name.startswith("ge2mst") else 1)
    assert all(0.002 < s["fired"] / np.prod(s["shape"]) < most for s in record["spikes"].values())


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: run(name) for name in list_models("*_tiny")}, indent=1) + "\n")
