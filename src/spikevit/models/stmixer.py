"""STMixer: spiking token mixing for asynchronous hardware (facts of the released code, commit 38a0786).

One learnable matrix over tokens instead of attention, so that no two spikes are multiplied; strided convolutions
instead of max pools; membrane potentials in the residual stream. Surrogate module learning (SML) adds ANN heads that
are trained along and dropped at inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.attention import TokenMixing
from spikevit.layers import ConvBN, LinearBN, SpikingConv
from spikevit.models.base import make_head
from spikevit.models.encoder import Encoder, EncoderConfig
from spikevit.models.inputs import cross_entropy, explaining
from spikevit.models.registry import register
from spikevit.neurons import NeuronConfig, Stream
from spikevit.schema import NotNegative, Positive, Share

# h = 0.5·v + x, undetached hard reset, Dspike γ = 2.5
NEURON = NeuronConfig(tau=2.0, decay_input=False, detach_reset=False, surrogate="dspike", alpha=2.5)
STRIDES = {2: (1, 1, 1, 2, 2), 4: (1, 2, 2, 2, 2)}  # of the five convolutions, by number of halvings


@dataclass(frozen=True)
class STMixerConfig(EncoderConfig):
    """downsample_times: 2 (CIFAR) or 4 (ImageNet) halvings of the image. sml: train with auxiliary heads, whose loss
    has the weight sml_weight (λ), temperature sml_temperature (τ) and share sml_share (α) of the hard targets.
    legacy_sml_mixing: a defect of the released code: its heads average over samples where time was meant.
    """

    neuron: NeuronConfig = NEURON
    mixer: str = "token_mixing"
    downsample_times: Literal[2, 4] = 4
    sml: bool = False
    sml_weight: NotNegative = 0.9
    sml_temperature: Positive = 3.0
    sml_share: Share = 0.5
    legacy_sml_mixing: bool = False

    @property
    def sml_depths(self) -> list[int]:
        """Encoders of each auxiliary head: fewer the later it leaves the network."""
        most = {2: 1, 4: 2}.get(self.depth, 3)
        return [max(most - i, 1) for i in range(self.depth // 2)] if self.sml else []


class PatchSplitting(nn.Module):
    """Information-protection patch splitting: four spiking convolutions to D/8, D/4, D/2, D and a fifth, without
    neurons, to 7D/8; beside it one convolution of the image to D/8 with a kernel of the whole stride. The two, side by
    side (the image first), are the membrane potentials (T, B, H', W', D).
    """

    def __init__(self, in_channels: int, dim: int, strides: tuple[int, ...], neuron: NeuronConfig):
        super().__init__()
        widths = [in_channels, dim // 8, dim // 4, dim // 2, dim]
        self.proj = nn.ModuleList(
            SpikingConv(widths[i], widths[i + 1], stride=strides[i], neuron=neuron) for i in range(4)
        )
        self.last = ConvBN(dim, dim - dim // 8, stride=strides[4])
        whole = 2 ** sum(stride == 2 for stride in strides)
        self.shortcut = ConvBN(in_channels, dim // 8, kernel=whole, stride=whole)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        around = self.shortcut(x)
        for proj in self.proj:
            x = proj(x, stream)
        return torch.cat([around, self.last(x)], dim=-1)


class STMixer(Encoder):
    """x ← x + TokenMixer(x); x ← x + FFN(x) on membrane potentials."""

    config: STMixerConfig
    membrane = True

    def __init__(self, config: STMixerConfig):
        if config.embed_dim % 8:
            raise ValueError(f"embed_dim={config.embed_dim} must be a multiple of 8: an eighth comes from the image")
        self.stride = 2**config.downsample_times
        dim, heads = config.embed_dim, config.num_heads
        stem = PatchSplitting(config.in_channels, dim, STRIDES[config.downsample_times], config.neuron)
        super().__init__(config, stem, mixer_options={"threshold": 1.0, "out_bias": False}, mlp_bias=False)
        self.sml = nn.ModuleList(SurrogateHead(dim, heads, self.tokens, n, config) for n in config.sml_depths)

    @property
    def heads(self) -> list[str]:  # type: ignore[override]
        """The head, and those of the auxiliary networks."""
        return ["head", *(f"sml.{i}.head" for i in range(len(self.sml)))]

    def all_logits(self, images: Tensor) -> list[Tensor]:
        """The main logits (B, classes), then those of the auxiliary heads, on the stem and every second block."""
        maps = self.maps(images)
        with explaining(self, images):
            states = list(self.trunk(maps))
        main = self.classify(states[-1]).mean(0)
        return [main, *(head(states[2 * i]) for i, head in enumerate(self.sml))]

    def loss(self, images: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """λ · soft + (1 − λ) · hard with auxiliary heads, else cross-entropy; and the main logits.

        hard = [CE(z₀) + α Σᵢ CE(zᵢ)] / (1 + α n); soft = 1/(2n) Σᵢ [K(zᵢ, z₀) + K(z₀, zᵢ)] with
        K(u, w) = KL(softmax(w/τ), not differentiated ‖ softmax(u/τ)), mean over the batch.
        """
        self.require_classes("a loss")
        main, *heads = logits = self.all_logits(images)
        hard, *others = (cross_entropy(z, targets, label_smoothing) for z in logits)
        if not heads:
            return hard, main
        c, n = self.config, len(heads)

        def divergence(u: Tensor, w: Tensor) -> Tensor:
            target = F.softmax(w.detach() / c.sml_temperature, -1)
            return F.kl_div(F.log_softmax(u / c.sml_temperature, -1), target, reduction="batchmean")

        soft = sum((divergence(z, main) + divergence(main, z) for z in heads), torch.zeros_like(hard)) / (2 * n)
        hard = (hard + c.sml_share * torch.stack(others).sum()) / (1 + c.sml_share * n)
        return c.sml_weight * soft + (1 - c.sml_weight) * hard, main


class SurrogateHead(nn.Module):
    """An ANN that ends the network early: mean over time, GELU encoders with token mixing, token mean, linear."""

    def __init__(self, dim: int, heads: int, tokens: int, depth: int, config: STMixerConfig):
        super().__init__()
        self.legacy_mixing = config.legacy_sml_mixing
        self.proj = LinearBN(dim, dim, bias=False)
        self.encoders = nn.ModuleList(SurrogateEncoder(dim, heads, tokens, config.mlp_ratio) for _ in range(depth))
        self.head = make_head(dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.legacy_mixing:  # (T, B) read as (B, T)
            x = x.flatten(0, 1).unflatten(0, (x.shape[1], x.shape[0])).transpose(0, 1)
        y = F.gelu(self.proj(x.mean(0, keepdim=True)))
        for encoder in self.encoders:
            y = encoder(y)
        return self.head(y.mean(2))[0]


class SurrogateEncoder(nn.Module):
    """y ← y + BN W GELU(STM GELU(BN W GELU(y))); y ← y + BN W GELU(BN W GELU(y)), for y (1, B, N, D)."""

    def __init__(self, dim: int, heads: int, tokens: int, mlp_ratio: float):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.mix_in, self.mix_out = LinearBN(dim, dim, bias=False), LinearBN(dim, dim, bias=False)
        self.mixing = TokenMixing(tokens, heads)
        self.fc1, self.fc2 = LinearBN(dim, hidden, bias=False), LinearBN(hidden, dim, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        y = y + self.mix_out(F.gelu(self.mixing(F.gelu(self.mix_in(F.gelu(y))))))
        return y + self.fc2(F.gelu(self.fc1(F.gelu(y))))


_CIFAR = STMixerConfig(num_classes=100, image_size=(32, 32), embed_dim=384, num_heads=16, downsample_times=2)

register("stmixer_4_384", STMixer, _CIFAR, depth=4)
register("stmixer_10_384", STMixer, _CIFAR, depth=10, time_steps=1)
register("stmixer_tiny", STMixer, _CIFAR, num_classes=10, embed_dim=64, depth=2, num_heads=8)
# Head count not published: 16 as in the CIFAR models, 61.2 M parameters (58.7 M is printed).
register("stmixer_8_768", STMixer, STMixerConfig(embed_dim=768, depth=8, num_heads=16, time_steps=1))
