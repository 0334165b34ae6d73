"""Damaged resume.ckpt files: bits flipped; what they hold changed and saved anew."""

import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from spikevit.training.resume import KEY, State, origin_of, read_resume
from tests.hostile.mutations import changed, flipped, hostile, outcomes

TRAIN = """
import sys
from spikevit.training.recipe import load_recipe
from spikevit.training.run import train
changes = ["model.config.embed_dim=16", "model.config.depth=1", "model.config.num_heads=2", "model.time_steps=1"]
train(sys.argv[1], load_recipe("digits", [*changes, "schedule.epochs=1", "schedule.warmup_epochs=0"]), progress=False)
"""


def campaign(count: int, seed: int, failures: list | None = None) -> Counter[str]:
    """Of `count` damaged files, what became of them."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        subprocess.run([sys.executable, "-c", TRAIN, str(run)], check=True, capture_output=True)
        whole = run / "resume.ckpt"
        content, state = whole.read_bytes(), read_resume(whole)
        path = Path(folder, "resume.ckpt")
        cases = []
        for i in range(count):
            way, one = rng.randrange(3), random.Random(rng.random())
            cases.append(((way, i), lambda way=way, one=one: read(path, damaged(way, content, state, one), state, way)))
        return outcomes(cases, failures)


def damaged(way: int, content: bytes, state: dict[str, Any], rng: random.Random) -> bytes | dict:
    """The file with bits flipped; what it holds with another origin; with another part."""
    if way == 0:
        return flipped(content, rng)
    if way == 1:
        return state | {KEY: json.dumps(changed(json.loads(state[KEY]), rng), default=str)}
    return state | {rng.choice(list(State.__dataclass_fields__)): hostile(rng)}


def read(path: Path, made: bytes | dict, state: dict[str, Any], way: int) -> str:
    """What `spikevit train --resume` does with the file before the recipe and the data are compared with it."""
    path.write_bytes(made) if isinstance(made, bytes) else torch.save(made, path)
    found = read_resume(path)
    origin_of(found, path)
    if way == 0:
        return "accepted: the same" if same(found, state) else "ACCEPTED though changed"
    return "accepted: another origin, to be compared" if way == 1 else "accepted: of the right kind"


def same(ours: Any, theirs: Any) -> bool:
    """Whether nested values with tensors are equal."""
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs
