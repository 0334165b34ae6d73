"""The package as a whole: its core needs little, its exports are there, its files travel with it."""

import subprocess
import sys

import pytest

import spikevit

CORE = """
import sys

for name in "lightning pytorch_lightning kornia sklearn PIL datasets jsonargparse matplotlib numba".split():
    sys.modules[name] = None  # importing it is an ImportError

import torch, spikevit
from spikevit.cli.main import main
model = spikevit.create_model("qkformer_tiny").eval()
x = torch.randn(1, 3, 32, 32)
assert len(spikevit.record_spikes(model, x)) > 10 and spikevit.count(model, x)
spikevit.save_model(model, sys.argv[1])
assert torch.equal(spikevit.load_model(sys.argv[1])(x), model(x))
assert main(["models", "*_tiny"]) == 0 and main(["doctor"]) == 0
sys.exit(main(["train", "digits"]))
"""


def test_core_needs_no_extras(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CORE, str(tmp_path / "m.safetensors")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert 'pip install "spikevit[train]"' in done.stderr and "Traceback" not in done.stderr


def test_exports():
    assert all(getattr(spikevit, name) for name in spikevit.__all__)
    assert set(spikevit.__all__) <= set(dir(spikevit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        spikevit.nothing  # noqa: B018
