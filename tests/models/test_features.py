"""Features and heads as users of timm know them: of every family, and of models with methods applied."""

import pytest
import torch
from torch import nn

from spikevit import (
    add_early_exit,
    add_halting,
    allocate_time_steps,
    convert,
    count,
    create_model,
    list_models,
    load_model,
    load_weights,
    quantise,
    save_model,
)
from spikevit.models import SpikingModel

TINY = list_models("*_tiny")
TIMED = [name for name in TINY if not name.startswith("ge2mst")]
HIERARCHICAL = ("qkformer_tiny", "msvit_tiny", "ge2mst_tiny")
X = torch.randn(3, 3, 16, 16, dtype=torch.float64)


def make(name: str = "spikformer_tiny", **config) -> SpikingModel:
    """With batch norms that let neurons fire, so that features are not zeros."""
    torch.manual_seed(0)
    model = create_model(name, image_size=16, **config).double()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            nn.init.uniform_(m.running_var, 0.02, 0.1)
            nn.init.uniform_(m.bias, -0.2, 0.6)
    return model.eval()


METHODS = {
    "time steps": lambda: allocate_time_steps(make(), steps={"*": 3}),
    "frozen steps": lambda: allocate_time_steps(make("sdt_tiny"), steps={"*": 3}).freeze(),
    "all frozen": lambda: allocate_time_steps(make("sdt_tiny"), steps={"*": 2}).freeze(),
    "early exit": lambda: add_early_exit(make(), 0.11),
    "halting": lambda: add_halting(make()),
    "halting of frozen steps": lambda: add_halting(allocate_time_steps(make(), steps={"*": 2}).freeze()),
}


def weights(model) -> dict:
    return {name: t.clone() for name, t in model.state_dict().items() if ".head." not in f".{name}"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", TINY)
def test_forward_is_features_then_head(name, dtype):
    model, x = make(name).to(dtype), X.to(dtype)
    features = model.forward_features(x)
    grid = (4, 4) if name in HIERARCHICAL else (16,)
    assert features.shape == (4 if name in TIMED else 1, 3, *grid, model.num_features)
    assert features.count_nonzero() > 0
    assert torch.equal(model.forward_head(features), model(x))


@pytest.mark.parametrize("name", TINY)
def test_pre_logits_are_what_the_head_sees(name):
    """The head is linear and the same at all steps and places, so that it may as well take the mean."""
    model = make(name)
    seen = model.forward_head(model.forward_features(X), pre_logits=True)
    assert seen.shape == (3, model.num_features)
    torch.testing.assert_close(nn.functional.linear(seen, model.head.weight, model.head.bias), model(X))


@pytest.mark.parametrize("method", METHODS)
def test_methods_have_features_too(method):
    model = METHODS[method]()
    features = model.forward_features(X)
    assert type(features) is torch.Tensor and features.shape[1] == 3 and features.shape[-1] == model.num_features == 64
    torch.testing.assert_close(model.forward_head(features), model(X), rtol=0, atol=1e-9)
    if method == "halting":
        assert features.shape == (1, 3, 64)
    if method == "early exit":
        taken = model.run(X)[1]
        assert taken.min() < 4, "some exit early"
        seen = model.forward_head(features, pre_logits=True)
        head = model.model.head
        torch.testing.assert_close(nn.functional.linear(seen, head.weight, head.bias), model(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TINY)
def test_another_head(name):
    model = make(name)
    before, random, features = weights(model), torch.get_rng_state(), model.forward_features(X)
    model.reset_classifier(7)
    assert not torch.equal(random, torch.get_rng_state()), "the head is drawn"
    assert model.config.num_classes == 7 and model(X).shape == (3, 7)
    assert model.head.weight.dtype == torch.float64 and model.head.weight.std() > 0
    after = weights(model)
    assert list(before) == list(after) and all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(model.forward_features(X), features)
    old = model.head.weight.clone()
    model.reset_classifier(7)
    assert not torch.equal(old, model.head.weight), "fresh again"


@pytest.mark.parametrize("name", TINY)
def test_without_a_head(name, tmp_path):
    model, whole = make(name, num_classes=0), make(name)
    model.load_state_dict(weights(whole))
    assert isinstance(model.head, nn.Identity) and model.num_features == whole.num_features
    seen = whole.forward_head(whole.forward_features(X), pre_logits=True)
    torch.testing.assert_close(model(X), seen, rtol=0, atol=1e-12)
    if model.time_axis:
        assert model(X, per_step=True).shape == (4, 3, model.num_features)
        torch.testing.assert_close(model(X, per_step=True).mean(0), seen, rtol=0, atol=1e-12)
    whole.reset_classifier(0)
    assert torch.equal(whole(X), model(X)) and whole.config == model.config
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert torch.equal(again(X), model(X)) and again.config.num_classes == 0
    again.reset_classifier(2)
    assert again(X).shape == (3, 2)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "early exit"])
def test_methods_without_a_head(method, tmp_path):
    model = METHODS[method]()
    seen = model.forward_head(model.forward_features(X), pre_logits=True)
    model.reset_classifier(0)
    torch.testing.assert_close(model(X), seen, rtol=0, atol=1e-9)
    save_model(model, tmp_path / "m.safetensors")
    assert torch.equal(load_model(tmp_path / "m.safetensors")(X), model(X))
    model.reset_classifier(5)
    assert model(X).shape == (3, 5) and model.config.num_classes == model.base.config.num_classes == 5


def test_heads_on_grids_and_of_spikes():
    """Exact mode and converted networks: the new head is on the same grid."""
    exact = quantise(make("ge2mst_tiny"))
    bits = exact.head.bits
    exact.reset_classifier(4)
    assert exact.head.bits == bits and exact(X).shape == (3, 4)
    spiking = convert(exact, X)[0]
    torch.testing.assert_close(spiking(X), exact(X), rtol=0, atol=1e-9)
    exact.reset_classifier(0)
    spiking.reset_classifier(0)
    assert exact(X).shape == (3, 64)
    torch.testing.assert_close(spiking(X), exact(X), rtol=0, atol=1e-9)


def test_auxiliary_heads_follow():
    model = make("stmixer_tiny", sml=True)
    model.reset_classifier(6)
    loss, logits = model.loss(X, torch.tensor([0, 5, 3]))
    assert loss.isfinite() and logits.shape == (3, 6)
    assert all(z.shape == (3, 6) for z in model.all_logits(X))


def test_another_setting_keeps_its_head():
    model = make()
    model.at(2).reset_classifier(3)
    assert model(X).shape == (3, 10)


def test_weights_without_their_head(tmp_path):
    whole = make()
    save_model(whole, tmp_path / "m.safetensors")
    model = load_weights(make(num_classes=0), tmp_path / "m.safetensors", transfer=True)
    assert torch.equal(model.forward_features(X), whole.forward_features(X))
    with pytest.raises(ValueError, match=r"num_classes: 10 there, 0 here"):
        load_weights(make(num_classes=0), tmp_path / "m.safetensors")
    more = make(num_classes=5)
    save_model(model, tmp_path / "without.safetensors")
    load_weights(more, tmp_path / "without.safetensors", transfer=True)
    assert torch.equal(more.forward_features(X), whole.forward_features(X))


@pytest.mark.parametrize("name", ["spikformer_tiny", "stmixer_tiny", "qkformer_tiny"])
def test_refused_without_classes(name):
    from spikevit.data import DataInfo
    from spikevit.training.evaluate import evaluate, logits_per_step

    model = make(name, num_classes=0)
    labels = torch.tensor([0, 1, 0])
    data = torch.utils.data.TensorDataset(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), labels)
    info = DataInfo("two", ("a", "b"), 3, (16, 16), (0.0,) * 3, (1.0,) * 3)
    halting = add_halting(make(name, num_classes=0))
    for what, call in (
        ("a loss", lambda: model.loss(X, labels)),
        ("a loss", lambda: halting.loss(X, labels)),
        ("evaluation", lambda: evaluate(model, data, info)),
        ("evaluation", lambda: logits_per_step(model, data, info)),
    ):
        message = rf"{what} needs classes, and {name} has num_classes=0: model.reset_classifier\(N\) gives it"
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="at least two classes to be sure of one; num_classes is 0"):
        add_early_exit(model, 0.5)
    with pytest.raises(ValueError, match="num_classes is 0"):
        add_early_exit(make(name), 0.5).reset_classifier(0)


@pytest.mark.parametrize("wrong", [-1, 2.5, "ten", None, True])
def test_wrong_numbers_of_classes(wrong):
    model = make()
    with pytest.raises(ValueError, match=f"num_classes={wrong!r} must be a whole number of at least 0"):
        model.reset_classifier(wrong)
    assert model(X).shape == (3, 10)


class OwnHead(SpikingModel):
    """As models were written before: logits in one piece."""

    stride = 16

    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Linear(3, config.num_classes or 1)

    def logits(self, x, stream=None):
        return self.head(x.mean((2, 3)))


def test_models_that_make_their_head_themselves():
    from spikevit.models import ModelConfig

    model = OwnHead(ModelConfig(num_classes=4, image_size=16)).double()
    assert model(X).shape == (3, 4)
    with pytest.raises(ValueError, match=r"OwnHead has no features apart from its logits: give it `features\(x, strea"):
        model.forward_features(X)
    model.reset_classifier(6)
    assert model(X).shape == (3, 6)
    with pytest.raises(ValueError, match=r"num_classes=0: OwnHead makes its head itself, it must be `self.head = mod"):
        model.reset_classifier(0)
    assert model(X).shape == (3, 6)


def test_features_are_counted():
    assert count(make(num_classes=0), X).macs < count(make(), X).macs
