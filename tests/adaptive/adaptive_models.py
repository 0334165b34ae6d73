"""Models that fire, for the tests of adaptive computation."""

import torch

from spikevit import add_halting, create_model, list_models

SIZE = (16, 16)
TIMED = [*(name for name in list_models("*_tiny") if create_model(name).time_axis), "ge2mst_tiny, lif"]
SWAPPED = ["spikformer_tiny, ms_token", "spikformer_tiny, ms_channel", "spikformer_tiny, qk_token"]


def make(name: str, **config):
    """In float64, with statistics as after training, so that neurons fire. "NAME, MIXER" or "NAME, lif"."""
    torch.manual_seed(0)
    name, _, variant = name.partition(", ")
    if variant == "lif":
        config["neuron"] = {"kind": "lif"}
    elif variant:
        config["mixer"] = variant
    model = create_model(name, **{"image_size": SIZE, "num_classes": 5} | config).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.02, 0.1)
            torch.nn.init.uniform_(module.weight, 0.8, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.6)
    return model.eval()


def halts(name: str) -> bool:
    """Whether halting is for this model; what it refuses is tested by name."""
    try:
        add_halting(make(name))
    except ValueError:
        return False
    return True


HALTING = [name for name in TIMED if halts(name)]


def images(batch: int = 4, size=SIZE) -> torch.Tensor:
    return torch.randn(batch, 3, *size, dtype=torch.float64)


def assert_same_run(a: dict, b: dict):
    assert list(a) == list(b)
    for neuron in a:
        assert torch.equal(a[neuron], b[neuron]), neuron
