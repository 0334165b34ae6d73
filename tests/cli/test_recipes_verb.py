"""spikevit recipes: all that is shipped, and each as it is."""

from importlib import resources

import pytest

from spikevit.cli.main import main
from spikevit.recipes import about, shipped_recipes
from spikevit.training.recipe import load_recipe


def test_all_are_listed(capsys):
    assert main(["recipes"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert f"{name} {recipe.model.name} on {recipe.data.name}, {recipe.schedule.epochs} epochs" in said
        assert f"{about(name)}." in said and len(about(name)) > 30
    assert "two minutes on two cores, no download." in said
    assert "ge2mst_cifar10 ge2mst_32 on cifar10, 100 epochs, for a GPU" in said
    assert "digits spikformer_tiny on digits, 30 epochs Spikformer" in said, "not for a GPU"


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_is_printed_with_its_comments(capsys, name):
    assert main(["recipes", name]) == 0
    text = resources.files("spikevit.recipes").joinpath(f"{name}.yaml").read_text()
    assert capsys.readouterr().out == text and text.startswith("# ")


def test_no_such_recipe(capsys):
    assert main(["recipes", "digts"]) == 2
    assert "unknown recipe 'digts'; did you mean digits" in capsys.readouterr().err


def test_train_names_them(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in shipped_recipes())
