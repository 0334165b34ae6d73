"""Models by name: their published sizes, what can be changed, and what a wrong word is answered with."""

import json
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from spikevit import create_model, list_models
from spikevit.models import registry
from spikevit.models.registry import change_config, config_to_dict, model_entry, register
from spikevit.neurons import IF, ParametricLIF
from spikevit.neurons.lif import Neuron

TINY = list_models("*_tiny")
SIZES = {  # of the originals, 10 classes for CIFAR (STMixer, MSViT's channel form: 100) and 1000 for ImageNet
    "spikformer_4_256": 4_159_274,
    "spikformer_2_384": 5_768_122,
    "spikformer_4_384": 9_330_874,
    "spikformer_8_384": 16_828_312,
    "spikformer_6_512": 23_385_640,
    "spikformer_8_512": 29_705_768,
    "spikformer_10_512": 36_025_896,
    "spikformer_8_768": 66_363_208,
    "qkformer_4_384": 6_706_234,
    "qkformer_10_384": 16_473_688,
    "qkformer_10_512": 29_079_336,
    "qkformer_10_768": 64_962_760,
    "msvit_4_384": 7_558_762,
    "msvit_4_384_channel": 7_445_956,
    "msvit_10_384": 17_686_216,
    "msvit_10_512": 31_232_616,
    "msvit_10_768": 69_802_408,
    "spikingformer_4_384": 9_326_266,
    "sdt_2_256": 2_567_082,
    "sdt_2_512": 10_233_546,
    "sdt_8_768": 66_339_144,
    "stmixer_4_384": 8_258_324,
    "stmixer_10_384": 17_531_156,
    "stmixer_8_768": 61_167_432,
}
OURS = {"ge2mst_t", "ge2mst_s", "ge2mst_b", "ge2mst_32"}  # no original
UNCOUNTED = {"spikingformer_4_256", "spikingformer_2_384", "sdt_8_384", "sdt_6_512", "sdt_8_512", "sdt_10_512"} | {
    f"spikingformer_8_{dim}" for dim in (384, 512, 768)
}
HEADS = {  # as published
    **{"spikformer_4_384": 12, "spikformer_8_512": 8, "spikformer_8_768": 12, "spikingformer_4_384": 12},
    **{"spikingformer_8_512": 8, "spikingformer_8_768": 12, "stmixer_4_384": 16, "stmixer_10_384": 16},
    **dict.fromkeys(["sdt_2_256", "sdt_2_512", "sdt_8_384", "sdt_8_512", "sdt_8_768", "qkformer_4_384"], 8),
    **{f"{family}_10_{dim}": h for family in ("qkformer", "msvit") for dim, h in ((384, 6), (512, 8), (768, 12))},
}


def on_meta(name: str, **config):
    with torch.device("meta"):
        return create_model(name, **config)


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def unused(name: str, config) -> int:
    """Parameters of the originals that nothing there runs, and that we do not build."""
    if name.startswith(("spikformer", "spikingformer")):
        return 4 * config.embed_dim * config.depth  # two LayerNorms a block
    return config.num_heads**2 * config.depth if name.startswith("sdt") else 0  # a convolution over heads


# --- what is there ---------------------------------------------------------------------------------------------------


def test_every_counted_model_has_its_size():
    assert set(SIZES) | UNCOUNTED | OURS == set(list_models()) - set(TINY)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_originals(name):
    model = on_meta(name)
    assert parameters(model) + unused(name, model.config) == SIZES[name]


@pytest.mark.parametrize(
    ("name", "config", "size"),
    [
        ("qkformer_4_384", {"num_classes": 100}, 6_740_884),
        ("stmixer_4_384", {"sml": True}, 13_268_188),
        ("stmixer_10_384", {"sml": True}, 30_828_552),
    ],
)
def test_sizes_of_other_forms(name, config, size):
    assert parameters(on_meta(name, **config)) == size


@pytest.mark.parametrize("name", sorted(set(SIZES) | UNCOUNTED))
def test_names_say_depth_and_width(name):
    _, depth, width, *_ = name.split("_")
    config = on_meta(name).config
    assert (sum(config.depths) if hasattr(config, "depths") else config.depth) == int(depth)
    assert config.embed_dim == int(width)
    assert config.time_steps == (1 if name in ("stmixer_10_384", "stmixer_8_768") else 4)


@pytest.mark.parametrize("name", sorted(set(SIZES) | UNCOUNTED))
def test_inputs_and_heads(name):
    model = on_meta(name)
    config = model.config
    cifar = config.image_size == (32, 32)
    assert cifar or config.image_size == (224, 224)
    assert model.stride == (4 if cifar else 16)
    classes = 1000 if not cifar else 100 if name.startswith("stmixer") or name.endswith("channel") else 10
    assert config.num_classes == classes
    assert config.num_heads == HEADS.get(name, config.num_heads)


@pytest.mark.parametrize("name", TINY)
def test_tiny_models(name):
    model = on_meta(name)
    assert (model.config.in_channels, model.config.image_size) == (3, (32, 32))
    assert parameters(model) < 250_000
    assert model.name == name


def test_list_is_sorted_by_family_and_size():
    assert list_models("qkformer*") == [f"qkformer_{size}" for size in ("4_384", "10_384", "10_512", "10_768", "tiny")]
    families = [name.split("_")[0] for name in list_models()]
    assert families == sorted(families)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("qk*_tiny", ["qkformer_tiny"]),
        ("qkformer_10_*", ["qkformer_10_384", "qkformer_10_512", "qkformer_10_768"]),
        ("spikformer_[24]_384", ["spikformer_2_384", "spikformer_4_384"]),
        ("qkformer", []),
    ],
)
def test_list_patterns(pattern, names):
    assert list_models(pattern) == names


# --- what can be changed ---------------------------------------------------------------------------------------------


def test_common_arguments():
    model = create_model("spikformer_tiny", num_classes=7, in_channels=1, image_size=(16, 24), time_steps=2)
    assert model(torch.randn(3, 1, 16, 24), per_step=True).shape == (2, 3, 7)
    assert create_model("spikformer_tiny", image_size=16).config.image_size == (16, 16)
    assert create_model("spikformer_tiny").config == model_entry("spikformer_tiny").config, "the entry is as it was"


def runs(model):
    """Logits of two images, and a gradient for every parameter."""
    logits = model(torch.randn(2, 3, 32, 32))
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    assert logits.shape == (2, 10) and logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    return model


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(("kind", "layer"), [("plif", ParametricLIF), ("if", IF)])
def test_other_neurons(name, kind, layer):
    neuron = {"kind": kind, "surrogate": "atan", "reset": "soft"}
    model = runs(create_model(name, neuron=neuron))
    neurons = [m for m in model.modules() if isinstance(m, Neuron)]
    assert neurons and all(type(m) is layer and m.reset == "soft" for m in neurons)
    assert model.config.neuron == replace(model_entry(name).config.neuron, **neuron)
    if kind == "plif":
        assert any(m.w.grad != 0 for m in neurons)


@pytest.mark.parametrize("mixers", [["qk_channel", "ssa", "ssa"], ["qk_token", "qk_channel", "qk_token"]])
def test_mixers_are_swapped_by_config(mixers):
    model = runs(create_model("qkformer_tiny", mixers=mixers))
    assert model.config.mixers == tuple(mixers)
    kinds = [type(stage[0].attn).__name__ for stage in model.stages]
    assert kinds == [
        {"qk_token": "QKTokenAttention", "qk_channel": "QKChannelAttention", "ssa": "SSA"}[m] for m in mixers
    ]


def test_config_survives_json():
    config = create_model("qkformer_tiny", neuron={"kind": "plif", "alpha": 2.0}, image_size=(32, 48)).config
    plain = json.loads(json.dumps(config_to_dict(config)))
    assert change_config(model_entry("qkformer_4_384").config, plain) == config


def test_registering_a_name():
    entry = model_entry("spikformer_tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_MODELS", dict(registry._MODELS))
        register("spikformer_nano", entry.build, entry.config, depth=1)
        assert create_model("spikformer_nano").config.depth == 1
        with pytest.raises(ValueError, match="'spikformer_nano' is registered already"):
            register("spikformer_nano", entry.build, entry.config)
    assert "spikformer_nano" not in list_models()


# --- what a wrong word is answered with ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("spikformer_tny", {}, "unknown model 'spikformer_tny'; did you mean spikformer_tiny"),
        ("zzz", {}, "unknown model 'zzz'; known: ge2mst_32, .*stmixer_tiny"),
        ("spikformer_tiny", {"depht": 1}, "unknown field of SpikformerConfig 'depht'; did you mean depth?"),
        ("qkformer_tiny", {"qkv_bias": True}, "unknown field of QKFormerConfig 'qkv_bias'"),
        ("spikformer_tiny", {"neuron": {"kind": "plf"}}, "unknown neuron kind 'plf'; did you mean plif"),
        ("spikformer_tiny", {"neuron": {"tua": 3.0}}, "unknown field of NeuronConfig 'tua'; did you mean tau"),
        ("spikformer_tiny", {"neuron": {"surrogate": "atn"}}, "unknown surrogate 'atn'; did you mean atan"),
        ("qkformer_tiny", {"mixers": ["qk_tokn", "ssa", "ssa"]}, "unknown mixer 'qk_tokn'; did you mean qk_token"),
        ("qkformer_tiny", {"stem": "cifr"}, "unknown stem 'cifr'; did you mean cifar"),
        ("spikformer_tiny", {"time_steps": 0}, "time_steps=0 must be a whole number of at least 1"),
        ("spikformer_tiny", {"time_steps": 2.0}, "time_steps=2.0 must be a whole number of at least 1"),
        ("spikformer_tiny", {"num_classes": -1}, "num_classes=-1 must be a whole number of at least 0"),
        ("spikformer_tiny", {"in_channels": -1}, "in_channels=-1 must be a whole number of at least 1"),
        ("spikformer_tiny", {"num_heads": 5}, r"num_heads=5 does not divide the width 64; these do: [1, 2, 4, 8"),
        ("qkformer_tiny", {"num_heads": 32}, r"num_heads=32 does not divide the width 16; these do: [1, 2, 4, 8, 16]"),
        ("spikformer_tiny", {"image_size": 30}, "image height 30 is not divided by the stride 4 of Spikformer; 32"),
        ("spikformer_8_384", {"image_size": (224, 231)}, "image width 231 is not divided by the stride 16"),
        (
            "spikformer_tiny",
            {"image_size": 0},
            "image_size[0]=0 must be a whole number of at least 1",
        ),
    ],
)
def test_wrong_words(name, config, message):
    message = message if ".*" in message else re.escape(message)
    with pytest.raises(ValueError, match=message):
        on_meta(name, **config)
