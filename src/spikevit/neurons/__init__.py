"""Time: neurons that turn currents (T, ...) into spikes, as pure functions and thin modules."""

from spikevit.neurons.config import NeuronConfig
from spikevit.neurons.fused import fused_lif
from spikevit.neurons.lif import BACKENDS, IF, LIF, Neuron, ParametricLIF, set_backend
from spikevit.neurons.plain import lif
from spikevit.neurons.state import State, Stream
from spikevit.neurons.surrogate import ATan, Dspike, Rectangle, Sigmoid, Surrogate, Triangle, make_surrogate

__all__ = [
    "BACKENDS",
    "IF",
    "LIF",
    "ATan",
    "Dspike",
    "Neuron",
    "NeuronConfig",
    "ParametricLIF",
    "Rectangle",
    "Sigmoid",
    "State",
    "Stream",
    "Surrogate",
    "Triangle",
    "fused_lif",
    "lif",
    "make_surrogate",
    "set_backend",
]
