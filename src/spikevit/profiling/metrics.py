"""NeuroBench's static and activity metrics (Yik et al., 2025), from counts."""

from __future__ import annotations

from torch import nn

from spikevit.profiling.count import LAYERS
from spikevit.profiling.counts import VALUES, Counts


def metrics(model: nn.Module, counts: Counts) -> dict[str, float]:
    """What a network is and how much of it is silent.

    footprint: bytes of parameters and buffers. connection_sparsity: share of weights of linear maps and convolutions
    that are zero. activation_sparsity: share of (step, neuron) cells that did not fire. membrane_updates: neurons ·
    steps of an image (NeuroBench leaves out the updates that change nothing).
    """
    counts.need("NeuroBench's metrics", VALUES)
    tensors = [*model.parameters(), *model.buffers()]
    weights = [m.weight for m in model.modules() if isinstance(m, LAYERS) and not m.weight.is_meta]
    entries, updates = sum(w.numel() for w in weights), sum(n.updates for n in counts.neurons)
    return {
        "footprint": sum(t.numel() * t.element_size() for t in tensors),
        "connection_sparsity": 1 - sum(int(w.count_nonzero()) for w in weights) / entries if entries else 0.0,
        "activation_sparsity": 1 - sum(n.spikes for n in counts.neurons) / updates if updates else 0.0,
        "membrane_updates": updates / counts.images,
    }
