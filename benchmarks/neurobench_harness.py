"""Our models under NeuroBench's harness: its static and workload metrics for every tiny model, written as JSON.

    python -m venv other && . other/bin/activate   # NeuroBench asks for tonic, which is GPL-3: keep it apart
    pip install torch==2.13.0 && pip install -e .
    pip install --no-deps neurobench==2.3.0        # without tonic and torchaudio, which the harness does not import
    pip install snntorch tqdm
    python benchmarks/neurobench_harness.py tests/golden/neurobench.json

Models and images are random but fixed (`recorded` in tests/profiling/firing.py): what is recorded is how NeuroBench
counts, not what a trained model needs. What it sees of a model and what not: docs/how-to/neurobench.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import sys
from pathlib import Path

import neurobench
import torch
from neurobench.benchmarks import Benchmark
from neurobench.hooks.layer import LayerHook
from neurobench.hooks.neuron import NeuronHook
from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount
from neurobench.metrics.workload import (
    ActivationSparsity,
    ActivationSparsityByLayer,
    MembraneUpdates,
    SynapticOperations,
)
from neurobench.models import TorchModel
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import spikevit
from spikevit.layers.fold import fold_batch_norm
from spikevit.neurons import Neuron

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "profiling"))
from firing import SIDE, recorded

# ActivationSparsityByLayer must not come first: it never says whether it needs hooks, and only the first is asked.
METRICS = [
    [Footprint, ConnectionSparsity, ParameterCount],
    [SynapticOperations, ActivationSparsity, MembraneUpdates, ActivationSparsityByLayer],
]


class MembraneHook(NeuronHook):
    """Hands over the membranes before and after every step, as NeuroBench finds them on snnTorch's neurons.

    Ours keep no state, so it runs the neurons once more on what went in.
    """

    def hook_fn(self, layer, input, output):
        super().hook_fn(layer, input, output)
        before = None
        for x in input[0]:
            _, after = layer.step(x, before)
            self.pre_fire_mem_potential.append(torch.zeros_like(after) if before is None else before)
            self.post_fire_mem_potential.append(after)
            before = after


class SpikevitModel(TorchModel):
    """A model for NeuroBench: batch norm folded, so that each layer is a module that it hooks; neurons made known.

    Takes images (B, C, H, W) or, as NeuroBench lays them out, frames (B, T, C, H, W); gives logits (B, classes).
    membranes: with hooks that show NeuroBench the neurons' membranes, which it looks for on snnTorch's only.
    """

    def __init__(self, model: spikevit.models.SpikingModel, membranes: bool = True):
        super().__init__(fold_batch_norm(model))
        self.add_activation_module(Neuron)
        self.membranes = membranes

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> Tensor:
        return self.net(batch.transpose(0, 1) if batch.dim() == 5 else batch)

    def register_hooks(self) -> None:
        kind = MembraneHook if self.membranes else NeuronHook
        self.activation_hooks += [kind(found["layer"], found["layer_name"]) for found in self.activation_layers()]
        self.connection_hooks += [LayerHook(layer) for layer in self.connection_layers()]


def measure(model: spikevit.models.SpikingModel, x: Tensor, batch_size: int, membranes: bool = True) -> dict:
    """All metrics of a model on images x; NeuroBench reports a metric that failed as 0, here it is an error."""
    data = DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.long)), batch_size=batch_size)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        results = Benchmark(SpikevitModel(model, membranes), data, [], [], METRICS).run()
    if "Error" in printed.getvalue():
        raise RuntimeError(printed.getvalue())
    return results


def cases() -> dict[str, dict]:
    """Name -> how `recorded` makes model and images, and the size of NeuroBench's batches."""
    usual = {"config": {}, "pruned": 0.0, "images": 3, "binary_image": False, "frames": False, "batch_size": 3}
    names = {name: {"model": name} for name in spikevit.list_models("*_tiny")}
    more = {
        "spikformer_tiny, pruned": {"model": "spikformer_tiny", "pruned": 0.3},
        "spikformer_tiny, frames": {"model": "spikformer_tiny", "frames": True},
        "spikformer_tiny, binary image": {"model": "spikformer_tiny", "binary_image": True},
        "spikformer_tiny, binary image, batches of 1": {
            "model": "spikformer_tiny",
            "binary_image": True,
            "batch_size": 1,
        },
        "qkformer_tiny, batches of 2": {"model": "qkformer_tiny", "batch_size": 2},  # the second has one image
        "qkformer_tiny, one channel": {"model": "qkformer_tiny", "config": {"in_channels": 1, "time_steps": 2}},
        "msvit_tiny, channel": {"model": "msvit_tiny", "config": {"mixers": ["ms_channel", "ms_channel", "ssa"]}},
        "stmixer_tiny, pruned": {"model": "stmixer_tiny", "pruned": 0.5},
    }
    return {name: {"model": "", **usual, **case} for name, case in (names | more).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    records = {}
    print("| case | effective MACs | effective ACs | dense | activation sparsity | membrane updates |")
    print("|---|---|---|---|---|---|")
    for name, case in cases().items():
        model, x = recorded(case, args.seed)
        samples = x.transpose(0, 1) if case["frames"] else x
        metrics = measure(model, samples, case["batch_size"])
        unaided = measure(model, samples, case["batch_size"], membranes=False)
        metrics["MembraneUpdates, hooks of NeuroBench alone"] = unaided.pop("MembraneUpdates")
        assert unaided.items() <= metrics.items()
        records[name] = case | {"shape": list(x.shape), "metrics": metrics}
        ops = metrics["SynapticOperations"]
        numbers = [f"{ops[key]:,.0f}" for key in ("Effective_MACs", "Effective_ACs", "Dense")]
        numbers += [f"{metrics['ActivationSparsity']:.3f}", f"{metrics['MembraneUpdates']:,.0f}"]
        print(f"| {name} | {' | '.join(numbers)} |")
    record = {
        "made_by": "benchmarks/neurobench_harness.py",
        "date": datetime.date.today().isoformat(),
        "neurobench": neurobench.__version__,
        "torch": torch.__version__,
        "recipe": "model, x = recorded(case, seed), of tests/profiling/firing.py; NeuroBench measured "
        "fold_batch_norm(model) on x in batches of batch_size. shape is that of x.",
        "seed": args.seed,
        "dtype": "float64",
        "image_size": SIDE,
        "cases": records,
    }
    args.file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
