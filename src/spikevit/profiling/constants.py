"""What one operation costs, as data: the tables of constants.yaml, or the user's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Any

from spikevit.errors import unknown


@dataclass(frozen=True)
class Constants:
    """Picojoules of one operation; see constants.yaml. bits: of weights and membranes, spike_bits: of a spike."""

    name: str
    about: str
    add: float
    multiply: float
    shift: float
    memory: float
    memory_bits: int = 32
    bits: int = 32
    spike_bits: int = 1

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


def read_yaml(path: str | Path) -> Any:
    """What a user's YAML file holds."""
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error


def read_constants(path: str | Path) -> Constants:
    """A user's table: a YAML mapping with the fields of Constants."""
    path = Path(path)
    values = read_yaml(path)
    known = {f.name for f in fields(Constants)} - {"name"}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must be a YAML mapping of {', '.join(sorted(known))}; got {type(values).__name__}")
    for key in values:
        if key not in known:
            raise unknown(f"constant in {path}", key, known)
    needed = {"add", "multiply"} - values.keys()
    if needed:
        raise ValueError(f"{path} lacks {', '.join(sorted(needed))}")
    for key, value in values.items():
        least = 1 if key.endswith("bits") else 0
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
        if key != "about" and not (number and value >= least):
            raise ValueError(f"{path}: {key}={value!r} must be a number of at least {least}")
    defaults: dict[str, Any] = {"name": path.stem, "about": path.name, "shift": 0.0, "memory": 0.0}
    return Constants(**defaults | values)


def load_constants(name: str | Path | Constants = "fp32") -> Constants:
    """By name ("fp32", "fp16", "int8"), from a YAML file, or as they are."""
    if isinstance(name, Constants):
        return name
    import yaml

    tables = yaml.safe_load(resources.files("spikevit.profiling").joinpath("constants.yaml").read_text())
    if str(name) in tables:
        return Constants(str(name), **tables[str(name)])
    if Path(name).suffix in (".yaml", ".yml"):
        return read_constants(name)
    raise unknown("constants", name, [*tables, "a file ending in .yaml"])
