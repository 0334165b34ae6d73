"""Files of a run, damaged in every way: results, tables, certificates, constants, rules.

What reads them may refuse with a ValueError or an OSError, and nothing else. A certificate that says anything else of
what it compares must not verify; of what is read, every number is finite.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

from spikevit import quantise, save_model
from spikevit.cli.main import main
from spikevit.conversion.certificate import load_certificate
from spikevit.data import normalise
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.check import load_rule
from spikevit.profiling.constants import load_constants
from spikevit.report.run_files import read_run
from spikevit.training.recipe import load_recipe
from spikevit.training.run import build
from tests.hostile.mutations import SCALARS, changed, flipped, scrambled

SMALL = [
    *("data.image_size=8", "model.config.widths=[8,16,16]", "model.config.depths=[1,1,1]"),
    *("model.config.strides=[1,2,1]", "model.config.head_width=8"),
]
CERTIFICATE, SECONDS = "best-certificate.json", 5.0
NOT_COMPARED = ("versions", "files")


def make_run(where: Path) -> None:
    """A finished and converted run, as training and `spikevit convert` leave it, without either's hours."""
    torch.manual_seed(0)
    recipe = load_recipe("ge2mst_digits", SMALL)
    model, data = build(recipe)
    calibrate(model, normalise(data.train.images[:64], data.info))
    exact = quantise(model)
    exact.name = model.name
    about = {"data": data.info.to_dict() | {"source": vars(recipe.data)}, "recipe": recipe.to_yaml(), "epoch": 2}
    save_model(exact, where / "best.safetensors", **about)
    (where / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    results = {"accuracy": 0.5, "right": 180, "total": 360, "work": 1.0, "work_unit": "time steps", "split": "test"}
    results |= {"best_epoch": 2, "val_accuracy": 0.5, "parameters": 1000, "seconds": 1.5, "versions": {"torch": "2"}}
    (where / "results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [f"{e},{e * 6},0.001,2.{e},2.1,1.0,0.{e},3.5" for e in (1, 2, 3)]
    head = "epoch,step,lr,loss,val_loss,val_work,val_accuracy,seconds"
    (where / "metrics.csv").write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    rows = [f"{e},stem,{g},{s},0.{e}{s}" for e in (1, 2) for g in (1, 2) for s in (1, 2)]
    (where / "spikes.csv").write_text("\n".join(["epoch,layer,group,step,rate", *rows, ""]), encoding="utf-8")
    with quiet():
        assert main(["convert", str(where / "best.safetensors"), "--images", "4", "--no-report"]) in (0, 1)
    (where / "own.yaml").write_text("about: mine\nadd: 1\nmultiply: 2.5\nshift: 0.1\nbits: 16\n", encoding="utf-8")
    rule = "about: mine\noperands: [binary, power-of-two]\nexempt: [stem, head]\nforbid: [max pool]\n"
    (where / "rule.yaml").write_text(rule, encoding="utf-8")


@contextlib.contextmanager
def quiet():
    """Without what verbs print."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


# --- damage -----------------------------------------------------------------------------------------------------------


def damage_table(data: bytes, rng: random.Random) -> bytes:
    """Cells, rows and columns changed."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 2, 3))):
        row, column = rng.choice(rows), rng.randrange(len(rows[0]))
        kind = rng.randrange(7)
        if kind <= 1 and column < len(row):
            row[column] = str(rng.choice([*SCALARS, "1,2", '"', "1e400", "-0.5", " 1 "]))
        elif kind == 2:
            rows.remove(row)
        elif kind == 3:
            rows.insert(rng.randrange(len(rows) + 1), list(row))
        elif kind == 4:
            rows = [[*r[:column], *r[column + 1 :]] for r in rows]
        elif kind == 5:
            rows = [[*r, *r[column : column + 1]] for r in rows]
        else:
            rng.shuffle(rows)
        if not rows or not rows[0]:
            break
    return "\n".join(",".join(row) for row in rows).encode(errors="surrogatepass")


def damaged(name: str, data: bytes, rng: random.Random) -> bytes:
    """The file damaged in a way that fits its kind, as text, or byte by byte."""
    way, text = rng.random(), data.decode()
    if way < 0.15:
        return flipped(data, rng)
    if way < 0.35:
        return scrambled(text, rng)
    if name.endswith(".csv"):
        return damage_table(data, rng)
    if name.endswith(".json"):
        return json.dumps(changed(json.loads(text), rng), default=str).encode(errors="surrogatepass")
    return yaml.safe_dump(changed(yaml.safe_load(text), rng)).encode(errors="surrogatepass")


# --- reading ----------------------------------------------------------------------------------------------------------


def _numbers(value: Any):
    """Every number in plain values and dataclasses."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _numbers(inner)
    elif hasattr(value, "__dataclass_fields__"):
        yield from _numbers(vars(value))


def _read(name: str, path: Path, original: bytes) -> str:
    """What came of reading the damaged file: "read", "refused", "verified", or a fault in words."""
    if name == CERTIFICATE:
        with quiet():
            status = main(["convert", "--verify", str(path), "--device", "cpu"])
        if status == 2:
            with contextlib.suppress(ValueError, OSError):
                read_run(path.parent)
            return "refused"
        said = load_certificate(path)
        now, was = json.loads(path.read_text(encoding="utf-8")), json.loads(original)
        changed = [key for key in was if key not in NOT_COMPARED and repr(now.get(key)) != repr(was[key])]
        # a whole number for the same figure is the same figure
        changed = [key for key in changed if now.get(key) != was[key] or _types(now.get(key)) != _types(was[key])]
        return f"VERIFIED though {', '.join(changed)} changed" if changed else "verified" if said else ""
    found = (
        load_constants(path)
        if name == "own.yaml"
        else load_rule(path)
        if name == "rule.yaml"
        else read_run(path.parent)
    )
    if not all(map(math.isfinite, _numbers(vars(found)))):
        return "READ a number that is not finite"
    return "read"


def _types(value: Any) -> str:
    """Which of its values are truths, which numbers, which texts."""
    if isinstance(value, dict):
        return f"{ {k: _types(v) for k, v in value.items()} }"
    if isinstance(value, list):
        return f"{[_types(v) for v in value]}"
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


FILES = ("results.json", "metrics.csv", "spikes.csv", CERTIFICATE, "own.yaml", "rule.yaml")


def campaign(count: int, seed: int, failures: list | None = None) -> Counter[str]:
    """Damages and reads `count` files; returns how often what happened. "fault: …" must not be among it."""
    rng, found = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory() as directory:
        whole = Path(directory) / "whole"
        whole.mkdir()
        make_run(whole)
        here = Path(directory) / "run"
        shutil.copytree(whole, here)
        for i in range(count):
            name = FILES[i % len(FILES)]
            original, path = (whole / name).read_bytes(), here / name
            data = damaged(name, original, rng)
            path.write_bytes(data)
            started = time.monotonic()
            try:
                what = _read(name, path, original)
            except (ValueError, OSError) as error:
                what = "refused" if str(path) in str(error) or name in str(error) else f"fault: no file in {error}"
            except BaseException as error:
                what = f"fault: {type(error).__name__}: {error}"
            if (seconds := time.monotonic() - started) > SECONDS:
                what = f"fault: {seconds:.0f} s"
            if what[:1].isupper():
                what = f"fault: {what}"
            if what.startswith("fault") and failures is not None:
                failures.append((f"{i} {name}: {what[:200]}", data[:300]))
            found[f"{name}: {what[:80]}" if what.startswith("fault") else f"{name}: {what}"] += 1
            path.write_bytes(original)
    return found


def faults(found: Counter[str]) -> dict[str, int]:
    """Those that must not be."""
    return {what: n for what, n in found.items() if ": fault" in what}
