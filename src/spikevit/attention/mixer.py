"""What all mixers of tokens share: projections to spikes, something between them, neurons, a projection back."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from spikevit.layers import LinearBN, SpikingLinear
from spikevit.neurons import Neurons, Stream, build_neurons, needed


def check_heads(dim: int, heads: int) -> None:
    """Heads must divide the width."""
    if heads < 1 or dim % heads:
        fits = [h for h in range(1, dim + 1) if dim % h == 0]
        raise ValueError(f"num_heads={heads} does not divide the width {dim}; these do: {fits}")


class Mixer(nn.Module):
    """x (T, B, ..., C) ► proj_in ► mix, with neurons `attn_lif` ► proj_out, of x's shape.

    proj_in is one matrix and one call of neurons for all parts (q, k, v, …), in that order. Where the residual
    stream is made of spikes, proj_out ends in neurons; with `membrane`, as for streams of membrane potentials
    (pre-activation), neurons `lif` stand in front of proj_in instead.

    Args:
        dim, heads: width C and the number of groups of channels.
        tokens: N, for mixers whose weights depend on it. grid: H × W of them, for mixers that see windows.
        bias: of proj_in; out_bias: of proj_out.
        threshold: of attn_lif.
        membrane: residual streams of membrane potentials.
    """

    parts: tuple[str, ...] = ("q", "k", "v")

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        neuron: Neurons,
        tokens: int | None = None,
        grid: tuple[int, int] | None = None,
        bias: bool = False,
        out_bias: bool = True,
        threshold: float = 0.5,
        membrane: bool = False,
    ):
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.lif = build_neurons(neuron) if membrane else None
        self.proj_in = SpikingLinear(dim, len(self.parts) * dim, bias=bias, neuron=neuron)
        self.attn_lif: nn.Module = build_neurons(neuron, threshold)
        self.proj_out: LinearBN | SpikingLinear
        if membrane:
            self.proj_out = LinearBN(dim, dim, bias=out_bias)
        else:
            self.proj_out = SpikingLinear(dim, dim, bias=out_bias, neuron=neuron)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if self.lif is not None:
            x = self.lif(x, stream)
        tokens = x.flatten(2, -2)
        parts = needed(self.attn_lif, self.proj_in(tokens, stream), stream)
        out = self.mix(parts, tokens, stream)
        return self.project(out.view(x.shape), stream)

    @abstractmethod
    def mix(self, parts: Tensor, x: Tensor, stream: Stream | None) -> Tensor:
        """From spikes of all parts (T, B, N, parts · C) to the input of proj_out (T, B, N, C); x is proj_in's input."""

    def project(self, x: Tensor, stream: Stream | None) -> Tensor:
        """proj_out, with its neurons where it has them."""
        return self.proj_out(x, stream) if isinstance(self.proj_out, SpikingLinear) else self.proj_out(x)
