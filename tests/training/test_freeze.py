"""What is frozen stays bit for bit, with its statistics; the rest learns; who names nothing that is there, is told."""

import re

import pytest
import torch
from safetensors.torch import load_file

from spikevit import create_model, save_model
from spikevit.training.build import build
from spikevit.training.module import Classifier
from spikevit.training.run import train

FREEZE = "model.freeze=[patch_embed*, blocks.0.attn]"
FROZEN = ("patch_embed.", "blocks.0.attn.")


def initial(recipe, data) -> dict:
    """The weights that the run starts from."""
    model, _ = build(recipe, data)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict, after: dict) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["regularisation.ema_decay=0.9"],
        ["time_steps.target=1.5"],
        ["halting.beta=2"],
        ["optimizer.layer_decay=0.5"],
    ],
)
def test_what_is_frozen_stays_and_the_rest_learns(tmp_path, brief, shades, changes):
    recipe, data = brief(FREEZE, *changes), shades()
    before = initial(recipe, data)
    train(tmp_path / "run", recipe, data=data, progress=False)
    found = {name.replace("model.", "") for name in moved(before, load_file(tmp_path / "run/last.safetensors"))}
    assert not [name for name in found if name.startswith(FROZEN)]
    learns = {name.replace("model.", "") for name in before} - {n for n in found if n.startswith(FROZEN)}
    assert {"head.weight", "blocks.0.mlp.fc1.linear.weight", "blocks.0.mlp.fc1.bn.running_mean"} <= found <= learns
    if changes == ["time_steps.target=1.5"]:
        assert any(name.startswith("gates.") for name in found), "scores are no part of what is frozen"


def test_a_frozen_staircase_network_on_grids(tmp_path, brief, shades):
    """Exact mode has no batch norm; its layers learn behind frozen ones."""
    small = ["model.config={widths: [8, 16, 32], grid_bits: 8}", "model.name=ge2mst_tiny", "model.time_steps=4"]
    recipe, data = brief(*small, "model.freeze=[stem, 'stages.0*']", "schedule.epochs=1"), shades()
    before = initial(recipe, data)
    train(tmp_path / "run", recipe, data=data, progress=False)
    found = moved(before, load_file(tmp_path / "run/last.safetensors"))
    assert "head.weight" in found and not [name for name in found if name.startswith(("stem.", "stages.0."))]


def test_all_but_the_head(tmp_path, brief, shades, capsys):
    """A linear probe: 32 weights and a bias for each of two classes learn, of what is counted by hand below."""
    recipe, data = brief("model.freeze=all_but_head", "schedule.epochs=1"), shades()
    before = initial(recipe, data)
    train(tmp_path / "run", recipe, data=data)
    assert moved(before, load_file(tmp_path / "run/last.safetensors")) == {"head.weight", "head.bias"}
    whole = sum(p.numel() for p in build(brief(), data)[0].parameters())
    said = " ".join(capsys.readouterr().out.split())
    assert f"model.freeze: 66 of {whole:,} parameters learn" in said
    assert "stays as it was drawn: there is no model.start" in said


def test_auxiliary_heads_are_heads(brief, shades):
    small = ["model.name=stmixer_tiny", "model.config={embed_dim: 32, sml: true}"]
    model, _ = build(brief(*small, "model.freeze=all_but_head"), shades())
    learns = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learns == ["head.weight", "head.bias", "sml.0.head.weight", "sml.0.head.bias"]


def test_a_pattern_is_of_whole_names(brief, shades):
    """blocks.1 is not blocks.10, and a module stands for what is below it."""
    changes = ["model.config.depth=11", "model.freeze=[blocks.1]"]
    model, _ = build(brief(*changes), shades())
    frozen = {name.rsplit(".", 3)[0][:9] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"blocks.1."}
    assert not model.blocks[1].attn.training and model.blocks[10].attn.training and model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.freeze=[patch_embd*]", "unknown module in model.freeze 'patch_embd*'; did you mean patch_embed"),
        ("model.freeze=[blocks.0, blocks.7]", "unknown module in model.freeze 'blocks.7'; did you mean blocks.0"),
        ("model.freeze=['*']", "model.freeze=['*'] leaves nothing to learn: leave the head out, or take all_but_head"),
        ("model.freeze=all_but_heads", "model.freeze='all_but_heads' must be 'all_but_head' or a list, each text"),
        ("model.freeze=[3]", "model.freeze=[3] must be"),
    ],
)
def test_wrong_patterns(tmp_path, brief, shades, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(tmp_path / "run", brief(change), data=shades(), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [[], ["regularisation.ema_decay=0.9"], ["optimizer.layer_decay=0.7"]])
def test_it_resumes_exactly(tmp_path, brief, shades, monkeypatch, changes):
    recipe, data = brief(FREEZE, *changes), shades()
    train(tmp_path / "whole", recipe, data=data, progress=False)
    original = Classifier.training_step

    def step(self, *args):
        if self.global_step == 4:
            raise RuntimeError("stop")
        return original(self, *args)

    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(RuntimeError, match="stop"):
        train(tmp_path / "parts", recipe, data=data, progress=False)
    monkeypatch.undo()
    train(tmp_path / "parts", data=data, progress=False)
    whole, parts = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert not moved(whole, parts)


def test_a_probe_of_a_checkpoint_keeps_its_weights(tmp_path, brief, shades):
    """With new classes: all is the checkpoint's, but for the head, which is new."""
    source = create_model("spikformer_tiny", num_classes=3, in_channels=1, image_size=16, time_steps=2)
    path = tmp_path / "start.safetensors"
    save_model(source, path, data=shades(classes=("a", "b", "c")).info.to_dict() | {"source": None})
    changes = [f"model.start={path}", "model.transfer=true", "model.freeze=all_but_head", "schedule.epochs=1"]
    recipe = brief(*changes, "model.config={}", "model.time_steps=null")
    train(tmp_path / "run", recipe, data=shades(), progress=False)
    ours, theirs = load_file(tmp_path / "run/last.safetensors"), load_file(path)
    assert {name for name in theirs if not torch.equal(ours[name], theirs[name])} == {"head.weight", "head.bias"}
