"""Damaged recipes: read, and where they are accepted, built."""

import os
import random
from collections import Counter
from importlib import resources

import yaml

from spikevit.training.recipe import parse_recipe, shipped_recipes
from spikevit.training.run import build
from tests.hostile.mutations import changed, outcomes, scrambled

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SMALL = ["model.name=spikformer_tiny", "data.name=digits", "data.root=null", "data.image_size=16", "data.channels=1"]


def texts() -> dict[str, str]:
    """The shipped recipes, the whole default one, and one with all sections."""
    shipped = {
        name: resources.files("spikevit.recipes").joinpath(f"{name}.yaml").read_text("utf-8")
        for name in shipped_recipes()
    }
    whole = parse_recipe(shipped["digits"], "digits").to_yaml()
    more = yaml.safe_load(whole) | {
        "time_steps": {"target": 2.0, "weight": 0.3, "lr": 0.005, "per": "layer", "pattern": "prefix"},
        "halting": {"gamma": 10.0, "beta": 30.0, "epsilon": 0.01, "front": "integrate", "over": "both", "merge": None},
    }
    more["model"]["config"] = {"depth": 1, "neuron": {"kind": "lif", "tau": 2.0, "surrogate": "atan", "alpha": 2.0}}
    return shipped | {"whole": whole, "more": yaml.safe_dump(more)}


def campaign(count: int, seed: int, failures: list | None = None) -> Counter[str]:
    """Of `count` damaged recipes, what became of them."""
    rng, sources = random.Random(seed), list(texts().values())
    cases = []
    for _ in range(count):
        text = rng.choice(sources)
        if rng.random() < 0.6:
            plain = changed(yaml.safe_load(text), rng)
            damaged = yaml.safe_dump(plain, allow_unicode=True).encode(errors="surrogateescape")
        else:
            damaged = scrambled(text, rng)
        cases.append((damaged, lambda damaged=damaged: read(damaged)))
    return outcomes(cases, failures)


def read(damaged: bytes) -> str:
    """What `spikevit train` does before its first step."""
    try:
        text = damaged.decode()
    except UnicodeDecodeError as error:
        raise ValueError("no UTF-8") from error
    recipe = parse_recipe(text, "recipe")
    if recipe.data.name != "digits":
        return "accepted, of data that are not here"
    build(recipe)
    return "accepted and built"
