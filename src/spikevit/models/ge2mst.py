"""Ge²mS-T: grouped computation in time (ExpG-IF), space (GW-SSA) and structure (convolution early, attention late).

Reconstruction from the abstract: the paper's text was not available (Hao et al., arXiv 2604.08894). Membrane shortcuts
everywhere, so that every product behind the first convolution has spikes for an operand, the head's too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from spikevit.attention import make_mixer
from spikevit.errors import unknown
from spikevit.layers import Block, ConvBN, MembraneConv, MembraneLinear, SpikingMLP, drop_rates
from spikevit.layers.fold import fold_batch_norm_
from spikevit.layers.grid import on_grid_, on_input_grid
from spikevit.models.base import Depth, DropRate, ModelConfig, Ratio, SpikingModel, Width, make_head
from spikevit.models.registry import register
from spikevit.neurons import NeuronConfig, Neurons, SpikeTrain, StaircaseConfig, Stream
from spikevit.neurons.expg import ExpGIF, Staircase, spiking_
from spikevit.neurons.staircase import ExpG
from spikevit.schema import Natural

INPUT_BITS = 6  # in exact mode, normalised images are rounded to multiples of 2^−6
STEMS = {"plain": (3, 1), "strided": (7, 2)}  # kernel and stride of the convolution of the image


@dataclass(frozen=True)
class Ge2mSTConfig(ModelConfig):
    """time_steps: T of the spikes that the network will emit, T = n·G; code: (n, G), None: n = min(T, 4), G = T/n.

    widths, depths, mixers: of each stage; "conv" is separable convolution, else any of `attention.MIXERS`.
    strides: by which each stage makes the map smaller. windows: of group-wise attention, for each stage.
    heads: width of a head. kernel: of the depthwise convolution; expansion: its width over the stage's.
    power_of_two: Δ = 2^e. grid_bits: exact mode, weights of so many bits on power-of-two grids, batch norm folded
    (`spikevit.quantise`). codes: (layer, n, G) where a layer of neurons has another code (`spikevit plan`).
    drop_path_rate: of the last block in training, see `layers.drop_path`.
    spikes: of a converted network, (layer, n, G) of all its neurons (`spikevit.convert`), or (layer, n, G, order): see
    `ExpG.plain`. Codes of staircases need no order, which is by weight.
    """

    neuron: NeuronConfig = field(default_factory=lambda: NeuronConfig(kind="expg"))
    code: tuple[int, int] | None = None
    widths: tuple[Width, ...] = (64, 128, 256, 512)
    depths: tuple[Depth, ...] = (2, 2, 6, 2)
    mixers: tuple[str, ...] = ("conv", "conv", "gw_ssa", "gw_ssa")
    strides: tuple[Width, ...] = (2, 2, 2, 2)
    windows: tuple[tuple[Natural, ...], ...] = ((), (), (7, 14), (7, 0))
    head_width: Width = 32
    kernel: Width = 5
    expansion: Ratio = 2.0
    mlp_ratio: Ratio = 3.0
    stem: str = "strided"
    power_of_two: bool = True
    grid_bits: int | None = None
    codes: tuple[tuple[str, int, int], ...] | None = None
    spikes: tuple[tuple[str, int, int] | tuple[str, int, int, str], ...] | None = None
    drop_path_rate: DropRate = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depths", "mixers", "strides", "windows"):
            if len(getattr(self, name)) != len(self.widths):
                raise ValueError(f"{name}={getattr(self, name)!r} must have one entry for each stage of widths")
        if self.grid_bits and not self.power_of_two:
            raise ValueError(
                f"grid_bits={self.grid_bits} (exact mode) with power_of_two=False: sums are exact only where Δ = 2^e; "
                "give power_of_two=True, or leave grid_bits out. A checkpoint of that config was never exact: train it "
                "on with power_of_two=True (model.start of a recipe)"
            )

    @property
    def expg(self) -> ExpG:
        """The code of the neurons."""
        return ExpG.of(self.time_steps) if self.code is None else ExpG(*self.code)


class SeparableConv(nn.Module):
    """BN(W₂ · neuron(BN(D * neuron(BN(W₁ · neuron(x)))))): expand, depthwise k × k, reduce, on maps (T, B, H, W, C)."""

    def __init__(self, dim: int, hidden: int, kernel: int, *, neuron: Neurons):
        super().__init__()
        self.expand = MembraneLinear(dim, hidden, neuron=neuron, bias=False)
        self.depthwise = MembraneConv(hidden, hidden, kernel=kernel, groups=hidden, neuron=neuron)
        self.reduce = MembraneLinear(hidden, dim, neuron=neuron, bias=False)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.reduce(self.depthwise(self.expand(x, stream), stream), stream)


class Ge2mST(SpikingModel):
    """Stages of blocks x ← x + mixer(x); x ← x + MLP(x) on maps of membrane potentials (T, B, H, W, C).

    With ExpG-IF neurons there is no time axis (T = 1 in all shapes): a layer emits the value its spikes will carry, and
    training costs the same for every T; `spikevit.convert` makes the spikes. With neurons of kind "lif" it is the
    same network for direct training.
    """

    config: Ge2mSTConfig

    def __init__(self, config: Ge2mSTConfig):
        if config.stem not in STEMS:
            raise unknown("stem", config.stem, STEMS)
        kernel, first = STEMS[config.stem]
        self.stride = first
        for stride in config.strides:
            self.stride *= stride
        super().__init__(config)
        self.time_axis = self.streaming = config.neuron.kind != "expg"
        neuron = config.neuron if self.time_axis else StaircaseConfig(config.expg, power_of_two=config.power_of_two)
        widths = config.widths
        self.stem = ConvBN(config.in_channels, widths[0], kernel=kernel, stride=first)
        self.down = nn.ModuleList(
            MembraneConv(dim_in, dim, stride=stride, neuron=neuron) if (dim_in, stride) != (dim, 1) else nn.Identity()
            for (dim_in, dim), stride in zip(pairwise((widths[0], *widths)), config.strides, strict=True)
        )
        self.stages = nn.ModuleList(nn.ModuleList(self._blocks(i, neuron)) for i in range(len(widths)))
        self.head_lif = neuron.build()
        self.num_features = widths[-1]
        self.head = make_head(widths[-1], config.num_classes)
        layers = {name: m for name, m in self.named_modules() if isinstance(m, Staircase)}
        for name, steps, groups in config.codes or ():
            if name not in layers:
                raise unknown("layer of neurons in codes", name, layers)
            layers[name].code = ExpG(steps, groups)
        if config.grid_bits:
            on_grid_(fold_batch_norm_(self), config.grid_bits, self._most_levels())
        if config.spikes is not None:
            spiking_(self, {name: ExpG.from_plain(*code) for name, *code in config.spikes})

    @property
    def activation_bits(self) -> int:
        """Bits that hold what a neuron sends."""
        return self._most_levels().bit_length()

    def _most_levels(self) -> int:
        """L of the layer that has most."""
        layers = (m for m in self.modules() if isinstance(m, (Staircase, ExpGIF)))
        return max((m.code.levels for m in layers), default=self.config.expg.levels)

    def _blocks(self, i: int, neuron: Neurons) -> Iterator[Block]:
        c = self.config
        dim, mixer = c.widths[i], c.mixers[i]
        shrunk = self.stride
        for stride in c.strides[i + 1 :]:
            shrunk //= stride
        grid = (c.image_size[0] // shrunk, c.image_size[1] // shrunk)
        options: dict[str, Any] = {"neuron": neuron, "membrane": True, "grid": grid, "tokens": grid[0] * grid[1]}
        if c.windows[i]:
            options["windows"] = c.windows[i]
        for rate in drop_rates(c.drop_path_rate, c.depths)[i]:
            mix = (
                SeparableConv(dim, int(dim * c.expansion), c.kernel, neuron=neuron)
                if mixer == "conv"
                else make_mixer(mixer, dim, max(1, dim // c.head_width), **options)
            )
            yield Block(mix, SpikingMLP(dim, int(dim * c.mlp_ratio), neuron=neuron, membrane=True), rate)

    def features(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Maps (T, B, H, W, D) of membrane potentials behind the last block."""
        if self.config.grid_bits:
            x = on_input_grid(x, INPUT_BITS)
        x = self.stem(x)
        for down, stage in zip(self.down, self.stages, strict=True):
            if not isinstance(down, nn.Identity):
                x = down(x, stream)
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, stream)
        return x

    def readout(self, tokens: Tensor, stream: Stream | None = None) -> Tensor:
        """The mean over space of what the last neurons send."""
        spikes: Any = self.head_lif(tokens, stream)
        return super().readout(spikes.decode() if isinstance(spikes, SpikeTrain) else spikes)

    def classify(self, tokens: Tensor, stream: Stream | None = None) -> Tensor:
        """Logits of every place, then their mean, so that the head sees spikes."""
        if not self.config.num_classes:
            return self.readout(tokens, stream)
        logits = self.head(self.head_lif(tokens, stream))
        return logits.sum((2, 3)) / (logits.shape[2] * logits.shape[3])


for _size, _widths, _depths in (
    ("t", (48, 96, 192, 384), (1, 2, 5, 1)),
    ("s", (64, 128, 320, 512), (2, 2, 7, 2)),
    ("b", (96, 192, 384, 640), (2, 3, 9, 3)),
):
    register(f"ge2mst_{_size}", Ge2mST, Ge2mSTConfig(widths=_widths, depths=_depths))
_SMALL = Ge2mSTConfig(
    num_classes=10,
    image_size=(32, 32),
    widths=(64, 128, 256),
    depths=(1, 2, 3),
    mixers=("conv", "conv", "gw_ssa"),
    strides=(1, 2, 2),
    windows=((), (), (4, 0)),
    kernel=3,
    stem="plain",
)
register("ge2mst_32", Ge2mST, _SMALL)
register("ge2mst_tiny", Ge2mST, _SMALL, widths=(24, 48, 64), depths=(1, 1, 2), windows=((), (), (2, 0)), head_width=16)
