"""spikevit recipes: what can be trained by name."""

from __future__ import annotations

import argparse

EXAMPLE = "examples:\n  spikevit recipes\n  spikevit recipes digits > my_recipe.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which recipe."""
    parser.add_argument("recipe", nargs="?", help="a recipe's name: prints it as YAML (default: lists all)")


def run(args: argparse.Namespace) -> int:
    """Lists all, those for a CPU first, or prints the text of one."""
    from rich.padding import Padding
    from rich.text import Text

    from spikevit.recipes import about, recipe_text, shipped_recipes
    from spikevit.report.terminal import console
    from spikevit.training.recipe import load_recipe

    if args.recipe:
        print(recipe_text(args.recipe), end="")
        return 0
    shown = console()
    recipes = {name: load_recipe(name) for name in shipped_recipes()}
    for_gpu = {name: r.trainer.precision != "32-true" or "GPU" in about(name) for name, r in recipes.items()}
    for name in sorted(recipes, key=for_gpu.__getitem__):
        recipe, gpu = recipes[name], ", for a GPU" if for_gpu[name] else ""
        shown.print(name, style="bold", end="")
        shown.print(f"   {recipe.model.name} on {recipe.data.name}, {recipe.schedule.epochs} epochs{gpu}")
        shown.print(Padding(Text(f"{about(name)}."), (0, 0, 0, 2)))
    shown.print("\n`spikevit train RECIPE` trains one, `spikevit recipes RECIPE` prints it.")
    return 0
