"""What a stream carries from one time step to the next: the membranes of all neurons, in firing order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor


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
    state.
    """

    tokens: Any = None
    owns_state = False
    last = False

    def __init__(self, state: State | None):
        self.before = state.membranes if state is not None else None
        self.step = state.step if state is not None else 0
        self.after: list[Tensor] = []

    def read(self) -> Tensor | None:
        """The membrane of the neuron that fires next; None at rest."""
        if self.before is None:
            return None
        if len(self.after) >= len(self.before):
            raise ValueError(
                f"state holds {len(self.before)} membranes, the model has more neurons: another model's state?"
            )
        return self.before[len(self.after)]

    def write(self, v: Tensor) -> None:
        """The membrane that neuron leaves behind."""
        self.after.append(v)

    def state(self) -> State:
        """The state after the step."""
        if self.before is not None and len(self.after) != len(self.before):
            raise ValueError(f"state holds {len(self.before)} membranes, the model has {len(self.after)} neurons")
        return State(self.after, self.step + 1)
