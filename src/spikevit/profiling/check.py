"""The spike-driven check: is every product an accumulate, and may it run as spikes arrive? By rules that are data.

A rule (rules/*.yaml) says which classes of operands a product needs one of, what is exempt, and what is forbidden.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from spikevit.adaptive.adapted import own_name
from spikevit.errors import inside, unknown
from spikevit.files import parse_yaml, read_yaml
from spikevit.profiling.counts import VALUES, Counts, Operand, OperatorCount, OtherCount
from spikevit.profiling.values import BINARY, INTEGER, POWER_OF_TWO, REAL
from spikevit.schema import Checked, of_kind, read, wrong

# What a rule may forbid: an operator that is no product, and the reason it gives.
FORBIDDABLE: dict[str, Callable[[OtherCount], str | None]] = {
    "batch norm that cannot fold": lambda o: (
        "batch norm on what no convolution or linear map made: it cannot fold into weights"
        if o.operator == "batch norm" and o.remark == "cannot fold"
        else None
    ),
    "max pool": lambda o: (
        f"max pool on {'spikes: the largest may still come' if o.values.kind.name == BINARY else 'membrane potentials'}"
        if o.operator == "max pool" and o.origin.operator != "image"
        else None
    ),
    "average over time": lambda o: "average over time inside the network" if o.remark == "over time" else None,
}
PRODUCT_OF_TWO = "product of two activations"
CLASSES = (BINARY, POWER_OF_TWO, INTEGER, REAL)  # of operands


@dataclass(frozen=True)
class Rule(Checked):
    """operands: classes of which each product needs one; exempt: "stem", "head" or modules; forbid: see FORBIDDABLE.

    The head is the last product with a weight, where no neurons follow: what the network reads out.
    """

    name: str
    about: str
    operands: tuple[str, ...]
    exempt: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.operands:
            raise wrong("operands", self.operands, f"some of {', '.join(CLASSES)}")
        for what, names, known in (
            ("class of operands", self.operands, CLASSES),
            ("thing to forbid", self.forbid, [*FORBIDDABLE, PRODUCT_OF_TWO]),
        ):
            for name in names:
                if name not in known:
                    raise unknown(what, name, known)


@dataclass(frozen=True)
class Verdict:
    """Of one product, or of one operator that a rule forbids: `reason` is why not, or what passes it."""

    module: str
    operator: str
    operands: tuple[str, ...]
    passed: bool
    reason: str


@dataclass(frozen=True)
class Check:
    """All verdicts by one rule."""

    rule: Rule
    verdicts: list[Verdict] = field(default_factory=list)
    silence: str = ""  # what to say of layers of neurons that never fired

    @property
    def passed(self) -> bool:
        """Whether everything does."""
        return all(v.passed for v in self.verdicts)

    def __rich__(self):
        from spikevit.report.terminal import verdicts

        return verdicts(self)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"rule": self.rule.name, "passed": self.passed, "silence": self.silence} | {
            "verdicts": [vars(v) for v in self.verdicts]
        }


def rules() -> list[str]:
    """Names of the rules that are shipped."""
    folder = resources.files("spikevit.profiling").joinpath("rules")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_rule(name: str | Path) -> Rule:
    """A shipped rule by name, or one's own from a YAML file of the same fields.

    Raises:
        ValueError: no such rule or file; a key that is unknown or no list, a class of operands, or a thing to forbid.
    """
    of_kind("rule", name, (str, os.PathLike), f"one of {', '.join(rules())}, or a YAML file")
    if str(name) in rules():
        text = resources.files("spikevit.profiling").joinpath(f"rules/{name}.yaml").read_text(encoding="utf-8")
        values, called = parse_yaml(text, f"rule {name}"), str(name)
    elif Path(name).suffix in (".yaml", ".yml"):
        values, called = read_yaml(name, "a rule"), Path(name).stem
    else:
        raise unknown("rule", name, [*rules(), "a file ending in .yaml"])
    if isinstance(values, dict):
        values = {"name": called, "about": ""} | {key: v for key, v in values.items() if v is not None}
    with inside(name):
        return read(Rule, values)


def check(counts: Counts, rule: Rule) -> Check:
    """Every product, and every forbidden operator, in order of execution."""
    counts.need("the check", VALUES)
    verdicts = [_product(c, rule) for c in counts.operators]
    for what in rule.forbid:
        for other in counts.elementwise:
            reason = FORBIDDABLE[what](other) if what in FORBIDDABLE else None
            if reason:
                verdicts.append(Verdict(other.module, other.operator, (), False, reason))
    for other in counts.uncounted:
        verdicts.append(Verdict(other.module, other.operator, (), False, "an operator this check does not know"))
    return Check(rule, verdicts, counts.silence)


def _product(c: OperatorCount, rule: Rule) -> Verdict:
    names = tuple(_shown(operand) for operand in c.operands)

    def verdict(passed: bool, reason: str) -> Verdict:
        return Verdict(c.module, c.operator, names, passed, reason)

    places = ("stem",) * c.stem + ("head",) * c.head
    if exempt := [place for place in (*places, own_name(c.module)) if place in rule.exempt]:
        return verdict(True, f"{exempt[0]}: exempt")
    if len(c.operands) > 1 and PRODUCT_OF_TWO in rule.forbid:
        return verdict(False, "product of two activations: both must wait for each other")
    fits = [operand for operand in c.operands if operand.kind.name in rule.operands]
    if fits:
        return verdict(True, "" if len(fits) == len(c.operands) else f"gated by the {fits[0].kind.name} operand")
    return verdict(False, "; ".join(_why(operand) for operand in c.operands))


def _shown(operand: Operand) -> str:
    kind = operand.kind
    scale = "" if kind.unit == 1 or kind.name == REAL else f" · {kind.unit:g}"
    return f"{kind.name}{f' 0…{kind.top}' if kind.name == INTEGER else ''}{scale}"


def _why(operand: Operand) -> str:
    """Where an operand that is no spike comes from."""
    kind, made = operand.kind, operand.origin.operator
    if kind.name == REAL:
        of = {
            "image": "the image: first convolution",
            "mean": "an average: real values",
            "average pool": "average pooling: real values",
            "max pool": "max pool on membrane potentials",
            "softmax": "softmax: real values",
            "conv": "no neurons behind the convolution before it",
            "linear": "no neurons behind the linear map before it",
        }
        return of.get(made, f"real values, made by {made}")
    if kind.name == INTEGER:
        top = f"values up to {kind.top}" + (f" · {kind.unit:g}" if kind.unit != 1 else "")
        of = {
            "add": f"sum of spikes, added by a shortcut: {top}",
            "mean": f"average of spikes: {top}",
            "average pool": f"average pooling of spikes: {top}",
            "mul": f"whole numbers, scaled: {top}",
            "matmul": f"product of spikes: {top}",
        }
        return of.get(made, f"whole numbers, made by {made}: {top}")
    return f"{kind.name}, made by {made}"
