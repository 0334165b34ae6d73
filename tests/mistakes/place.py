"""Where mistakes are made: a folder as a user has it, with checkpoints, a run, images and files of other things."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import spikevit
from spikevit import adaptive, attention, convert, create_model, data, layers, models, neurons, quantise, save_model
from spikevit.data import DataInfo, ImageSet, load_data
from spikevit.models import registry
from spikevit.profiling.calibrate import calibrate
from spikevit.training.evaluate import evaluate
from spikevit.training.recipe import Recipe, load_recipe
from spikevit.training.run import train
from tests.shapes import draw_shapes

TINY = ["model.config.embed_dim=16", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=2"]
FAST = [*TINY, "data.batch_size=16", "data.limit=32", "schedule.epochs=2", "schedule.warmup_epochs=0"]
FILES = {  # texts of a user's own
    "notes.txt": "the images are on the other disk\n",
    "list.yaml": "- optimizer\n- schedule\n",
    "tabs.yaml": "optimizer:\n\tlr: 0.1\n",
    "typo.yaml": "optimiser: {lr: 0.1}\n",
    "rule.yaml": "operands: [spikes]\n",
    "price.yaml": "add: cheap\nmultiply: 3.7\n",
    "broken.py": "import spikevit\nregister('mine')\n",
    "page.html": "<p>a page of one's own</p>\n",
    "curve.csv": "a,b\n",
}


def make(here: Path) -> Callable[[], dict[str, Any]]:
    """Fills the folder; what it gives makes the names that a user of Python has, afresh."""
    torch.manual_seed(0)
    for name, text in FILES.items():
        (here / name).write_text(text)
    draw_shapes(here / "shapes", 8)
    (here / "empty").mkdir()
    Image.new("L", (16, 16), 128).save(here / "seven.png")
    digits, pictures = load_data("digits", limit=64), torch.randn(2, 3, 16, 16)
    about = {"data": digits.info.to_dict() | {"source": vars(load_recipe("digits").data)}}
    grey: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "image_size": 16}
    small = {"embed_dim": 16, "depth": 1, "num_heads": 2, "time_steps": 2}
    model = create_model("spikformer_tiny", **grey, **small).eval()
    stairs = create_model("ge2mst_tiny", **grey).eval()
    save_model(model, here / "digits.safetensors", **about)
    save_model(model, here / "unknown.safetensors")
    save_model(create_model("spikformer_tiny", num_classes=3, image_size=16, **small), here / "three.safetensors")
    save_file({"head.weight": torch.zeros(10, 192)}, here / "vit.safetensors")
    torch.save({"state_dict": {"head.weight": torch.zeros(10, 192)}}, here / "vit.pth")
    (here / "half.safetensors").write_bytes((here / "digits.safetensors").read_bytes()[:5000])
    exact = quantise(calibrate(stairs, data.normalise(digits.train.images, digits.info)))
    exact.name = stairs.name
    spiking, certificate = convert(exact, data.normalise(digits.test.images[:8], digits.info))
    save_model(exact, here / "stairs.safetensors", **about)
    save_model(spiking, here / "spiking.safetensors", **about)
    certificate.save(here / "certificate.json")
    train(here / "run", load_recipe("digits", FAST), progress=False)
    (here / "results.json").write_text(json.dumps({"accuracy": 1}))
    shades = data.Data(
        DataInfo("shades", ("dark", "light"), 3, (16, 16), (0.4,) * 3, (0.2,) * 3),
        *(ImageSet(torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8), torch.arange(n) % 2) for n in (16, 8)),
    )

    def names() -> dict[str, Any]:
        known: dict[str, Any] = {name: getattr(spikevit, name) for name in spikevit.__all__}
        for room in (adaptive, attention, data, layers, models, neurons):
            known |= {name: getattr(room, name) for name in room.__all__}
        known |= {"torch": torch, "np": np, "Image": Image, "Path": Path, "register": registry.register}
        known |= {"evaluate": evaluate, "train": train, "load_recipe": load_recipe, "Recipe": Recipe}
        known |= {"create_model": create_model, "digits": digits, "shades": shades, "x": pictures}
        known |= {"grey": data.normalise(digits.test.images[:4], digits.info)}
        known |= {name: copy.deepcopy(m) for name, m in (("model", model), ("stairs", stairs), ("exact", exact))}
        return known | {"rgb": create_model("spikformer_tiny", num_classes=2, image_size=16, **small).eval()}

    return names
