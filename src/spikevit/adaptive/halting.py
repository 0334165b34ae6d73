"""STAS: spatio-temporal adaptive computation time, for spiking transformers.

The spikes of all time steps become one tensor in front, which feeds the encoder at every step (I-SPS). A cell is a
block at a time step; each token adds up a halting score over the cells it visits and leaves when it has reached 1
(A-SSA).

Reconstruction: the equations of STAS (Kang et al., arXiv 2508.14138) and of AT-SNN (arXiv 2408.12293) were not
available; those of their parent, A-ViT (Yin et al., CVPR 2022), are public.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikevit.adaptive.adapted import Adapted, require_time
from spikevit.attention import MSTokenAttention, QKTokenAttention, SpikingTokenMixer
from spikevit.attention.ssa import SSA
from spikevit.errors import unknown
from spikevit.layers.tokens import Gathered, Masked
from spikevit.models import SpikingModel
from spikevit.models.inputs import cross_entropy, explaining
from spikevit.neurons import Constant, Neuron, State, Steady, Stream, dense
from spikevit.schema import Checked, NotNegative, Positive, Range, of_kind, read

FRONTS = ("integrate", "average", "one")
OVER = ("both", "blocks", "steps")
MIXERS = (SSA, QKTokenAttention, MSTokenAttention, SpikingTokenMixer)  # a token's part is its own, or can be zero


def halting_score(e: Tensor, gamma: float, beta: float) -> Tensor:
    """h = σ(γ·e₀ − β) of tokens e (..., C): their first channel decides. Source: A-ViT, eq. 6."""
    return torch.sigmoid(gamma * e[..., 0] - beta)


def halt(total: Tensor, score: Tensor, last: bool, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """One cell: the weight of each token's output there, its new total, and whether it halts.

    H ← H + h, with h := 1 in the last cell. A token halts where H ≥ 1 − ε; its weight is then the remainder
    1 − Σ_{before} h, else h. Weights of all its cells add up to 1. Source: A-ViT, eq. 4–8.
    """
    score = torch.ones_like(score) if last else score
    after = total + score
    halts = after >= 1 - epsilon
    return torch.where(halts, 1 - total, score), after, halts


def halting_weights(scores: Tensor, epsilon: float = 0.01) -> tuple[Tensor, Tensor]:
    """Weights p (cells, ...) and ponder ρ (...) of scores h (cells, ...) of all cells, visited or not.

        p_c = h_c until the cell in which H reaches 1 − ε, the remainder R there, 0 behind;   ρ = visited cells + R

    Gradients: ∂R/∂h_c = −1 for the cells before; the number of cells has none.
    """
    total, active = torch.zeros_like(scores[0]), torch.ones_like(scores[0], dtype=torch.bool)
    weights, ponder = [], torch.zeros_like(scores[0])
    for c, score in enumerate(scores):
        weight, after, halts = halt(total, score, c == len(scores) - 1, epsilon)
        weights.append(torch.where(active, weight, 0))
        ponder = ponder + active + torch.where(active & halts, weight, 0)
        total, active = torch.where(active, after, total), active & ~halts
    return torch.stack(weights), ponder


def halting_distribution(scores: Tensor) -> Tensor:
    """q_c = clamp(h̄_c / Σ_c h̄_c, 0.01, 0.99) of mean scores h̄ (cells,). Source: A-ViT, its distributional prior."""
    return (scores / scores.sum().clamp_min(torch.finfo(scores.dtype).tiny)).clamp(0.01, 0.99)


@dataclass(frozen=True)
class HaltingConfig(Checked):
    """gamma, beta: of the score σ(γ·e₀ − β); the larger β, the fewer tokens halt. epsilon: they halt at 1 − ε.

    front: how the spikes of T steps become one tensor. "integrate": every convolution, linear map, pool and residual
    sum of the front runs once; each layer of neurons integrates that same input over T steps, and the mean of its
    spikes goes on, s̄ = (1/T) Σ_t s_t in {0, 1/T, …, 1}. "average": all of the front runs T steps, and the mean of what
    it gives goes on. "one": it runs one step.
    over: which cells a token can skip. "both": its score adds up over all cells, and it skips all that follow. "steps":
    it takes a score from the last block of each step alone, and skips whole steps. "blocks": the score begins anew at
    each step; the token skips the blocks behind, and returns at the next step, its membranes there as it left them; the
    output is the mean over steps.
    merge: cosine similarity of block outputs from which a token is represented by another one, None for never.
    ponder: weight δ_p of the mean of ρ = visited cells + remainder (over blocks, its mean over steps).
    prior: weight δ_d of KL(target ‖ q), q how mean scores are distributed (`halting_distribution`) over the cells that
    one sum of scores runs over: all; over blocks those of a step; over steps the last of each. The target is a Gaussian
    around `centre` of a standard deviation of `width`, both shares of those cells.
    """

    gamma: Positive = 10.0
    beta: float = 30.0
    epsilon: Annotated[float, Range(above=0, below=1)] = 0.01
    front: str = "integrate"
    over: str = "both"
    merge: Annotated[float, Range(above=0, most=1)] | None = None
    ponder: NotNegative = 5e-4
    prior: NotNegative = 1e-3
    centre: float = 0.5
    width: Positive = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.front not in FRONTS:
            raise unknown("front", self.front, FRONTS)
        if self.over not in OVER:
            raise unknown("over", self.over, OVER)
        if self.merge is not None and self.over == "blocks":
            raise ValueError(
                f"merge={self.merge} does not combine with over='blocks': a token that another one stands for is gone "
                "for good, and here tokens return at the next step; take over='both', over='steps' or merge=None"
            )


@contextmanager
def integrating(model: nn.Module, steps: int) -> Iterator[None]:
    """Within the context, neurons of a model that runs one step get its input at each of `steps`: see `HaltingConfig`.

    Each hands on the mean of its spikes, from currents (1, ...) to s̄ (1, ...). Gates of time steps mask the spikes that
    the mean is of.
    """

    def hold(_neuron: nn.Module, args: tuple) -> tuple:
        x = dense(args[0])
        return x.expand(steps, *x.shape[1:]), *args[1:]

    def mean(_neuron: nn.Module, _args: tuple, spikes: Any) -> Tensor:
        return dense(spikes).mean(0, keepdim=True)

    with ExitStack() as hooks:
        for neuron in model.modules() if steps > 1 else ():
            if isinstance(neuron, Neuron):
                hooks.callback(neuron.register_forward_pre_hook(hold).remove)
                hooks.callback(neuron.register_forward_hook(mean).remove)
        yield


class Cell(NamedTuple):
    """What happened in a cell. tokens: the n that were active. score, weight, halts, merged (n,): of each.

    The score is σ(γ·e₀ − β), in the last cell, too; 0 in a cell that takes none. Weights of all cells of a token add up
    to 1. e (n, C): what the block gave. size (n,): how many tokens each stands for.
    """

    step: int
    depth: int
    tokens: Gathered
    e: Tensor
    score: Tensor
    weight: Tensor
    size: Tensor
    halts: Tensor
    merged: Tensor


class Visits(NamedTuple):
    """Where tokens left. cells, step, depth (B, H', W'): how many cells each visited, and its last one, from 1."""

    cells: Tensor
    step: Tensor
    depth: Tensor


class Halting(Adapted):
    """A model whose tokens halt: see `add_halting`. Output: head(mean_k Σ_cells p_k e_k), once for all time steps.

    In evaluation the tokens that are active are gathered, and nothing else is computed; `masked=True` computes all
    tokens and sets those that halted to zero, with the same result. Training gathers too: batch norm sees the active
    tokens of a cell.
    """

    method = "halting"
    knob = "beta"
    work_unit = "cells a token"

    def __init__(self, model: SpikingModel, config: HaltingConfig, *, masked: bool = False):
        super().__init__(model)
        self.halting, self.masked = config, masked
        self.streaming = False
        self.shares_stem = config.front == "average"

    def options(self) -> dict[str, Any]:
        """Of `add_halting`."""
        return asdict(self.halting)

    @property
    def blocks(self) -> Any:
        """The blocks of the encoder."""
        return self.parts.encoder

    @property
    def parts(self) -> Any:
        """The model of the zoo: its front, encoder and classify."""
        return self.base

    @property
    def cells(self) -> int:
        """How many cells there are, T · depth."""
        return self.config.time_steps * len(self.blocks)

    most_work = cells

    def forward(self, images: Tensor, per_step: bool = False) -> Tensor:
        """Logits (B, classes)."""
        if per_step:
            raise ValueError(f"per_step=True: {self._called()} with halting gives logits once, not for every step")
        return self.run(images)[0]

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and the mean number of cells a token visited (B,)."""
        outcome = self._outcome(images)
        return self.parts.classify(outcome.features[None])[0], outcome.visited.mean(1)

    def forward_features(self, images: Tensor) -> Tensor:
        """What the head sees, (1, B, D): the mean over tokens and cells, weighted by halting."""
        return self._outcome(images).features[None]

    def _outcome(self, images: Tensor) -> _Outcome:
        with explaining(self, images):
            x = self.front(images)
            outcome = _Outcome(x, self.config.time_steps, len(self.blocks), self.halting.over)
            for cell in self.visit(x):
                outcome.add(cell)
        return outcome

    def loss(self, images: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Cross-entropy + δ_p · mean_k ρ_k + δ_d · KL(target ‖ halting distribution) [+ penalties inside]; logits.

        The halting distribution q is that of mean scores over cells: h̄_c = mean_k h_k^c over all tokens of the batch, 0
        of those that are not there; normalised and clamped (`halting_distribution`).
        """
        self.require_classes("a loss")
        outcome, c = self._outcome(images), self.halting
        logits = self.parts.classify(outcome.features[None])[0]
        loss = cross_entropy(logits, targets, label_smoothing)
        found = halting_distribution(outcome.mean_scores)
        target = self.target(found)
        divergence = (target * (target.log() - found.log())).sum()
        if isinstance(self.model, Adapted):
            loss = loss + self.model.penalty()
        return loss + c.ponder * outcome.ponder.mean() + c.prior * divergence, logits

    def target(self, like: Tensor) -> Tensor:
        """The Gaussian over as many cells as `like` has (cells,), which adds up to 1."""
        c = self.halting
        place = (torch.arange(len(like)).to(like) + 0.5) / len(like)
        return torch.softmax(-0.5 * ((place - c.centre) / c.width) ** 2, 0).clamp_min(1e-6)

    def front(self, images: Tensor) -> Tensor:
        """I-SPS: one tensor of tokens (1, B, N, C), for all time steps."""
        maps = self.maps(images)
        if images.dim() == 5:
            raise ValueError(f"{self._called()} with halting takes images, not frames {tuple(images.shape)}")
        with integrating(self.parts, self.config.time_steps if self.halting.front == "integrate" else 1):
            tokens = dense(self.parts.front(maps if self.halting.front == "average" else maps[:1]))
        return tokens.flatten(2, -2).mean(0, keepdim=True)

    def visit(self, x: Tensor) -> Iterator[Cell]:
        """A-SSA: the cells of tokens x (1, B, N, C) that have any, steps outermost; weights are those of `halt`."""
        if self.training and self.parts.config.drop_path_rate:
            raise ValueError(
                f"drop_path_rate={self.parts.config.drop_path_rate} does not combine with training of halting: "
                "a branch that is dropped would decide which tokens halt; take drop_path_rate=0"
            )
        if self.masked and self.training:
            raise ValueError("masked=True is for evaluation: in training batch norm must not see tokens that halted")
        c, blocks, steps = self.halting, list(self.blocks), self.config.time_steps
        tokens = everyone = Gathered(torch.ones(x.shape[1:3], dtype=torch.bool, device=x.device))
        total, size = x.new_zeros(len(tokens)), x.new_ones(len(tokens))
        states: list[tuple[State | None, Tensor]] = [(None, tokens.index)] * len(blocks)
        constant = Constant(x)
        for step in range(steps):
            if c.over == "blocks":  # all return
                tokens, total, size = everyone, x.new_zeros(len(everyone)), x.new_ones(len(everyone))
            e: Any = tokens.rows(x)
            if not (self.training or self.masked) and blocks[0].attn.lif is None:  # linear maps see the stream itself
                e = Steady(constant, tokens)
            for depth, block in enumerate(blocks):
                if not len(tokens):
                    break
                stream = self._stream(*states[depth], step, tokens)
                e = self._block(block, e, stream, tokens)
                if not stream.last:
                    states[depth] = self._kept(states[depth], stream.state(), tokens)
                flat, deepest, before = dense(e).flatten(0, 2), depth == len(blocks) - 1, total
                scored = deepest or c.over != "steps"
                score = halting_score(flat, c.gamma, c.beta) if scored else torch.zeros_like(total)
                weight, total, halts = halt(before, score, deepest and (stream.last or c.over == "blocks"), c.epsilon)
                merged, heirs = self._merge(flat, scored & ~halts, tokens)
                if self.training and scored and int((~(halts | merged)).sum()) < 2:  # too few for the next batch norm
                    weight, total, halts = halt(before, score, True, c.epsilon)
                    merged = torch.zeros_like(merged)
                share = weight / steps if c.over == "blocks" else weight
                yield Cell(step, depth, tokens, flat, score, share, size, halts, merged)
                leave = halts | merged
                if leave.any():
                    total, size = _inherit(total, size, merged, heirs)
                    tokens, total, size = tokens.without(leave), total[~leave], size[~leave]
                    e = e.only(~leave, tokens) if isinstance(e, Steady) else e[:, ~leave]

    def _block(self, block: Any, rows: Any, stream: Stream, tokens: Gathered) -> Any:
        """The block on rows; or on all tokens, zeros for those that halted, of which the rows are taken."""
        if not self.masked:
            e = block(rows, stream)
            return e if isinstance(e, Steady) else dense(e)
        masked: Any = stream.tokens
        return tokens.rows(masked.mask(block(tokens.together(rows, positions=True), stream)))

    def _stream(self, state: State | None, index: Tensor, step: int, tokens: Gathered) -> Stream:
        """A stream at this step for the tokens that are left of those at `index`, which the state is of."""
        if state is not None and not self.masked and len(index) > len(tokens):
            state = state[torch.searchsorted(index, tokens.index)]
        stream = Stream(state)
        stream.step, stream.last = step, step == self.config.time_steps - 1
        stream.owns_state = not (self.masked and self.halting.over == "blocks")  # there, `_kept` reads it
        stream.tokens = Masked(tokens.active) if self.masked else tokens
        return stream

    def _kept(self, before: tuple[State | None, Tensor], after: State, tokens: Gathered) -> tuple[State, Tensor]:
        """A block's state once `tokens` were there, and of which tokens it is.

        Over blocks those that were absent return: their membranes stay as they were before, at rest at first.
        """
        if self.halting.over != "blocks" or tokens.active.all():
            return after, tokens.index
        state, index = before
        membranes = []
        for i, v in enumerate(after):
            if not v.numel():  # of neurons that never fire
                membranes.append(v)
            elif self.masked:
                old = torch.zeros_like(v) if state is None else state.membranes[i]
                present = tokens.active.view(*tokens.active.shape, *(1,) * (v.dim() - 2))
                membranes.append(torch.where(present, v, old))
            else:
                old = v.new_zeros(len(index), *v.shape[1:]) if state is None else state.membranes[i]
                membranes.append(old.index_copy(0, tokens.index, v))
        return State(membranes, after.step), index

    @torch.no_grad()
    def _merge(self, e: Tensor, stays: Tensor, tokens: Gathered) -> tuple[Tensor, Tensor]:
        """Which tokens another one will stand for, and the row of that one, (n,) each.

        Of an image's tokens that stay, every second one looks among the others for the most similar, as in ToMe (Bolya
        et al., ICLR 2023). That tokens which stay are merged is ours: AT-SNN merges those that halt. Nothing is
        averaged, so that what is handed on are sums of spikes still.
        """
        merged, heirs = torch.zeros_like(stays), torch.arange(len(stays), device=stays.device)
        if self.halting.merge is None or not stays.any():
            return merged, heirs
        unit = F.normalize(e, dim=-1)
        for image in tokens.image.unique():  # each image by itself
            rows = ((tokens.image == image) & stays).nonzero().flatten()
            seekers, hosts = rows[1::2], rows[0::2]
            if not len(seekers):
                continue
            similarity, best = (unit[seekers] @ unit[hosts].T).max(1)
            found = similarity >= self.halting.merge
            merged[seekers[found]] = True
            heirs[seekers[found]] = hosts[best[found]]
        return merged, heirs

    @torch.no_grad()
    def visits(self, images: Tensor) -> Visits:
        """Where each token left: for maps over the image."""
        outcome, side = self._outcome(images), images.shape[-2] // self.stride
        return Visits(*(m.long().unflatten(1, (side, -1)) for m in (outcome.visited, outcome.step, outcome.depth)))

    def settings(self) -> list[float]:
        """Nine values of β, half a spike of the deciding channel apart; the lowest halts most."""
        c = self.halting
        return [c.beta + c.gamma * k / 2 for k in range(-4, 5)]

    def at(self, setting: float) -> SpikingModel:
        """The same model, weights shared, with another β."""
        other = copy.copy(self)
        other.halting = replace(self.halting, beta=setting)
        return other


class _Outcome:
    """Sums over the cells of tokens x (1, B, N, C): features (B, C); visited, ponder, step, depth (B, N).

    mean_scores (cells,): of all tokens of the batch, for the cells of one sum of scores.
    """

    def __init__(self, x: Tensor, steps: int, depth: int, over: str):
        _, batch, self.tokens, width = x.shape
        self.features = x.new_zeros(batch, width)
        self.ponder = x.new_zeros(batch, self.tokens)
        self.visited, self.step, self.depth = (torch.zeros(batch, self.tokens, device=x.device) for _ in range(3))
        self.over, self.scores = over, [[x.new_zeros(()) for _ in range(depth)] for _ in range(steps)]

    @property
    def mean_scores(self) -> Tensor:
        """h̄_c = mean_k h_k^c; over blocks of all steps together."""
        scores = torch.stack([torch.stack(step) for step in self.scores])
        if self.over == "both":
            return scores.flatten()
        return scores[:, -1] if self.over == "steps" else scores.mean(0)

    def add(self, cell: Cell) -> None:
        """One more cell."""
        index, share = cell.tokens.index, cell.weight * cell.size / self.tokens
        self.features = self.features.index_add(0, cell.tokens.image, share[:, None] * cell.e)
        self.scores[cell.step][cell.depth] = (cell.score * cell.size).sum() / self.ponder.numel()
        ponder = 1 + torch.where(cell.halts, cell.weight, 0)
        self.ponder = self.ponder.flatten().index_add(0, index, ponder).view_as(self.ponder)
        self.visited.view(-1)[index] += 1
        self.step.view(-1)[index] = cell.step + 1
        self.depth.view(-1)[index] = cell.depth + 1


def _inherit(total: Tensor, size: Tensor, merged: Tensor, heirs: Tensor) -> tuple[Tensor, Tensor]:
    """Totals and sizes once tokens stand for those merged into them: sizes add up, totals are weighted by size.

    So what is left to give away, Σ size · (1 − total), stays.
    """
    if not merged.any():
        return total, size
    sizes = size.index_add(0, heirs[merged], size[merged])
    given = total * size
    return given.index_add(0, heirs[merged], given[merged]) / sizes, sizes


def add_halting(
    model: SpikingModel, config: HaltingConfig | None = None, *, masked: bool = False, **options: Any
) -> Halting:
    """The model with tokens that halt, in space and time; its weights are shared, not copied.

    For t = 1 … T, for l = 1 … depth: token k has the score h = σ(γ·e₀ − β) from the first channel of the block's
    output, which it adds up; at 1 − ε it halts: no later block and no later step sees it, neither as query nor as key
    or value. Hierarchical models halt in the stage of final resolution.

    Args:
        model: Spikformer, Spikingformer, QKFormer, MSViT or STMixer; with time steps allocated, too.
        config, options: see `HaltingConfig`.
        masked: compute what has halted, too, and set it to zero: slower, with the same result.

    Raises:
        ValueError: a model without a time axis; one with early exit; mixers whose tokens share a mask; STMixer with
            auxiliary heads; published weights that need the batch leak.
    """
    require_time(model, "halting")
    called = model.name or type(model).__name__
    if taken := [name for name, _ in model.methods if name != "time_steps" and name != "thresholds"]:
        raise ValueError(f"halting does not combine with {taken[0]}: {called} would have no logits of every step")
    parts: Any = model.base
    if not hasattr(parts, "encoder") or hasattr(parts, "head_lif"):
        raise ValueError(
            f"halting is for encoders of Spikformer, Spikingformer, QKFormer, MSViT and STMixer, with a linear head on "
            f"the mean over tokens; {called} is a {type(parts).__name__}"
        )
    if len(getattr(parts, "sml", ())):
        raise ValueError(f"halting does not combine with sml=True: the auxiliary heads of {called} see all tokens")
    for i, block in enumerate(parts.encoder):
        if not isinstance(block.attn, MIXERS):
            known = ", ".join(kind.__name__ for kind in MIXERS)
            raise ValueError(
                f"halting needs mixers of {known}; block {i} of {called} has {type(block.attn).__name__}, whose tokens "
                "share neurons or windows"
            )
    if config is None:
        config = read(HaltingConfig, options, "halting")
    elif options:
        raise ValueError(f"config and {', '.join(options)} are given: take one, a HaltingConfig or its fields")
    of_kind("config", config, HaltingConfig, "a HaltingConfig, or left out: its fields are options, such as gamma=10.0")
    return Halting(model, config, masked=masked)
