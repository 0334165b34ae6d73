"""Images that are none, or not as the model takes them: each is answered in one line, wherever they go in."""

import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from spikevit import add_early_exit, add_halting, count, create_model, firing_rates, profile, record_spikes
from spikevit.models.registry import model_entry
from spikevit.neurons import NeuronConfig

X = torch.randn(2, 3, 16, 16)


def make(name: str = "spikformer_tiny", **config):
    return create_model(name, image_size=16, **config).eval()


WAYS = {
    "forward": lambda model, x: model(x),
    "per step": lambda model, x: model(x, per_step=True),
    "step": lambda model, x: model.step(x),
    "run": lambda model, x: model.run(x),
    "loss": lambda model, x: model.loss(x, torch.tensor([0, 1])),
    "features": lambda model, x: model.forward_features(x),
    "early exit": lambda model, x: add_early_exit(model, 0.5)(x),
    "halting": lambda model, x: add_halting(model)(x),
    "spikes": record_spikes,
    "rates": firing_rates,
    "count": count,
    "profile": profile,
}
LOOKING = ("spikes", "rates", "count", "profile")


def refused(way: str, images, message: str, **config):
    with pytest.raises(ValueError, match=message) as error:
        WAYS[way](make(**config), images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("way", WAYS)
def test_no_tensors(way):
    array = np.zeros((2, 3, 16, 16), np.float32)
    refused(
        way, array, r"images must be a tensor; got numpy.ndarray \(2, 3, 16, 16\): torch.from_numpy\(images\) makes"
    )
    picture = Image.new("RGB", (16, 16))
    refused(way, picture, r"images must be a tensor; got PIL.Image.Image \(16, 16\): .*permute\(2, 0, 1\)\[None\]")
    if way not in LOOKING:  # there a list is of batches
        refused(way, [X[0], X[1]], r"images must be a tensor; got list of 2: torch.stack\(images\) makes")
        refused(way, None, r"images must be a tensor; got NoneType: images are \(B, C, H, W\)")
    else:
        refused(way, [array], r"images must be a tensor; got numpy.ndarray \(2, 3, 16, 16\)")
        refused(way, [picture], "images must be a tensor; got PIL.Image.Image")
        refused(way, 3, "images must be a tensor; got int")


def test_what_is_advised_works():
    array = np.zeros((2, 3, 16, 16), np.float32)
    assert make()(torch.from_numpy(array)).shape == (2, 10)
    picture = torch.from_numpy(np.array(Image.new("RGB", (16, 16)))).permute(2, 0, 1)[None]
    assert make()(picture / 255).shape == (1, 10)


@pytest.mark.parametrize("way", WAYS)
def test_shapes(way):
    last = X.movedim(1, -1)
    refused(way, last, r"images have 16 channels \(shape \(2, 16, 16, 3\)\), .*takes images.movedim\(-1, -3\)")
    assert torch.equal(last.movedim(-1, -3), X)
    refused(way, X[0], r"got shape \(3, 16, 16\); of one image, images\[None\] is a batch \(1, 3, 16, 16\)")


@pytest.mark.parametrize("way", WAYS)
def test_dtypes(way):
    refused(
        way, (X * 99).to(torch.uint8), r"floating point, normalised .* got torch.uint8: spikevit.data.normalise\(im"
    )
    for dtype in (torch.float64, torch.float16):
        message = rf"images.dtype={dtype}, the weights of spikformer_tiny are torch.float32: give it images.to\(model.d"
        refused(way, X.to(dtype), message)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in LOOKING])
def test_devices(way):
    message = r"images.device=meta, the weights of spikformer_tiny are cpu: give it images.to\(model.device\), or mov"
    refused(way, X.to("meta"), message)


def test_auxiliary_networks():
    model = make("stmixer_tiny", sml=True).train()
    with pytest.raises(ValueError, match="images.dtype=torch.float64"):
        model.loss(X.double(), torch.tensor([0, 1]))


def test_autocast_is_no_mistake():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make()(X.bfloat16()).shape == (2, 10)


def test_errors_of_others_stay():
    model = make()
    model.head = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(X)


# --- the order of frames --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("step", "halting")])
def test_batch_first(way):
    """T = 4 of the config is the second axis and not the first."""
    frames = X[:, None].expand(-1, 4, -1, -1, -1)
    message = r"\(2, 4, 3, 16, 16\) are taken for 2 time steps of 4 images, .* time_steps=4: .*transpose\(0, 1\) exch"
    model, labels = make(), torch.tensor([0, 1, 2, 3])
    with pytest.warns(UserWarning, match=message):
        WAYS[way](model, frames) if way != "loss" else model.loss(frames, labels)


@pytest.mark.parametrize("shape", [(4, 2), (4, 4), (2, 3), (1, 1), (8, 5)])
def test_frames_that_may_be_meant(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make()(torch.randn(*shape, 3, 16, 16))
        make().step(torch.randn(4, 3, 16, 16))
        add_early_exit(make(), 0.99)(torch.randn(4, 3, 16, 16))


# --- values that are not normalised ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", LOOKING)
def test_bytes_as_floats(way):
    x = torch.randint(0, 256, (2, 3, 16, 16)).float()
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 255
    with pytest.warns(UserWarning, match="images have values from 0 to 255, and spikformer_tiny takes normalised ones"):
        WAYS[way](make(), x)


class Normalising(nn.Module):
    """Of another's, which takes what a camera gives."""

    def __init__(self):
        super().__init__()
        self.model = make()

    def forward(self, x):
        return self.model(x / 128 - 1)


def test_values_that_may_be_meant():
    from spikevit.models.running import inputs_of

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(inputs_of(make(), [X, X * 100, X.abs(), X.abs() * 1e4]))
        list(inputs_of(make(in_channels=2), torch.full((1, 2, 16, 16), 100.0)))  # events are counted
        list(inputs_of(Normalising(), torch.full((1, 3, 16, 16), 255.0)))
        make()(X.abs() * 50)  # a forward asks a GPU nothing


# --- neurons --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "kind"), [("plif", "plif"), ("if", "if"), ("PLIF", "lif"), ("", "lif")])
def test_neurons_by_their_name_alone(text, kind):
    right = f'neuron={text!r} must be a NeuronConfig or a mapping of its fields, such as neuron={{"kind": "{kind}"}}; '
    config = type(model_entry("spikformer_tiny").config)
    for call in (lambda: create_model("spikformer_tiny", neuron=text), lambda: config(neuron=text)):
        with pytest.raises(ValueError, match=re.escape(right) + "kinds: lif, plif, if, expg, relu"):
            call()
    assert create_model("spikformer_tiny", neuron={"kind": kind}).config.neuron == NeuronConfig(kind=kind)
