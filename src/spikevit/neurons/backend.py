"""Which implementation neurons run on: chosen by name, for a whole model."""

from __future__ import annotations

from torch import nn

from spikevit.errors import unknown
from spikevit.neurons import lif, staircase
from spikevit.neurons.expg import Staircase
from spikevit.neurons.lif import Neuron


def set_backend(model: nn.Module, backend: str) -> nn.Module:
    """Lets every neuron of the model run on `backend`; returns the model.

    "plain" and "fused" exist for all; "numba", compiled and for the CPU, for staircases (Ge²mS-T).
    """
    for module in model.modules():
        if isinstance(module, (Neuron, Staircase)):
            known = staircase.BACKENDS if isinstance(module, Staircase) else lif.BACKENDS
            if backend not in known:
                raise unknown(f"backend of {type(module).__name__} neurons", backend, known)
            if backend == "numba":
                staircase.staircase_numba.compiled()
            module.backend = backend
    return model
