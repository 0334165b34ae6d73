"""Recipes: what is shipped, what can be changed, what a wrong word is answered with; the learning rate they mean."""

import math
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml

from spikevit import create_model
from spikevit.data import DATA_SETS, AugmentConfig
from spikevit.training.module import lr_at
from spikevit.training.recipe import Recipe, ScheduleRecipe, load_recipe, parse_recipe, shipped_recipes


@pytest.fixture
def write(tmp_path):
    """Writes a recipe file and returns its path."""

    def to_file(text: str):
        (tmp_path / "mine.yaml").write_text(text)
        return tmp_path / "mine.yaml"

    return to_file


# --- what is there, and what can be changed --------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_fit_a_model_and_a_data_set(name):
    recipe = load_recipe(name)
    assert recipe.data.name in DATA_SETS
    with torch.device("meta"):
        create_model(recipe.model.name, time_steps=recipe.model.time_steps, **recipe.model.config)


def test_digits_is_shipped():
    assert "digits" in shipped_recipes()
    assert load_recipe("digits").model.name == "spikformer_tiny"


FIVE = ["equalize", "rotate", "shear_x", "translate_x", "translate_y"]


@pytest.mark.parametrize(
    ("name", "epochs", "lr", "batch", "operations"),
    [
        ("cifar10_spikformer", 310, 5e-4, 128, FIVE),
        ("cifar100_spikformer", 310, 5e-4, 128, FIVE),
        ("cifar10_qkformer", 410, 1e-3, 64, None),
    ],
)
def test_cifar_recipes_are_those_of_the_repositories(name, epochs, lr, batch, operations):
    recipe = load_recipe(name)
    assert recipe.augmentation == AugmentConfig(
        crop_padding=0,
        flip=True,
        rand_augment="m9-n1-mstd0.4",
        rand_augment_ops=operations,
        erasing=0.25,
        mixup=0.5,
        mix_off_epoch=200,
    )
    assert recipe.schedule == ScheduleRecipe(epochs, warmup_epochs=20, cooldown_epochs=10)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.data.batch_size) == (lr, 0.06, batch)
    assert recipe.regularisation.label_smoothing == 0.1 and recipe.trainer.precision == "16-mixed"


def test_imagenet_recipe_is_what_is_known_of_the_repository():
    recipe = load_recipe("imagenet_spikformer")
    assert (recipe.data.image_size, recipe.data.batch_size) == (224, 24) and round(224 / recipe.data.crop_pct) == 256
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (5e-4, 0.05)
    assert recipe.schedule.epochs - recipe.schedule.cooldown_epochs == 300
    assert (recipe.augmentation.mixup, recipe.augmentation.cutmix) == (0.8, 1.0)
    assert recipe.augmentation.random_resized_crop == (0.08, 1.0)
    assert recipe.augmentation.aspect_ratio == (0.75, pytest.approx(1.3333333))
    assert recipe.trainer.precision == "16-mixed"
    with torch.device("meta"):
        model = create_model(recipe.model.name, num_classes=1000, image_size=(224, 224))
    norms = 8 * 2 * 2 * 512  # layer norms that the original has and never uses
    assert sum(p.numel() for p in model.parameters()) == 29_705_768 - norms


@pytest.mark.parametrize("name", ["cifar10_spikformer_dynamic", "cifar10_spikformer_exit", "cifar10_spikformer_stas"])
def test_recipes_that_say_as_in_cifar10_spikformer_are(name):
    recipe, base = load_recipe(name), load_recipe("cifar10_spikformer")
    for part in ("data", "optimizer", "schedule", "augmentation", "regularisation", "trainer"):
        assert getattr(recipe, part) == getattr(base, part)


def test_changes():
    recipe = load_recipe(
        "digits",
        [
            *("optimizer.lr=2e-3", "optimizer.betas=[0.8, 0.95]", "schedule.epochs=50", "schedule.epochs=60"),
            *("model.config.depth=1", "model.config.neuron.kind=plif", "model.time_steps=null"),
            *("data.root=/data/a=b", "augmentation.flip=true", "trainer.precision=64-true"),
        ],
    )
    assert recipe.optimizer.lr == 0.002 and recipe.optimizer.betas == (0.8, 0.95)
    assert recipe.schedule.epochs == 60, "the last one counts"
    assert recipe.model.config == {"depth": 1, "neuron": {"kind": "plif"}} and recipe.model.time_steps is None
    assert recipe.data.root == "/data/a=b" and recipe.augmentation.flip is True
    assert recipe.trainer.precision == "64-true"
    assert recipe.data.batch_size == load_recipe("digits").data.batch_size, "the rest is as it was"


def test_a_file_says_only_what_it_is_about(write):
    assert load_recipe(write("")) == Recipe()
    recipe = load_recipe(write("model: {name: qkformer_tiny}\nschedule: {epochs: 7}"), ["schedule.warmup_epochs=1"])
    assert (recipe.model.name, recipe.schedule.epochs, recipe.schedule.warmup_epochs) == ("qkformer_tiny", 7, 1)
    assert recipe.optimizer == Recipe().optimizer


@pytest.mark.parametrize("name", shipped_recipes())
def test_yaml_round_trip(name, write):
    recipe = load_recipe(name, ["optimizer.betas=[0.8, 0.95]", "model.config.neuron.kind=plif", "data.root=/data"])
    assert load_recipe(write(recipe.to_yaml())) == recipe
    assert load_recipe(str(write(recipe.to_yaml()))).to_yaml() == recipe.to_yaml()


# --- what a wrong word is answered with ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimzer.lr=1", "unknown key 'optimzer'; did you mean optimizer"),
        ("optimizer.lrr=1", "unknown key 'optimizer.lrr'; did you mean optimizer.lr"),
        ("augmentation.mixupp=1", "unknown key 'augmentation.mixupp'; did you mean augmentation.mixup"),
        ("model.name.tiny=1", "'model.name.tiny': 'name' has no fields below it"),
        (
            "model=qkformer_tiny",
            "model='qkformer_tiny' must be a mapping of name, start, transfer, ann, backend, time_steps, config",
        ),
        ("optimizer.lr=fast", "optimizer.lr"),
        ("data.batch_size=1.5", "data.batch_size"),
        ("optimizer.betas=[0.9]", "optimizer.betas"),
        ("model.config=3", "model.config"),
        (
            "optimizer.lr",
            "'optimizer.lr' is not a change to the recipe; it would read key=value, as optimizer.lr=0.002",
        ),
        ("optimizer.betas=[0.9", "optimizer.betas=[0.9"),
        ("optimizer.lr=-1", "optimizer.lr=-1 must be a number above 0"),
        ("spikes.weight=-1", "spikes.weight=-1 must be a number above 0"),
        ("optimizer.lr=.nan", "optimizer.lr=nan must be a number above 0"),
        ("data.batch_size=0", "data.batch_size=0 must be a whole number of at least 1"),
        ("trainer.accumulate=0", "trainer.accumulate=0 must be a whole number of at least 1"),
        ("trainer.devices=0", "trainer.devices=0 must be a whole number of at least 1"),
        ("regularisation.ema_decay=1", "regularisation.ema_decay=1 must be a number above 0 and below 1"),
        ("augmentation.erasing=2", "erasing=2 must be a number of at least 0 and at most 1"),
        ("schedule.epochs=0", "schedule.epochs=0 must be a whole number of at least 1"),
        ("schedule.warmup_epochs=-1", "schedule.warmup_epochs=-1 must be a whole number of at least 0"),
        ("schedule.cooldown_epochs=-1", "schedule.cooldown_epochs=-1 must be a whole number of at least 0"),
        ("schedule.epochs=2", "schedule.epochs=2 is less than warmup_epochs=3 + cooldown_epochs=0"),
        ("schedule.cooldown_epochs=37", "schedule.epochs=30 is less than warmup_epochs=3 + cooldown_epochs=37"),
    ],
)
def test_wrong_changes(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_recipe("digits", [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {name: a}", "unknown key 'modle'; did you mean model"),
        ("model: {nmae: a}", "unknown key 'model.nmae'; did you mean model.name"),
        ("model: {time_steps: many}", "model.time_steps"),
        ("model:", "model=None must be a mapping of name, start, transfer, ann, backend, time_steps, config"),
        ("- digits", "must be a mapping of model, data, "),
        ("model: [1", "mine.yaml is not valid YAML"),
        ("schedule: {epochs: 1}", "schedule.epochs=1 is less than warmup_epochs=3"),
    ],
)
def test_wrong_files(write, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_recipe(write(text))


def test_a_wrong_file_stays_wrong_with_changes(write):
    with pytest.raises(ValueError, match="must be a mapping"):
        load_recipe(write("- digits"), ["schedule.epochs=5"])


def test_no_such_recipe(tmp_path):
    with pytest.raises(ValueError, match=r"unknown recipe 'digts'; did you mean digits or"):
        load_recipe("digts")
    with pytest.raises(ValueError, match=r"there is no recipe file .*none\.yaml; shipped recipes: .*digits"):
        load_recipe(tmp_path / "none.yaml")


# --- the learning rate -----------------------------------------------------------------------------------------------

SCHEDULE = ScheduleRecipe(epochs=10, warmup_epochs=2, warmup_lr=0.1, min_lr=0.2, cooldown_epochs=2)


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 0.1),  # warm-up, a line from 0.1 to 1
        (0.5, 0.325),
        (1, 0.55),
        (2 - 1e-9, 1.0),  # its end, the peak
        (2, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2),  # a cosine from 1 at 0 to 0.2 at 8, entered a quarter of the way
        (4, 0.6),  # half way
        (6, 0.2 + 0.8 * (1 - math.sqrt(0.5)) / 2),
        (8 - 1e-9, 0.2),  # its end
        (8, 0.2),  # cool-down
        (9, 0.2),
        (10, 0.2),
    ],
)
def test_learning_rate(epoch, lr):
    assert lr_at(epoch, 1.0, SCHEDULE) == pytest.approx(lr, rel=1e-7)


def test_learning_rate_without_warm_up_and_cool_down():
    schedule = ScheduleRecipe(epochs=4, warmup_epochs=0, min_lr=0.0)
    assert [lr_at(e, 3.0, schedule) for e in range(5)] == pytest.approx(
        [3.0, 1.5 * (1 + math.sqrt(0.5)), 1.5, 1.5 * (1 - math.sqrt(0.5)), 0.0]
    )


def test_a_key_without_its_group_is_found():
    with pytest.raises(ValueError, match=r"unknown key 'epochs'; did you mean schedule\.epochs\?"):
        load_recipe("digits", ["epochs=3"])


def test_the_page_names_every_field_with_its_default():
    """docs/reference/recipe.md, line by line."""
    page = (Path(__file__).parents[2] / "docs/reference/recipe.md").read_text(encoding="utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    shown = parse_recipe(text, "the page")
    assert shown == Recipe()
    plain = yaml.safe_load(text)
    for section in fields(Recipe):
        if section.name != "data_given" and plain[section.name] is not None:
            assert plain[section.name].keys() == asdict(getattr(shown, section.name)).keys(), section.name


def test_a_model_is_no_recipe():
    with pytest.raises(
        ValueError, match="qkformer_tiny is a model, no recipe; .*train digits model.name=qkformer_tiny"
    ):
        load_recipe("qkformer_tiny")


@pytest.mark.parametrize("cooldown", [0, 10])
def test_epochs_that_leave_no_room_say_all_that_must_change(cooldown):
    with pytest.raises(ValueError) as error:
        load_recipe("digits", ["schedule.epochs=2", f"schedule.cooldown_epochs={cooldown}"])
    assert ("change schedule.warmup_epochs and schedule.cooldown_epochs too" in str(error.value)) == bool(cooldown)
