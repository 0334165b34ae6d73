"""Short training, and what running averages of batch norm make of it: accuracy after few steps, four ways.

    python benchmarks/short_training.py

Each run is trained twice from the same seed, so that the weights of its epochs are the same: with the statistics that
are re-estimated before every validation (`training.module`), and with running averages alone, as torch's batch norm has
them. The third way is the check: the running averages' last checkpoint, re-estimated afterwards on seven batches of
training images that are not augmented; and a cheaper way, which corrects the averages for where they began (divided by
1 − 0.9ⁿ after n steps, as Adam does with its moments). Test and validation images together; firing is the
mean over layers.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.data import ConcatDataset

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the drawings of the tests
from spikevit import calibrate, load_model
from spikevit.checkpoint import read_about
from spikevit.data import normalise
from spikevit.data.batches import take
from spikevit.data.load import load_data_of
from spikevit.profiling.observe import firing_rates
from spikevit.training import module
from spikevit.training.evaluate import as_input, evaluate, in_order
from spikevit.training.recipe import load_recipe
from spikevit.training.run import train, versions
from tests.shapes import draw_shapes

BATCHES = 7


def measured(model, data) -> str:
    """Accuracy and firing rate on all images that were not trained with."""
    images = ConcatDataset([data.val, data.test])
    score = evaluate(model, images, data.info)
    rates = firing_rates(model, (as_input(x, model, data.info) for x, _ in in_order(images, 64)))
    return f"{score.accuracy:7.1%} {sum(rates.values()) / len(rates):6.1%}"


def corrected(model):
    """Averages without the share of 0.9ⁿ that is where they began: mean 0, variance 1."""
    for bn in model.modules():
        if isinstance(bn, torch.nn.modules.batchnorm._BatchNorm):
            began = (1 - bn.momentum) ** int(bn.num_batches_tracked)
            bn.running_mean /= 1 - began
            bn.running_var.sub_(began).div_(1 - began).clamp_(min=0)
    return model


def main() -> None:
    torch.set_num_threads(1)
    print(versions())
    print(f"{'':32} {'running averages':>16} {'as it is':>16} {'averages, corrected':>20} {'re-estimated after':>20}")
    with tempfile.TemporaryDirectory() as folder:
        root = draw_shapes(Path(folder) / "shapes")
        shapes = [f"data.root={root}", "data.name=folder", "data.image_size=32", "schedule.warmup_epochs=1"]
        runs = {
            "digits, 4 epochs of 20 steps": ["schedule.epochs=4", "schedule.warmup_epochs=1"],
            "240 shapes, 4 epochs of 11 steps": [*shapes, "data.batch_size=16", "schedule.epochs=4"],
            "240 shapes, 7 epochs of 2 steps": [*shapes, "data.batch_size=64", "schedule.epochs=7"],
        }
        for i, (name, changes) in enumerate(runs.items()):
            found, ours = {}, module.RE_ESTIMATED
            for way, batches in (("averages", 0), ("ours", ours)):
                module.RE_ESTIMATED = batches
                directory = Path(folder) / f"{i}-{way}"
                train(directory, load_recipe("digits", changes), progress=False)
                found[way] = directory / "last.safetensors"
            module.RE_ESTIMATED = ours
            about = read_about(found["averages"])
            data, size = load_data_of(about), load_recipe("digits", changes).data.batch_size
            some = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[: BATCHES * size]
            images = normalise(take(data.train, some.tolist())[0], data.info)
            lines = [measured(load_model(path), data) for path in found.values()]
            lines.append(measured(corrected(load_model(found["averages"])), data))
            lines.append(measured(calibrate(load_model(found["averages"]), images.split(size)), data))
            print(f"{name:32} {lines[0]:>16} {lines[1]:>16} {lines[2]:>20} {lines[3]:>20}", flush=True)


if __name__ == "__main__":
    main()
