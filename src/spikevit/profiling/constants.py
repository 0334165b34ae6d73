"""What one operation costs, as data: the tables of constants.yaml, or the user's own."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from spikevit.errors import inside, unknown
from spikevit.files import parse_yaml, read_yaml
from spikevit.schema import Checked, Range, of_kind, read

Picojoules = Annotated[float, Range(least=0, most=1e9)]
Bits = Annotated[int, Range(least=1, most=4096)]


@dataclass(frozen=True)
class Constants(Checked):
    """Picojoules of one operation; see constants.yaml. bits: of weights and membranes, spike_bits: of a spike."""

    name: str
    about: str
    add: Picojoules
    multiply: Picojoules
    shift: Picojoules
    memory: Picojoules
    memory_bits: Bits = 32
    bits: Bits = 32
    spike_bits: Bits = 1

    @property
    def mac(self) -> float:
        """A multiply-accumulate."""
        return self.add + self.multiply

    def access(self, bits: int) -> float:
        """One access to a word of `bits` bits."""
        return self.memory * bits / self.memory_bits

    def narrow(self, bits: int) -> float:
        """A multiplication with an operand of `bits` bits: as many partial products as it has bits."""
        return self.multiply * min(1.0, bits / self.bits)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with the sum for a MAC."""
        return asdict(self) | {"mac": self.mac}


def read_constants(path: str | Path) -> Constants:
    """A user's table: a YAML mapping with the fields of Constants; `name`, about, shift and memory have defaults."""
    values = read_yaml(path, "a table of constants")
    if isinstance(values, dict):
        own = {"name": Path(path).stem, "about": Path(path).name, "shift": 0.0, "memory": 0.0}
        values = own | values
    with inside(path):
        return read(Constants, values)


def load_constants(name: str | Path | Constants = "fp32") -> Constants:
    """By name ("fp32", "fp16", "int8"), from a YAML file, or as they are.

    Raises:
        ValueError: no such table or file; a field that is missing, unknown, or no number of that kind.
    """
    if isinstance(name, Constants):
        return name
    of_kind("constants", name, (str, os.PathLike), "fp32, fp16, int8, a YAML file, or Constants(…)")
    text = resources.files("spikevit.profiling").joinpath("constants.yaml").read_text(encoding="utf-8")
    tables = parse_yaml(text, "constants.yaml")
    if str(name) in tables:
        return read(Constants, {"name": str(name)} | tables[str(name)])
    if Path(name).suffix in (".yaml", ".yml"):
        return read_constants(name)
    raise unknown("constants", name, [*tables, "a file ending in .yaml"])
