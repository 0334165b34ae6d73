"""Recipes that come with the package, as YAML files."""

from __future__ import annotations

from importlib import resources

from spikevit.errors import unknown


def shipped_recipes() -> list[str]:
    """Their names."""
    return sorted(p.name.removesuffix(".yaml") for p in resources.files(__name__).iterdir() if p.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML of one of them, comments included.

    Raises:
        ValueError: no such recipe; names the nearest ones.
    """
    if name not in shipped_recipes():
        raise unknown("recipe", name, shipped_recipes())
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def about(name: str) -> str:
    """The first sentence of its comment."""
    lines = [line[2:] for line in recipe_text(name).split("\n") if line.startswith("# ")]
    return " ".join(lines).partition(". ")[0].rstrip(".")
