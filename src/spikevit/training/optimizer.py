"""Optimisers by name, of torch or timm; which parameters decay, and how far each layer's learning rate goes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, get_type_hints

import torch
from torch import nn

from spikevit.data.optional import need
from spikevit.errors import inside, unknown
from spikevit.models import SpikingModel
from spikevit.models.depths import depths
from spikevit.neurons import TimeGate
from spikevit.schema import Checked, NotNegative, Positive, Range, fit, wrong

TIMM = "timm:"
OWN = ("params", "lr", "weight_decay", "betas")  # what the recipe has fields for
Beta = Annotated[float, Range(least=0, below=1)]


@dataclass
class OptimizerRecipe(Checked):
    """name: of torch.optim in lower case, or timm:NAME where timm is installed. lr: peak learning rate.

    weight_decay: of weight matrices and kernels, not of biases and norms; what it means is the optimiser's own matter
    (AdamW: apart from the gradient; Adam, SGD: added to it). betas: where the optimiser has them. layer_decay: the
    learning rate of layer l is lr · layer_decay^(L − l), from the stem, l = 0, to the head, L. options: more arguments
    of the optimiser, such as {momentum: 0.9} of sgd.
    """

    lr: Positive = 1e-3
    weight_decay: NotNegative = 0.05
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    name: str = "adamw"
    layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name.startswith(TIMM):  # timm may be missing where a recipe is only read
            chosen(self)


def names() -> dict[str, type[torch.optim.Optimizer]]:
    """torch's optimisers by lower-case name: those that take any dense parameters, a learning rate and a decay."""
    found = {name.lower(): kind for name, kind in vars(torch.optim).items() if inspect.isclass(kind)}
    return {
        name: kind
        for name, kind in found.items()
        if issubclass(kind, torch.optim.Optimizer)
        and {"lr", "weight_decay"} <= inspect.signature(kind).parameters.keys()
        and name != "muon"  # of matrices alone
    }


def chosen(o: OptimizerRecipe) -> Callable[..., torch.optim.Optimizer]:
    """What makes the recipe's optimiser of groups of parameters; `optimizer.options` are checked.

    Raises:
        ValueError: an unknown name, an option or betas that it does not have, or a value that it refuses.
        ImportError: one of timm, which is not installed.
    """
    if o.name.startswith(TIMM):
        with inside(f"optimizer.name={o.name}"):
            kind: Any = need("timm.optim").get_optimizer_class(o.name.removeprefix(TIMM))
    elif o.name in (known := names()):
        kind = known[o.name]
    else:
        raise ValueError(f"{unknown('optimizer.name', o.name, known)}; those of timm are timm:NAME")
    taken = inspect.signature(kind).parameters
    given = _options(kind, taken, o.options)
    if "betas" in taken:
        given["betas"] = o.betas
    elif o.betas != type(o).betas:
        raise wrong("optimizer.betas", o.betas, f"left out: {o.name} has none")
    make = partial(kind, lr=o.lr, weight_decay=o.weight_decay, **given)
    try:
        make([nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"optimizer.name={o.name} refuses what it is given: {error}") from None
    return make


def _options(kind: Callable[..., Any], taken: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an optimiser, each as its annotation says."""
    hints = get_type_hints(getattr(kind, "func", kind).__init__)  # func: of a partial, as timm gives it
    known = [name for name, p in taken.items() if p.kind is not p.VAR_KEYWORD and name not in OWN]
    for name in options:
        if name in OWN[1:]:
            raise ValueError(f"optimizer.options.{name}={options[name]!r}: set optimizer.{name} instead")
        if name not in known:
            raise unknown("key", f"optimizer.options.{name}", [f"optimizer.options.{one}" for one in known])
    return {name: fit(value, hints.get(name, Any), f"optimizer.options.{name}") for name, value in options.items()}


def make_optimizer(o: OptimizerRecipe, model: SpikingModel, scores_lr: float | None = None) -> torch.optim.Optimizer:
    """The recipe's optimiser of all parameters that learn; the first group has the recipe's own learning rate.

    lr_l = lr · layer_decay^(L − l) for a parameter of depth l (`models.depths`). Biases, norms and other vectors do not
    decay. Scores of dynamic time steps have a learning rate of their own, scores_lr; without it they do not learn.
    """
    scores = [p for m in model.modules() if isinstance(m, TimeGate) for p in m.parameters()]
    apart = set(map(id, scores))
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad and id(p) not in apart}
    of = depths(model) if o.layer_decay < 1 else dict.fromkeys(learning, 0)
    last = max(of.values())
    groups: list[dict[str, Any]] = []
    for depth in range(last, -1, -1):
        parameters = [p for name, p in learning.items() if of[name] == depth]
        lr = {} if depth == last else {"lr": o.lr * o.layer_decay ** (last - depth)}
        groups.append({"params": [p for p in parameters if p.dim() > 1], **lr})
        groups.append({"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0, **lr})
    if scores and scores_lr is not None:
        groups.append({"params": scores, "weight_decay": 0.0, "lr": scores_lr})
    return chosen(o)(groups)
