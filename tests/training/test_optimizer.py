"""Optimisers by name, their options, learning rates by layer; what a wrong word is answered with."""

import math
import re
import sys
import types

import pytest
import torch

from spikevit.training.build import build
from spikevit.training.module import Classifier
from spikevit.training.optimizer import make_optimizer, names
from spikevit.training.recipe import Recipe, load_recipe
from spikevit.training.run import train


@pytest.fixture
def made(brief, shades):
    """The optimiser of a recipe, and the model."""

    def make(*changes):
        recipe = brief(*changes)
        model, _ = build(recipe, shades())
        steps = recipe.time_steps
        return make_optimizer(recipe.optimizer, model, steps.lr if steps else None), model

    return make


def test_the_default_is_adamw_as_it_was(made):
    """Two groups, matrices and vectors, in the order of the parameters: resume files of before have these."""
    optimizer, model = made()
    assert type(optimizer) is torch.optim.AdamW
    matrices, vectors = optimizer.param_groups
    parameters = list(model.parameters())
    assert [id(p) for p in matrices["params"]] == [id(p) for p in parameters if p.dim() > 1]
    assert [id(p) for p in vectors["params"]] == [id(p) for p in parameters if p.dim() <= 1]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)
    assert matrices["lr"] == vectors["lr"] == 0.003 and matrices["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("name", sorted(names()))
def test_every_name_trains(name, made, shades):
    """A step of each moves the head, and stays finite."""
    optimizer, model = made(f"optimizer.name={name}")
    before = model.head.weight.clone()
    images = shades().train.images[:8].float() / 255
    model(images).logsumexp(-1).sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)
    assert all(p.isfinite().all() for p in model.parameters())


def test_which_names():
    assert {"adam", "adamw", "sgd", "nadam", "radam", "rmsprop", "adagrad", "adamax"} <= set(names())
    assert not {"lbfgs", "sparseadam", "muon", "optimizer"} & set(names())


def test_options_reach_it(made):
    optimizer, _ = made("optimizer.name=sgd", "optimizer.options={momentum: 0.9, nesterov: true}")
    assert all(g["momentum"] == 0.9 and g["nesterov"] for g in optimizer.param_groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.0]
    optimizer, _ = made("optimizer.name=nadam", "optimizer.options.momentum_decay=0.01", "optimizer.betas=[0.8, 0.9]")
    assert optimizer.param_groups[0]["momentum_decay"] == 0.01 and optimizer.param_groups[1]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["name=adamm"], "unknown optimizer.name 'adamm'; did you mean"),
        (["name=lion"], "those of timm are timm:NAME"),
        (["name=AdamW"], "unknown optimizer.name 'AdamW'; did you mean"),
        (["name=3"], "optimizer.name=3 must be text"),
        (
            ["name=sgd", "options.momentun=0.9"],
            "unknown key 'optimizer.options.momentun'; did you mean optimizer.options",
        ),
        (["name=sgd", "options.momentum=high"], "optimizer.options.momentum='high' must be a finite number"),
        (
            ["name=sgd", "options.momentum=-1"],
            "optimizer.name=sgd refuses what it is given: Invalid momentum value: -1",
        ),
        (
            ["name=sgd", "options.nesterov=true"],
            "optimizer.name=sgd refuses what it is given: Nesterov momentum requires",
        ),
        (
            ["options={fused: true, foreach: true}"],
            "optimizer.name=adamw refuses what it is given: `fused` and `foreach`",
        ),
        (["name=sgd", "options.lr=1"], "optimizer.options.lr=1: set optimizer.lr instead"),
        (["name=sgd", "betas=[0.8, 0.9]"], "optimizer.betas=(0.8, 0.9) must be left out: sgd has none"),
        (["options=3"], "optimizer.options=3 must be a mapping"),
        (["layer_decay=0"], "optimizer.layer_decay=0 must be a number above 0 and at most 1"),
        (["layer_decay=1.1"], "optimizer.layer_decay=1.1 must be a number"),
    ],
)
def test_wrong_words(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_recipe("digits", [f"optimizer.{change}" for change in changes])


# --- timm ------------------------------------------------------------------------------------------------------------


class Lamb(torch.optim.SGD):
    def __init__(
        self, params, lr: float = 1e-3, betas=(0.9, 0.999), weight_decay: float = 0.0, trust_clip: bool = False
    ):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.trust_clip, self.betas = trust_clip, betas


def test_one_of_timm(made, monkeypatch):
    def get_optimizer_class(name):
        if name != "lamb":
            raise ValueError(f"Optimizer {name} not found in registry")
        return Lamb

    optim = types.SimpleNamespace(get_optimizer_class=get_optimizer_class)
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.optim", optim)
    optimizer, _ = made("optimizer.name=timm:lamb", "optimizer.options.trust_clip=true")
    assert type(optimizer) is Lamb and optimizer.trust_clip and optimizer.betas == (0.9, 0.999)
    with pytest.raises(ValueError, match="unknown key 'optimizer.options.trustclip'; did you mean .*trust_clip"):
        made("optimizer.name=timm:lamb", "optimizer.options.trustclip=true")
    with pytest.raises(ValueError, match="optimizer.name=timm:lamp: Optimizer lamp not found"):
        made("optimizer.name=timm:lamp")


def test_without_timm(tmp_path, brief, shades, monkeypatch):
    """The recipe can be read, not trained; nothing is made."""
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    recipe = brief("optimizer.name=timm:lamb")
    with pytest.raises(ImportError, match=r"timm cannot be imported .*: pip install timm"):
        train(tmp_path / "run", recipe, data=shades(), progress=False)
    assert not (tmp_path / "run").exists()


# --- learning rates by layer -----------------------------------------------------------------------------------------


def test_layer_decay_by_hand(made):
    """lr = 0.003, x = 1/2, one block: stem 0.003/4, block 0.003/2, head 0.003; scores of time steps keep their own."""
    optimizer, model = made("optimizer.layer_decay=0.5", "time_steps.lr=0.01")
    lr = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(lr) == len(list(model.parameters()))
    expected = {"patch_embed": 0.003 / 4, "blocks": 0.003 / 2, "head": 0.003, "gates": 0.01}
    for name, p in model.named_parameters():
        part = name.removeprefix("model.").split(".")[0]
        assert lr[id(p)] == pytest.approx(expected[part], rel=1e-12), name
        assert decay[id(p)] == (0.05 if p.dim() > 1 else 0.0)


def test_the_schedule_moves_all_layers_alike(tmp_path, brief, shades):
    """And metrics.csv has the recipe's rate, the head's: half a cosine from 0.003 to 0, after each third of it."""
    from spikevit.training.rows import read_rows

    recipe = brief("optimizer.layer_decay=0.5", "schedule.min_lr=0", "optimizer.lr=0.003")
    seen = []
    original = Classifier.on_train_epoch_start

    def look(self):
        original(self)
        seen.append([g["lr"] for g in self.trainer.optimizers[0].param_groups])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "on_train_epoch_start", look)
        train(tmp_path / "run", recipe, data=shades(), progress=False)
    shape = [(1 + math.cos(math.pi * done / 3)) / 2 for done in range(4)]
    for rates, factor in zip(seen, shape, strict=False):
        assert rates == pytest.approx([0.003 * factor / 2**k for k in (0, 0, 1, 1, 2, 2)])
    rows = read_rows(tmp_path / "run/metrics.csv")
    assert [row["lr"] for row in rows] == pytest.approx([0.003 * factor for factor in shape[1:]])


def test_recipes_of_before_have_no_differences():
    """A recipe's text without the fields that came later is the same recipe."""
    import yaml

    plain = yaml.safe_load(Recipe().to_yaml())
    for part, fields in {"optimizer": ["name", "layer_decay", "options"], "model": ["freeze"]}.items():
        for field in fields:
            del plain[part][field]
    for field in ("fast_dev_run", "wandb"):
        del plain["trainer"][field]
    from spikevit.training.recipe import parse_recipe

    assert parse_recipe(yaml.safe_dump(plain), "it").differences(Recipe()) == {}
