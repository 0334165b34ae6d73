"""What a stream carries from one time step to the next: the membranes of all neurons, in firing order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn


class State:
    """Membrane potentials after a step, one tensor per neuron in firing order, the batch on axis 0 of each.

    `state[keep]` keeps those samples (a boolean mask, indices or a slice over the batch). `step` is how many steps
    were run. A pytree.
    """

    def __init__(self, membranes: Iterable[Tensor] = (), step: int = 0):
        self.membranes = tuple(membranes)
        self.step = step

    def __getitem__(self, keep) -> State:
        return State((v[keep] for v in self.membranes), self.step)

    def __len__(self) -> int:
        return len(self.membranes)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.membranes)


pytree.register_pytree_node(State, lambda s: (list(s.membranes), s.step), State)


class Stream:
    """One step that starts from a state and leaves one behind: each neuron reads its membrane and writes the next.

    step: how many steps were run before. tokens: which of them take part, where some have halted (`layers.tokens`).
    owns_state: nobody else reads the state, its membranes may be overwritten. last: no step follows, there will be no
    state. model: whose step it is, for errors that name the layer.
    """

    tokens: Any = None
    owns_state = False
    last = False

    def __init__(self, state: State | None, model: nn.Module | None = None):
        self.before = state.membranes if state is not None else None
        self.step = state.step if state is not None else 0
        self.after: list[Tensor] = []
        self.model = model

    def read(self, neuron: nn.Module, shape: torch.Size) -> Tensor | None:
        """The membrane of the neuron that fires next, of currents of this shape; None at rest.

        Raises:
            ValueError: there is none, or one of another shape: the state is of another model or of other images.
        """
        if self.before is None:
            return None
        place = len(self.after)
        if place == len(self.before):
            raise ValueError(f"state holds {place} membranes, {self._called()} has more layers of neurons: {OWN}")
        v = self.before[place]
        if v.shape != shape and v.numel():  # a layer whose steps are all closed keeps nothing
            name = next((n for n, m in self.model.named_modules() if m is neuron), "") if self.model else ""
            raise ValueError(
                f"state.membranes[{place}] has shape {tuple(v.shape)}, {name or 'its layer'} of {self._called()} takes "
                f"{tuple(shape)}: {OWN}"
            )
        return v

    def write(self, v: Tensor) -> None:
        """The membrane that neuron leaves behind."""
        self.after.append(v)

    def state(self) -> State:
        """The state after the step."""
        if self.before is not None and len(self.after) != len(self.before):
            raise ValueError(
                f"state holds {len(self.before)} membranes, {self._called()} has {len(self.after)} layers of neurons: "
                f"{OWN}"
            )
        return State(self.after, self.step + 1)

    def _called(self) -> str:
        return getattr(self.model, "name", None) or type(self.model).__name__ if self.model else "the model"


OWN = "another model's state? Pass the one that this model's last step returned, or None to start"
