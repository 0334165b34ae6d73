"""Time: neurons that turn currents (T, ...) into spikes, as pure functions and thin modules."""

from spikevit.neurons.backend import set_backend
from spikevit.neurons.config import NeuronConfig, Neurons, StaircaseConfig, build_neurons
from spikevit.neurons.expg import ExpGIF, Staircase
from spikevit.neurons.fused import fused_lif
from spikevit.neurons.gate import TimeGate, needed, time_mask
from spikevit.neurons.lif import BACKENDS, IF, LIF, Neuron, ParametricLIF, Rectifier
from spikevit.neurons.plain import lif
from spikevit.neurons.some_steps import SomeSteps, dense
from spikevit.neurons.spike_train import NotConvertible, SpikeTrain
from spikevit.neurons.staircase import ExpG
from spikevit.neurons.state import State, Stream
from spikevit.neurons.steady import Constant, Steady
from spikevit.neurons.surrogate import ATan, Dspike, Rectangle, Sigmoid, Surrogate, Triangle, make_surrogate

__all__ = [
    "BACKENDS",
    "IF",
    "LIF",
    "ATan",
    "Constant",
    "Dspike",
    "ExpG",
    "ExpGIF",
    "Neuron",
    "NeuronConfig",
    "Neurons",
    "NotConvertible",
    "ParametricLIF",
    "Rectangle",
    "Rectifier",
    "Sigmoid",
    "SomeSteps",
    "SpikeTrain",
    "Staircase",
    "StaircaseConfig",
    "State",
    "Steady",
    "Stream",
    "Surrogate",
    "TimeGate",
    "Triangle",
    "build_neurons",
    "dense",
    "fused_lif",
    "lif",
    "make_surrogate",
    "needed",
    "set_backend",
    "time_mask",
]
