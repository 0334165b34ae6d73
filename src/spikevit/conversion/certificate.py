"""The certificate of a conversion: what was compared, layer by layer, and that nothing differed. A file to re-check."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikevit.layers.grid import OnGrid
from spikevit.neurons import ExpGIF, SpikeTrain
from spikevit.profiling.observe import observe

FORMAT = 1
FEW = 3  # fewer codes than this in use: a dead layer, whose equality proves nothing


@dataclass(frozen=True)
class LayerRecord:
    """One layer of neurons: codes compared and differing, the largest difference, how many distinct codes occur.

    spikes: mean number per neuron and image. code: (n, G) or (n, G, order): see `ExpG.plain`.
    """

    name: str
    code: tuple[int, int] | tuple[int, int, str]
    compared: int
    differing: int
    largest: int
    distinct: int
    spikes: float

    @property
    def codes(self) -> int:
        """How many there are, G·(2^n − 1) + 1."""
        steps, groups, *_ = self.code
        return groups * (2**steps - 1) + 1

    @property
    def flagged(self) -> bool:
        """Whether too few codes occur for equality to mean something (of a layer that has so many)."""
        return self.distinct < min(FEW, self.codes)


@dataclass(frozen=True)
class Certificate:
    """Of a reference (staircases) and its conversion (spikes) on `images` images.

    logits: the largest difference. agreement: share of images with the same top-1 class. model, data: SHA-256 of the
    weights of both networks with their codes, and of the images. accumulators: of exact mode.
    """

    images: int
    layers: list[LayerRecord]
    logits: float
    agreement: float
    model: str
    data: str
    exact: bool
    versions: dict[str, str]
    accumulators: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def compared(self) -> int:
        """Codes that were compared, of all layers."""
        return sum(layer.compared for layer in self.layers)

    @property
    def differing(self) -> int:
        """Codes that differ, of all layers."""
        return sum(layer.differing for layer in self.layers)

    @property
    def lossless(self) -> bool:
        """Whether no code of any layer differs, and no layer is dead."""
        return self.differing == 0 and not any(layer.flagged for layer in self.layers)

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self) | {"differing": self.differing, "lossless": self.lossless}, indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all."""
        from spikevit.models.checkpoint import write_atomically

        write_atomically(path, lambda temporary: temporary.write_text(self.to_json()))

    def __rich__(self):
        from spikevit.report.terminal import certificate

        return certificate(self)


def load_certificate(path: str | Path) -> Certificate:
    """A certificate from its file."""
    try:
        plain = json.loads(Path(path).read_text())
        known = {key: plain[key] for key in Certificate.__dataclass_fields__}
        known["layers"] = [LayerRecord(**layer | {"code": tuple(layer["code"])}) for layer in plain["layers"]]
        newer = known["format"] > FORMAT
    except FileNotFoundError:
        raise ValueError(f"there is no certificate {path}") from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a certificate of spikevit: {error!r}") from None
    if newer:
        raise ValueError(f"{path} is of format {known['format']}, this version of spikevit reads up to {FORMAT}")
    return Certificate(**known)


@torch.no_grad()
def certify(reference: nn.Module, spiking: nn.Module, batches: Iterable[Tensor]) -> Certificate:
    """Runs both networks over the images and compares every code of every layer, and the logits."""
    from spikevit.conversion.convert import accumulators

    neurons = {name: m for name, m in spiking.named_modules() if isinstance(m, ExpGIF)}
    tallies = {name: _Tally(m) for name, m in neurons.items()}
    images, agree, logits, digest = 0, 0, 0.0, hashlib.sha256()
    for batch in batches:
        wanted: dict[str, list[Tensor]] = {name: [] for name in neurons}
        with observe(reference, lambda name, codes: wanted[name].append(codes)):  # noqa: B023
            ours = reference(batch)

        def compare(name: str, spikes: Tensor) -> None:
            if not wanted[name]:  # noqa: B023
                raise ValueError(f"{name} fires more often in the spiking network")
            tallies[name].add(wanted[name].pop(0), spikes)  # noqa: B023

        with observe(spiking, compare):
            theirs = spiking(batch)
        if silent := [name for name, codes in wanted.items() if codes]:
            raise ValueError(f"{', '.join(silent)} fires less often in the spiking network")
        theirs = theirs.decode() if isinstance(theirs, SpikeTrain) else theirs
        agree += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        logits = max(logits, float((ours.double() - theirs.double()).abs().max()))
        if not images:
            digest.update(str((tuple(batch.shape[1:]), batch.dtype)).encode())
        images += len(batch)
        digest.update(batch.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    if not images:
        raise ValueError("there are no images to certify the conversion on")
    found = accumulators(reference)
    return Certificate(
        images=images,
        layers=[tally.record(name) for name, tally in tallies.items()],
        logits=logits,
        agreement=agree / images,
        model=fingerprint(reference, spiking),
        data=digest.hexdigest(),
        exact=any(isinstance(m, OnGrid) for m in reference.modules()),
        versions={"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()},
        accumulators=found,
    )


class _Tally:
    """What was compared in one layer so far."""

    def __init__(self, neuron: ExpGIF):
        self.neuron = neuron
        self.compared = self.differing = self.largest = self.spikes = 0
        self.seen = torch.zeros(neuron.code.levels + 1, dtype=torch.bool)

    def add(self, wanted: Tensor, spikes: Tensor) -> None:
        codes = self.neuron.codes(spikes)
        difference = (codes.view(-1) - wanted.reshape(-1)).abs()
        self.compared += codes.numel()
        self.differing += int(difference.count_nonzero())
        self.largest = max(self.largest, int(difference.max()))
        self.spikes += int(spikes.count_nonzero())
        self.seen[codes.flatten().long().cpu().unique()] = True

    def record(self, name: str) -> LayerRecord:
        return LayerRecord(
            name=name,
            code=self.neuron.code.plain,
            compared=self.compared,
            differing=self.differing,
            largest=self.largest,
            distinct=int(self.seen.sum()),
            spikes=self.spikes / max(1, self.compared),
        )


def fingerprint(*models: nn.Module) -> str:
    """SHA-256 of the tensors of models, by name, of the codes of their neurons and the bits of their weights."""
    digest = hashlib.sha256()
    for model in models:
        for name, tensor in model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, m in model.named_modules():
            if hasattr(m, "code"):
                digest.update(f"{name} {_code(m)}".encode())
            if hasattr(m, "bits"):
                digest.update(f"{name} {m.bits}".encode())
    return digest.hexdigest()


def _code(neuron: Any) -> str:
    """The code in a fingerprint, as of files of before; with its order where neurons fire, and that is by weight."""
    code = neuron.code
    order = code.plain[2:] if isinstance(neuron, ExpGIF) else ()  # staircases have none
    return f"ExpG(steps={code.steps}, groups={code.groups}{''.join(f', {which}' for which in order)})"


def verify(
    certificate: Certificate, reference: nn.Module, spiking: nn.Module, batches: Iterable[Tensor]
) -> Certificate:
    """Certifies anew and compares with what the certificate says; returns the new one.

    Raises:
        ValueError: it is of another model, of other data, or its figures are not reproduced.
    """
    if fingerprint(reference, spiking) != certificate.model:
        raise ValueError("the certificate is of another model: the SHA-256 of weights and codes differ")
    again = with_files(certify(reference, spiking, batches), **certificate.files)
    if again.data != certificate.data:
        raise ValueError("the data changed since the certificate was made: the SHA-256 of the images differ")
    said = {layer.name: layer for layer in certificate.layers}
    differ = [layer.name for layer in again.layers if layer != said.get(layer.name)]
    differ += [what for what in ("agreement", "logits") if getattr(again, what) != getattr(certificate, what)]
    if differ:
        raise ValueError(
            f"the certificate is not reproduced: {', '.join(differ[:3])} differ; it was made with "
            f"{certificate.versions}, this is {again.versions}"
        )
    return again


def with_files(certificate: Certificate, **files: Any) -> Certificate:
    """The same, saying which files it is of."""
    return replace(certificate, files=files)
