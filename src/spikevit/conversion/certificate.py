"""The certificate of a conversion: what was compared, layer by layer, and that nothing differed. A file to re-check."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from spikevit.conversion.fingerprint import as_text, fingerprint, fingerprint_1, structure
from spikevit.conversion.proof import ITSELF, Proof, Types
from spikevit.errors import inside
from spikevit.files import parse_json, read_text, write_text
from spikevit.layers.grid import FLOAT32, FLOAT64
from spikevit.models.running import evaluating
from spikevit.neurons import ExpG, ExpGIF, SpikeTrain, Staircase
from spikevit.neurons.staircase import in_force
from spikevit.profiling.observe import observe
from spikevit.schema import Checked, Count, Natural, NotNegative, Range, Share, fit, read, wrong

FORMAT = 2
NOT_IN_FORMAT_1 = ("reasons", "accumulators")  # accumulators were those of some layers, by other arithmetic
FEW = 3  # fewer codes than this in use: a dead layer, whose equality proves nothing


@dataclass(frozen=True)
class LayerRecord(Checked):
    """One layer of neurons: codes compared and differing, the largest difference, how many distinct codes occur.

    spikes: mean number per neuron and image. code: (n, G) or (n, G, order): see `ExpG.plain`. not_binary: entries of
    its spikes that are neither 0 nor 1.
    """

    name: str
    code: tuple[int, int] | tuple[int, int, str]
    compared: Natural
    differing: Natural
    largest: Natural
    distinct: Natural
    spikes: NotNegative
    not_binary: Natural

    def __post_init__(self) -> None:
        super().__post_init__()
        ExpG.from_plain(*self.code)

    @property
    def codes(self) -> int:
        """How many there are, G·(2^n − 1) + 1."""
        return ExpG.from_plain(*self.code).levels + 1

    @property
    def flagged(self) -> bool:
        """Whether too few codes occur for equality to mean something (of a layer that has so many)."""
        return self.distinct < min(FEW, self.codes)


@dataclass(frozen=True)
class Certificate(Checked):
    """Of a reference (staircases) and its conversion (spikes) on `images` images.

    logits: the largest difference. agreement: share of images (of a map's places) with the same top-1 class. model,
    data: SHA-256 of both networks, weights and structure, and of the images. exact: no sum of either network can
    round, so that equality is proved, for every image on the grid of these and no larger; else `reasons` says why not.
    accumulators: of every module that adds up, the largest sum that can occur ("bound", in units of its grid; None: on
    none) and the narrowest type that holds it ("type"; None: none does). In exact mode it is checked that what runs is
    as wide. files: see `Files`; relative paths start at the certificate's directory.
    """

    images: Count
    layers: list[LayerRecord]
    logits: NotNegative
    agreement: Share
    model: str
    data: str
    exact: bool
    versions: dict[str, str]
    accumulators: dict[str, dict[str, int | str | None]] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    format: Annotated[int, Range(least=1, most=FORMAT)] = FORMAT
    reasons: list[str] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """Codes that were compared, of all layers."""
        return sum(layer.compared for layer in self.layers)

    @property
    def differing(self) -> int:
        """Codes that differ, of all layers."""
        return sum(layer.differing for layer in self.layers)

    @property
    def not_binary(self) -> int:
        """Entries of spikes that are neither 0 nor 1, of all layers."""
        return sum(layer.not_binary for layer in self.layers)

    @property
    def faults(self) -> list[str]:
        """Why it is not lossless: codes or, in exact mode, logits that differ, what is no spike, dead layers."""
        named = [layer.name for layer in self.layers if layer.not_binary]
        dead = sum(layer.flagged for layer in self.layers)
        faults = {
            self._codes: self.differing,
            f"spikes that are neither 0 nor 1: {self.not_binary:,} ({few(named)})": named,
            f"{dead} {'layer is' if dead == 1 else 'layers are'} dead": dead,
            "logits differ in exact mode": self.exact and self.logits != 0,
        }
        return [text for text, found in faults.items() if found]

    @property
    def lossless(self) -> bool:
        """Whether there are no faults."""
        return not self.faults

    @property
    def verdict(self) -> str:
        """In one sentence."""
        others = [fault for fault in self.faults if fault != self._codes]
        return f"{'' if self.faults else 'Lossless: '}{'; '.join([self._codes, *others])}."

    @property
    def _codes(self) -> str:
        return f"{self.differing:,} of {self.compared:,} codes differ on {self.images:,} images"

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self) | {"differing": self.differing, "lossless": self.lossless}, indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all."""
        write_text(path, self.to_json())

    def __rich__(self):
        from spikevit.report.terminal import certificate

        return certificate(self)


@dataclass(frozen=True)
class Images(Checked):
    """Which images a certificate is on, as `spikevit convert` was told."""

    data: str | None = None
    root: str | None = None
    images: Count | None = None
    batch_size: Count = 64


@dataclass(frozen=True)
class Files(Checked):
    """The two networks that a certificate is of, and its images."""

    reference: str
    spiking: str
    data: Images


def load_certificate(path: str | Path) -> Certificate:
    """A certificate from its file, of this format or the one before.

    Raises:
        ValueError: no such file, no certificate, one of a newer format, or one that contradicts itself.
    """
    fault = f"{path} is not a certificate of spikevit"
    plain = parse_json(read_text(path, "a certificate"), fault)
    version = plain.get("format") if isinstance(plain, dict) else None
    if type(version) is int and version > FORMAT:
        raise ValueError(f"{path} is of format {version}, this version of spikevit reads up to {FORMAT}")
    with inside(fault):
        if type(version) is not int or version < 1:
            raise wrong("format", version, f"1 to {FORMAT}")
        if version == 1:
            layers = fit(plain.get("layers"), list[dict[str, Any]], "layers")
            plain = {"reasons": []} | plain | {"layers": [{"not_binary": 0} | layer for layer in layers]}
        needed = [f.name for f in fields(Certificate)]
        if lacks := [name for name in (*needed, "differing", "lossless") if name not in plain]:
            raise ValueError(f"it lacks {', '.join(lacks)}")
        certificate = read(Certificate, {name: plain[name] for name in needed})
    found = {"differing": certificate.differing, "lossless": certificate.lossless}
    if version > 1:
        found["exact"] = not certificate.reasons
    for name, value in found.items():
        if type(plain[name]) is not type(value) or plain[name] != value:
            raise ValueError(
                f"{path} contradicts itself: {name} is {plain[name]!r}, but the rest of what it says makes it {value!r}"
            )
    return certificate


def files_of(certificate: Certificate, path: str | Path, *, beside: bool = False) -> Files:
    """The files that the certificate at `path` is of, by paths that are there if they can be found.

    A relative path is taken from the certificate's directory, so that a copied run is checked by its own files. Where
    nothing is there, by what is left of it without its first directories: earlier versions wrote paths as they were
    typed. An absolute path is taken as it is, if there is such a file; not with `beside`.

    Raises:
        ValueError: it does not say which files, or not as `spikevit convert` does.
    """
    if not certificate.files:
        raise ValueError(f"{path} does not say which files it is of; use spikevit.conversion.certificate.verify")
    with inside(f"{path}: files"):
        files = read(Files, certificate.files)
    reference, spiking = (_find(Path(p), Path(path).parent, beside) for p in (files.reference, files.spiking))
    return Files(reference, spiking, files.data)


def _find(named: Path, directory: Path, beside: bool) -> str:
    parts = named.parts[1:] if named.is_absolute() else named.parts
    places = [directory.joinpath(*parts[i:]) for i in range(len(parts))] or [directory]
    if not beside:
        places.insert(0 if named.is_absolute() else len(places), named)
    return str(next((path for path in places if path.is_file()), places[0]))


def relative(path: str | Path, certificate: str | Path) -> str:
    """The path of a file as a certificate names it: from the certificate's directory."""
    return Path(os.path.relpath(path, Path(certificate).parent)).as_posix()


def certify(reference: nn.Module, spiking: nn.Module, batches: Iterable[Tensor]) -> Certificate:
    """Runs both networks, in evaluation mode, over the images and compares every code of every layer, and the logits.

    Raises:
        ValueError: no images; neurons that are more, or fire more often, in one of them; logits of other shapes, or not
            finite.
    """
    with evaluating(reference, spiking):
        return _certify(reference, spiking, batches)


@torch.no_grad()
def _certify(reference: nn.Module, spiking: nn.Module, batches: Iterable[Tensor]) -> Certificate:
    model = fingerprint(reference, spiking)
    neurons = {name: m for name, m in spiking.named_modules() if isinstance(m, ExpGIF)}
    tallies = {name: _Tally(m) for name, m in neurons.items()}
    proof, types = Proof(reference), Types(spiking)
    images, agree, rows, logits, digest = 0, 0, 0, 0.0, hashlib.sha256()
    for batch in batches:
        wanted: dict[str, list[Tensor]] = {name: [] for name in neurons}
        proof.look(batch)
        with observe(reference, lambda name, codes: wanted[name].append(codes)):  # noqa: B023
            ours = reference(batch)

        def compare(name: str, spikes: Tensor) -> None:
            if not wanted[name]:  # noqa: B023
                raise ValueError(f"{name} fires more often in the spiking network")
            tallies[name].add(name, wanted[name].pop(0), spikes)  # noqa: B023

        with observe(spiking, compare), nullcontext() if images else types.run():
            theirs = spiking(batch)
        if silent := [name for name, codes in wanted.items() if codes]:
            raise ValueError(f"{', '.join(silent)} fires less often in the spiking network")
        theirs = theirs.decode() if isinstance(theirs, SpikeTrain) else theirs
        if ours.shape != theirs.shape:
            raise ValueError(
                f"logits have shape {tuple(ours.shape)}, those of the spiking network {tuple(theirs.shape)}"
            )
        if not (ours.isfinite().all() and theirs.isfinite().all()):
            raise ValueError("logits are not finite (NaN or infinite): there is nothing to compare")
        same = ours.argmax(-1) == theirs.argmax(-1)
        agree, rows = agree + int(same.sum()), rows + same.numel()
        logits = max(logits, float((ours.double() - theirs.double()).abs().max()))
        if not images:
            digest.update(str((tuple(batch.shape[1:]), batch.dtype)).encode())
        images += len(batch)
        digest.update(batch.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    if not images:
        raise ValueError("there are no images to certify the conversion on")
    versions = {"torch": str(torch.__version__), "python": platform.python_version(), "machine": platform.machine()}
    proof.conclude()
    proof.compare(types)
    reasons = {reason: [name or ITSELF for name in names] for reason, names in proof.reasons.items()}
    if changed := _changed(reference, spiking):
        reasons["the two networks differ in more than their neurons"] = changed
    return Certificate(
        images=images,
        layers=[tally.record(name) for name, tally in tallies.items()],
        logits=logits,
        agreement=agree / rows,
        model=model,
        data=digest.hexdigest(),
        exact=not reasons,
        versions=versions | {"device": batch.device.type},
        accumulators={name or ITSELF: _accumulator(s.bound) for name, s in proof.sums.items()},
        reasons=[f"{reason}: {few(names)}" for reason, names in reasons.items()],
    )


def _accumulator(bound: float) -> dict[str, Any]:
    """A bound, and the narrowest type that holds it."""
    kind = "float32" if bound <= FLOAT32 else "float64" if bound <= FLOAT64 else None
    return {"bound": int(bound) if isfinite(bound) else None, "type": kind}


def _became(staircase: Any, spikes: Any) -> bool:
    """Whether these neurons are what the staircase was trained for."""
    if not (isinstance(staircase, Staircase) and isinstance(spikes, ExpGIF)):
        return False
    theta = in_force(staircase.threshold, staircase.code, staircase.power_of_two)
    return staircase.code.levels == spikes.code.levels and as_text(theta) == as_text(spikes.threshold)


def few(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _changed(reference: nn.Module, spiking: nn.Module) -> list[str]:
    """Modules that are not the same in both, but for a staircase and the neurons that it became."""
    ours, theirs = structure(reference), structure(spiking)
    for lines in (ours, theirs):
        lines[""] = [line for line in lines[""] if not line.startswith("config = ")]  # which says that it spikes
    changed = _differ(ours, theirs)
    spikes = dict(spiking.named_modules(remove_duplicate=False))
    staircases = dict(reference.named_modules(remove_duplicate=False))
    return [name or ITSELF for name in changed if not _became(staircases.get(name), spikes.get(name))]


class _Tally:
    """What was compared in one layer so far."""

    def __init__(self, neuron: ExpGIF):
        self.neuron = neuron
        self.compared = self.differing = self.largest = self.spikes = self.not_binary = 0
        self.seen = torch.zeros(neuron.code.levels + 1, dtype=torch.bool)

    def add(self, name: str, wanted: Tensor, spikes: Tensor) -> None:
        codes = self.neuron.codes(spikes)
        if codes.numel() != wanted.numel():
            raise ValueError(f"{name}: {wanted.numel()} codes in the reference, {codes.numel()} in the spiking network")
        difference = (codes.view(-1) - wanted.reshape(-1)).abs()
        self.compared += codes.numel()
        self.differing += int(difference.count_nonzero())
        self.largest = max(self.largest, int(difference.max()))
        self.spikes += int(spikes.count_nonzero())
        self.not_binary += int(((spikes != 0) & (spikes != 1)).sum())
        found = codes.flatten().long().cpu().unique()
        self.seen[found[(found >= 0) & (found < len(self.seen))]] = True

    def record(self, name: str) -> LayerRecord:
        return LayerRecord(
            name=name,
            code=self.neuron.code.plain,
            compared=self.compared,
            differing=self.differing,
            largest=self.largest,
            distinct=int(self.seen.sum()),
            spikes=self.spikes / max(1, self.compared),
            not_binary=self.not_binary,
        )


def is_of(certificate: Certificate, reference: nn.Module, spiking: nn.Module) -> bool:
    """Whether these are its networks: by the fingerprint of its format, and by names and codes of its layers."""
    codes = [(name, m.code.plain) for name, m in spiking.named_modules() if isinstance(m, ExpGIF)]
    layers = [(layer.name, layer.code) for layer in certificate.layers]
    return layers == codes and _same_networks(certificate, reference, spiking)


def _same_networks(certificate: Certificate, reference: nn.Module, spiking: nn.Module) -> bool:
    known = {1: fingerprint_1, 2: fingerprint}[certificate.format]
    return known(reference, spiking) == certificate.model


def verify(
    certificate: Certificate, reference: nn.Module, spiking: nn.Module, batches: Iterable[Tensor]
) -> Certificate:
    """Certifies anew and compares with all that the certificate says, but versions and files; returns the new one.

    Of format 1 the accumulators are not compared: the new certificate has them.

    Raises:
        ValueError: it is of another model, of other data, or its figures are not reproduced.
    """
    if not _same_networks(certificate, reference, spiking):
        raise ValueError("the certificate is of another model: the SHA-256 of weights and structure differ")
    again = with_files(certify(reference, spiking, batches), **certificate.files)
    if again.data != certificate.data:
        raise ValueError("the data changed since the certificate was made: the SHA-256 of the images differ")
    differ = _differ(_by_name(again), _by_name(certificate))
    if not differ and again.layers != certificate.layers:
        differ = ["order of the layers"]
    without = {"layers", "model", "data", "versions", "files", "format"}.union(
        NOT_IN_FORMAT_1 if certificate.format == 1 else ()
    )
    differ += _differ(*({k: v for k, v in vars(c).items() if k not in without} for c in (again, certificate)))
    if differ:
        raise ValueError(
            f"the certificate is not reproduced: {few(differ)} differ; it was made with "
            f"{certificate.versions}, this is {again.versions}"
        )
    return again


def _by_name(certificate: Certificate) -> dict[str, LayerRecord]:
    return {layer.name: layer for layer in certificate.layers}


def _differ(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of what is not equal, or only in one."""
    missing = object()
    return [name for name in {**ours, **theirs} if ours.get(name, missing) != theirs.get(name, missing)]


def with_files(certificate: Certificate, **files: Any) -> Certificate:
    """The same, saying which files it is of."""
    return replace(certificate, files=files)
