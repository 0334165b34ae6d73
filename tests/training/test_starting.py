"""A model that starts from a checkpoint: its config, what the recipe changes in it, other data, exact mode, an ANN."""

import pytest
import torch
from safetensors.torch import load_file

from spikevit import create_model, load_model, save_model
from spikevit.training import build as building
from spikevit.training.build import build
from spikevit.training.recipe import load_recipe, parse_recipe
from spikevit.training.run import train
from tests.shapes import draw_shapes


@pytest.fixture
def started(tmp_path, brief, shades):
    """Builds a recipe on a checkpoint of `made` with the data of `shades`; returns the model and what was said."""

    def start(made, *changes, data=None, own=None):
        own = own or shades()
        path = tmp_path / "start.safetensors"
        save_model(made, path, data=own.info.to_dict() | {"source": None})
        said: list[str] = []
        model, _ = build(brief(f"model.start={path}", *changes), data or own, say=said.append)
        return model, said

    return start


def made(name="spikformer_tiny", **config):
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2} if name == "spikformer_tiny" else {}
    fits = {"num_classes": 2, "in_channels": 1, "image_size": 16, "time_steps": 2}
    return create_model(name, **{**small, **fits, **config})


NOTHING = ["model.config={}", "model.time_steps=null"]  # of SMALL


def test_the_whole_config_is_taken(started):
    """Fields that no shape shows: neurons, heads, the reset, T."""
    neuron = {"tau": 3.0, "reset": "soft", "decay_input": False}
    source = made(neuron=neuron, num_heads=4, time_steps=3)
    model, said = started(source, *NOTHING)
    assert model.config == source.config and said == []
    assert all(torch.equal(t, source.state_dict()[name]) for name, t in model.state_dict().items())


def test_what_the_recipe_says_is_changed_and_said(started):
    model, said = started(made(neuron={"tau": 3.0}, num_heads=4), "model.time_steps=5", "model.config.neuron.tau=1.5")
    assert (model.config.time_steps, model.config.neuron.tau, model.config.num_heads) == (5, 1.5, 2)
    assert sorted(line.split(",")[0] for line in said) == [
        "model.start: neuron.tau=1.5",
        "model.start: num_heads=2",  # of SMALL
        "model.start: time_steps=5",
    ]
    assert any("time_steps=5, as the recipe says; 2 in" in line for line in said) and len(said) == 3


def test_what_is_said_reaches_the_terminal(tmp_path, brief, shades, capsys):
    save_model(made(time_steps=3), tmp_path / "start.safetensors")
    recipe = brief(f"model.start={tmp_path}/start.safetensors", "schedule.epochs=1")
    train(tmp_path / "run", recipe, data=shades())
    assert "model.start: time_steps=2, as the recipe says; 3 in" in capsys.readouterr().out
    train(tmp_path / "quiet", recipe, data=shades(), progress=False)
    assert capsys.readouterr().out == ""


def test_another_shape_is_refused_by_name(started):
    with pytest.raises(ValueError, match=r"tensors differ, such as blocks\.1\.\S+ is not in the file"):
        started(made(), "model.config.depth=2")


def test_another_model_is_refused(started):
    with pytest.raises(
        ValueError, match=r"is qkformer_tiny, model\.name=spikformer_tiny: set model\.name=qkformer_tiny"
    ):
        started(made("qkformer_tiny"), *NOTHING)
    without = made("qkformer_tiny")
    without.name = None
    with pytest.raises(ValueError, match=r"is QKFormer, model\.name=spikformer_tiny: .*=the name of a QKFormer"):
        started(without, *NOTHING)


# --- other data ------------------------------------------------------------------------------------------------------


def test_other_classes_are_refused(started, shades):
    three = shades(classes=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"num_classes=2 there, 3 here; its classes are 2 \(dark, light\), those of "
                       r"shades 3 \(a, b, c\)\. model\.start with model\.transfer=true"):  # fmt: skip
        started(made(), data=three)
    with pytest.raises(ValueError, match=r"its classes are 2 \(dark, light\), those of shades 2 \(light, dark\)"):
        started(made(), data=shades(classes=("light", "dark")))


def test_transfer_is_all_but_the_head(started, shades):
    torch.manual_seed(7)  # not the recipe's
    source = made()
    torch.nn.init.ones_(source.head.bias)
    for classes in (("a", "b", "c"), ("light", "dark")):
        model, said = started(source, "model.transfer=true", data=shades(classes=classes))
        ours, theirs = model.state_dict(), source.state_dict()
        new = [
            name for name in ours if ours[name].shape != theirs[name].shape or not torch.equal(ours[name], theirs[name])
        ]
        assert sorted(new) == ["head.bias", "head.weight"] and len(ours["head.weight"]) == len(classes)
        assert len(said) == 1 and said[0].startswith("model.transfer: new in the model, not from")
        assert said[0].endswith(": head.weight, head.bias")


def test_transfer_within_the_same_data_keeps_everything(started):
    source = made()
    model, said = started(source, "model.transfer=true")
    assert said[0].endswith(": nothing") and torch.equal(model.head.weight, source.head.weight)


def test_transfer_draws_the_head_from_the_recipes_seed(started, shades):
    heads = [
        started(made(), "model.transfer=true", f"trainer.seed={seed}", data=shades(classes=("a", "b", "c")))[0].head
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)


def test_a_transferred_run(tmp_path, brief, shades):
    first, three = shades(), shades(classes=("a", "b", "c"))
    train(tmp_path / "first", brief("schedule.epochs=1"), data=first, progress=False)
    recipe = brief(f"model.start={tmp_path}/first/best.safetensors", "model.transfer=true")
    results = train(tmp_path / "run", recipe, data=three, progress=False)
    assert results["total"] == 8 and len(load_model(tmp_path / "run/best.safetensors").head.weight) == 3


# --- exact mode, ANN, size -------------------------------------------------------------------------------------------


def test_exact_mode_quantises_what_was_trained(started):
    """The code is the checkpoint's; weights are on grids of 2^7 − 1 steps a channel."""
    ge2mst = {"widths": (8, 8, 32), "depths": (1, 1, 1), "code": (2, 2)}
    source = made("ge2mst_tiny", **ge2mst)
    changes = ["model.name=ge2mst_tiny", "model.config={grid_bits: 8}", "model.time_steps=null"]
    model, said = started(source, *changes)
    assert (model.config.grid_bits, model.config.power_of_two, tuple(model.config.code)) == (8, True, (2, 2))
    assert said == [] and model.name == "ge2mst_tiny"
    again, said = started(model, *changes[:1], *NOTHING)  # an exact one goes on as such
    assert again.config == model.config and said == []
    with pytest.raises(ValueError, match=r"grid_bits is exact mode, .* leave model\.config\.power_of_two=false out"):
        started(source, changes[0], "model.config={grid_bits: 8, power_of_two: false}", changes[2])


def test_an_ann_is_the_twin_or_refused(tmp_path, brief, shades):
    """Fields that no shape shows, too."""
    data, path = shades(), tmp_path / "ann.safetensors"
    torch.manual_seed(0)

    def begin(ann, *changes):
        save_model(ann, path, data=data.info.to_dict())
        return build(brief(f"model.ann={path}", *changes), data)[0]

    relu = {"neuron": {"kind": "relu"}, "time_steps": 1}
    twin = made(**relu)
    assert [name for name, _ in begin(twin).methods] == ["thresholds"]
    assert begin(twin, "model.config.neuron.tau=3.0") is not None  # a rectifier has no τ
    for other, message in (
        (made(**{**relu, "num_heads": 4}), "num_heads is 4, of the twin 2"),
        (made(time_steps=1), "neuron.kind is 'lif', of the twin 'relu'"),
        (made(**{**relu, "time_steps": 2}), "time_steps is 2, of the twin 1"),
        (made("qkformer_tiny", **relu), "is a QKFormer; the recipe's spikformer_tiny is a Spikformer"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(other)
    save_model(twin, path, data=shades(classes=("light", "dark")).info.to_dict())
    with pytest.raises(ValueError, match=r"model\.ann=.* is for other data: its classes are 2 \(light, dark\)"):
        build(brief(f"model.ann={path}"), data)


def test_contradictions_of_a_recipe(brief):
    with pytest.raises(ValueError, match=r"model\.transfer=true is for model\.start"):
        brief("model.transfer=true")


def test_no_memory_is_taken_for_what_is_too_large(brief, shades, monkeypatch):
    """Counted by hand: the first convolution and the head of a network of one block, by their shapes."""
    model, _ = build(brief(), shades())
    weights = sum(t.numel() for t in model.state_dict().values())
    for most, fits in ((weights, True), (weights - 1, False)):
        monkeypatch.setattr(building, "MOST_WEIGHTS", most)
        if fits:
            build(brief(), shades())
            continue
        with pytest.raises(ValueError, match=rf"has {weights:,} weights; at most {most:,} are trained"):
            build(brief(), shades())


def test_the_outline_draws_nothing(brief, shades):
    """The same seed gives the same weights as create_model by itself."""
    torch.manual_seed(0)
    expected = made().state_dict()
    model, _ = build(brief(), shades())
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())


def test_start_survives_the_file_system(tmp_path, brief, shades):
    save_model(made(), tmp_path / "start.safetensors")
    model, _ = build(brief(f"model.start={tmp_path}/start.safetensors"), shades())
    assert all(torch.equal(t, model.state_dict()[k]) for k, t in load_file(tmp_path / "start.safetensors").items())


def test_what_the_recipe_leaves_open_is_the_checkpoints(tmp_path):
    """A model's name, the size and colours in which a folder is seen: written down, so that the run stands alone."""
    small = {"embed_dim": 32, "depths": [1, 1, 1], "time_steps": 2, "num_classes": 5}
    save_model(create_model("qkformer_tiny", in_channels=1, image_size=(16, 24), **small), tmp_path / "a")
    root = draw_shapes(tmp_path / "shapes", each=20)
    changes = [f"model.start={tmp_path}/a", "model.transfer=true", f"data.root={root}", "data.name=folder"]
    changes += ["schedule.epochs=1", "schedule.warmup_epochs=0", "data.batch_size=8"]
    train(tmp_path / "run", parse_recipe("", "a recipe", changes), progress=False)
    model = load_model(tmp_path / "run/best.safetensors")
    c = model.config
    assert (model.name, c.num_classes, c.in_channels, c.image_size) == ("qkformer_tiny", 3, 1, (16, 24))
    kept = load_recipe(tmp_path / "run/recipe.yaml")
    assert (kept.model.name, kept.data.image_size, kept.data.channels) == ("qkformer_tiny", (16, 24), 1)
    (tmp_path / "a").unlink()
    train(tmp_path / "run", epochs=2, progress=False)
    with pytest.raises(ValueError, match="image_size=.16, 24. there, .16, 16. here"):
        save_model(model, tmp_path / "b")
        build(parse_recipe("", "it", [f"model.start={tmp_path}/b", *changes[2:], "data.image_size=16"]))
