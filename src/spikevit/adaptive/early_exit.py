"""Early exit over time: an image stops at the first step at which the logits it has so far are confident enough.

With logits z_1 … z_T of the T steps and their running mean z̄_t = (1/t) Σ_{s≤t} z_s, an image exits at the first t at
which a measure of p = softmax(z̄_t) reaches the threshold, at T at the latest, and its output is z̄_t. Confidence
thresholds on the output accumulated over time are the common baseline of adaptive computation in spiking networks:
nothing is trained, nothing is added to the model.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import log
from typing import Any

import torch
from torch import Tensor

from spikevit.adaptive.adapted import Adapted, require_time
from spikevit.errors import unknown
from spikevit.models import SpikingModel
from spikevit.neurons import State, dense


def confidence(logits: Tensor) -> Tensor:
    """max_k p_k of p = softmax(logits), for logits (..., K); exits at the threshold and above."""
    return _wide(logits).softmax(-1).amax(-1)


def margin(logits: Tensor) -> Tensor:
    """p_(1) − p_(2), the two largest probabilities, for logits (..., K); exits at the threshold and above."""
    first, second = _wide(logits).softmax(-1).topk(2, -1).values.unbind(-1)
    return first - second


def entropy(logits: Tensor) -> Tensor:
    """−Σ_k p_k log p_k / log K, 0 (sure) to 1 (no idea), for logits (..., K); exits at the threshold and below."""
    log_p = _wide(logits).log_softmax(-1)
    return (-(log_p.exp() * log_p).sum(-1) / log(logits.shape[-1])).clamp(0, 1)


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {"confidence": confidence, "margin": margin, "entropy": entropy}


def exit_steps(logits_per_step: Tensor, threshold: float, measure: str = "confidence") -> tuple[Tensor, Tensor]:
    """Exit step (B,), counted from 1, and logits (B, K) at the exit, from the logits of all steps (T, B, K).

    The specification of `EarlyExit`, which does not compute the steps behind the exit.
    """
    _check(threshold, measure)
    means = _running_means(logits_per_step)
    enough = _reached(means, threshold, measure)
    enough[-1] = True
    first = (enough.cumsum(0) == 0).sum(0)
    return first + 1, means[first, torch.arange(means.shape[1], device=means.device)]


def choose_threshold(
    logits_per_step: Tensor, labels: Tensor, *, tolerance: float = 0.0, measure: str = "confidence"
) -> float:
    """The threshold with the fewest steps whose accuracy is at least that of all T steps, minus `tolerance`.

    Tried is every threshold that makes a difference: the values of the measure that occur before the last step, and
    the strictest, 1.0 (of entropy 0.0), at which images exit early only if they are there. A looser threshold lets no
    image exit later. Thresholds between two values that occur decide alike; of these the strictest is given.

    Args:
        logits_per_step: (T, B, K), of images that are not those of the test.
        labels: (B,), whole numbers.
        tolerance: accuracy that may be lost, a share of the images.

    Raises:
        ValueError: no images; or some are wrong at an early step and as sure there as can be.
    """
    strictest = 0.0 if _measure(measure) is entropy else 1.0
    means = _running_means(logits_per_step)
    steps, images, _ = means.shape
    if not means.isfinite().all():
        raise ValueError("logits_per_step are not all finite")
    if labels.shape != (images,) or labels.is_floating_point():
        raise ValueError(
            f"labels must be whole numbers ({images},), one for each image; got {labels.dtype} {tuple(labels.shape)}"
        )
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r} must be a share of the images, at least 0 and less than 1")
    # An image exits at step t or before if the best value of its steps 1 … t reaches the threshold. So what a threshold
    # gains against T steps is the sum, over all (t, image) whose best value reaches it, of right_t − right_{t+1}.
    sign = -1.0 if _measure(measure) is entropy else 1.0
    best = (sign * _measure(measure)(means[:-1])).cummax(0).values.flatten()
    right = (means.argmax(-1) == labels).long()
    best, order = best.sort(descending=True)
    gained = (right[:-1] - right[1:]).flatten()[order].cumsum(0)
    last = torch.cat([best[1:] != best[:-1], best.new_ones(min(1, len(best)), dtype=torch.bool)])  # of equal values
    good = (last & (gained >= -tolerance * images - 1e-9)).nonzero()
    if len(good):
        return abs(float(best[good[-1]]))
    if len(best) and float(best[0]) == sign * strictest:
        raise ValueError(
            f"tolerance={tolerance!r}: no threshold of {measure} keeps the accuracy of all {steps} steps; images are "
            f"wrong at an early step with a {measure} of {strictest}; a larger tolerance or another measure may do"
        )
    return strictest


class EarlyExit(Adapted):
    """The model inside, run step by step in evaluation, of every image for as many steps as it needs.

    Images that have exited leave the batch, so that their later steps are not computed; no image's result depends on
    its batch. The first convolution runs at every step: a whole sequence computes it once for a still image. In
    training it is the model inside. Of frames (T, B, C, H, W), step t sees frame t.
    """

    method = "early_exit"
    knob = "threshold"
    shares_stem = False

    def __init__(self, model: SpikingModel, threshold: float, measure: str = "confidence"):
        _check(threshold, measure)
        super().__init__(model)
        self.streaming = False
        self.threshold = float(threshold)
        self.measure = measure

    def options(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "measure": self.measure}

    def settings(self) -> list[float]:
        """Twelve thresholds, from loose to strict, and its own."""
        ladder = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0}
        if self.measure == "entropy":
            return sorted({round(1 - threshold, 2) for threshold in ladder} | {self.threshold}, reverse=True)
        return sorted(ladder | {self.threshold})

    def at(self, setting: float) -> EarlyExit:
        """With another threshold."""
        return EarlyExit(self.model, setting, self.measure)

    def forward(self, images: Tensor, per_step: bool = False) -> Tensor:
        """Logits (B, classes): in evaluation the running mean at each image's exit."""
        if per_step:
            raise ValueError(
                f"per_step=True: {self._called()} with early exit does not compute all steps; its `model` does"
            )
        return self.run(images)[0]

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and the step (B,) at which each image exited, counted from 1."""
        if self.training:
            return self.model.run(images)
        frames = self.maps(images).permute(0, 1, 4, 2, 3)  # checked; a still image is a view
        left = torch.arange(frames.shape[1], device=images.device)
        taken = torch.full_like(left, len(frames))
        state: State | None = None
        total: Tensor | None = None
        parts = []
        for t, x in enumerate(frames, 1):
            z, state = self.model.step(x if len(left) == len(x) else x[left], state)
            total = z if total is None else total + z
            mean = total / t
            done = torch.ones_like(left, dtype=torch.bool)
            if t < len(frames):
                done = _reached(mean, self.threshold, self.measure)
            if not done.any():
                continue
            parts.append((left[done], mean[done]))
            taken[left[done]] = t
            left, state, total = left[~done], state[~done], total[~done]
            if not len(left):
                break
        back = torch.cat([index for index, _ in parts]).argsort()
        return torch.cat([logits for _, logits in parts])[back], taken

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes) at each image's exit, from the features of all steps; as `forward` but for rounding.

        With pre_logits, the mean (B, D) of what the head sees at the steps up to the exit.
        """
        if self.training:
            return self.model.forward_head(features, pre_logits)
        logits = dense(self.classify(features))
        taken, at_exit = exit_steps(logits, self.threshold, self.measure)
        if not pre_logits:
            return at_exit
        seen = dense(self.readout(features))
        return _running_means(seen)[taken - 1, torch.arange(len(taken), device=taken.device)]

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for the model inside, of at least two classes."""
        _refuse_few(num_classes)
        super().reset_classifier(num_classes)

    def step(self, images: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Refused: images leave, so that there is no next step of the batch."""
        raise ValueError(f"step: {self._called()} with early exit does not stream; its `model` does")


def add_early_exit(model: SpikingModel, threshold: float, *, measure: str = "confidence") -> EarlyExit:
    """The model with early exit over time; it is not copied, the weights are shared.

    Args:
        model: with time steps, and logits at every one.
        threshold: of the measure, at which an image is done; see `choose_threshold`.
        measure: "confidence" (at least the threshold), "margin" (at least) or "entropy" (at most).

    Raises:
        ValueError: the model has no time steps, or does not stream; a threshold that the measure cannot have.
    """
    require_time(model, "early exit")
    if not model.streaming:
        names = " and ".join(name.replace("_", " ") for name, _ in model.methods)
        called = model.name or type(model).__name__
        raise ValueError(
            f"early exit needs logits of every step; {called}{f' with {names}' if names else ''} gives them once"
        )
    _refuse_few(model.config.num_classes)
    return EarlyExit(model, threshold, measure)


def _refuse_few(num_classes: int) -> None:
    if num_classes in (0, 1):
        raise ValueError(f"early exit needs at least two classes to be sure of one; num_classes is {num_classes}")


def _wide(logits: Tensor) -> Tensor:
    """In float32 at least: half precision does not tell 0.999 from 1."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _running_means(logits: Tensor) -> Tensor:
    """z̄_t (T, B, K), summed in the order of the steps."""
    if logits.dim() != 3 or not logits.numel() or logits.shape[-1] < 2:
        raise ValueError(
            "logits_per_step must be (T, B, K) of at least one step, one image and two classes; "
            f"got shape {tuple(logits.shape)}"
        )
    return torch.stack([total / t for t, total in enumerate(accumulate(logits), 1)])


def _reached(logits: Tensor, threshold: float, measure: str) -> Tensor:
    """Whether running means (..., K) are sure enough."""
    value = _measure(measure)(logits)
    return value <= threshold if measure == "entropy" else value >= threshold


def _measure(name: str) -> Callable[[Tensor], Tensor]:
    if name not in MEASURES:
        raise unknown("measure", name, MEASURES)
    return MEASURES[name]


def _check(threshold: float, measure: str) -> None:
    """Refuses unknown measures and values that they cannot have."""
    _measure(measure)
    number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if not (number and 0 <= threshold <= 1) or (measure == "confidence" and threshold == 0):
        allowed = "above 0 and at most 1" if measure == "confidence" else "from 0 to 1"
        raise ValueError(f"threshold={threshold!r} must be a number {allowed}, as {measure} is")
