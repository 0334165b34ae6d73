"""Published energies beside ours, as Markdown: what can be recomputed, and what is missing for the rest.

    python benchmarks/published_energy.py

Published figures and what they rest on: src/spikevit/profiling/published.yaml. Ours are from shapes (`count_shapes`),
by the paper convention with fp32 constants; nothing is trained or run.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from functools import cache

import torch

import spikevit
from spikevit.profiling.constants import load_constants
from spikevit.profiling.conventions import Energy, dense, paper, with_rates
from spikevit.profiling.count import Counts, count_shapes
from spikevit.profiling.published import PublishedEnergy, published_energies

TWIN = ("spikformer_8_512", 8.33, 38.340)  # the ANN "Transformer-8-512" of Spikformer's paper: GFLOPs, mJ
PJ = load_constants("fp32")


@cache
def shapes(name: str, config: tuple = ()) -> Counts:
    with torch.device("meta"):
        return count_shapes(spikevit.create_model(name, **dict(config)).eval())


def shapes_of(entry: PublishedEnergy) -> Counts:
    return shapes(entry.model, tuple(entry.config.items()))


def stem_macs(counts: Counts, every_step: bool) -> int:
    return sum(c.macs for c in counts.operators if c.stem) * (counts.time_steps if every_step else 1)


def behind(counts: Counts) -> int:
    """Dense products that the paper convention charges by rate: all but stem and head."""
    return sum(c.macs for c in counts.operators if not c.stem and c.module != "head")


def energy(entry: PublishedEnergy, macs: float) -> float:
    assert entry.gsop is not None
    return Energy(macs=macs, acs=entry.gsop * 1e9, constants=PJ).mj


def off(ours: float, entry: PublishedEnergy) -> str:
    percent = round(100 * (ours / entry.mj - 1), 1)
    return f"{ours:.3f} ({percent:+.1f} %)" if percent else f"{ours:.3f} (0.0 %)"


def implied(entry: PublishedEnergy, every_step: bool) -> float:
    """The mean firing rate of all charged operands at which our products cost what is printed."""
    counts = shapes_of(entry)
    spikes = entry.mj * 1e9 - PJ.mac * stem_macs(counts, every_step)
    return spikes / (PJ.add * behind(counts))


def at(rates: Mapping[str, float], entry: PublishedEnergy, stem: str) -> tuple[float, list[str]]:
    """Energy of stem and of the modules whose rates are given, and the modules whose rates are missing."""
    counts, missing = with_rates(shapes_of(entry), rates)
    return paper(counts, PJ, stem=stem).mj, missing


def folded(missing: list[str], counts: Counts) -> str:
    """Names of modules, with `prefix.*` for a part of which every charged module is missing."""
    charged = [c.module for c in counts.operators if not c.stem and c.module != "head"]
    shown = []
    for name in missing:
        parts = name.split(".")
        for n in range(1, len(parts)):
            prefix = ".".join(parts[:n])
            inside = [m for m in charged if m == prefix or m.startswith(prefix + ".")]
            if all(m in missing for m in inside):
                name = prefix + ".*"
                break
        shown.append(f"`{name}`")
    return ", ".join(dict.fromkeys(shown))


def label(entry: PublishedEnergy) -> str:
    changes = ", ".join(f"{'T' if k == 'time_steps' else 'image'} {v}" for k, v in entry.config.items())
    return f"`{entry.model}`" + (f", {changes}" if changes else "")


def recomputed() -> None:
    columns = (
        "as they counted",
        "own first convolution, every step",
        "the same, once",
        "SOP, G",
        "implied rate",
        "why",
    )
    print(f"| model | printed, mJ | {' | '.join(columns)} |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for entry in published_energies():
        if entry.gsop is None:
            continue
        counts = shapes_of(entry)
        every, once = stem_macs(counts, True), stem_macs(counts, False)
        theirs = stem_macs(shapes(entry.stem_of), True) if entry.stem_of else (entry.stem_gmac or 0) * 1e9
        cells = [off(energy(entry, macs), entry) for macs in (theirs, every, once)]
        rate = entry.gsop * 1e9 / behind(counts)
        why = f"{counts.time_steps} steps of {once / 1e6:.1f} M, of which one runs"
        if abs(theirs / every - 1) > 0.01:
            why = f"first convolution of D = 512, {theirs / 4e6:.1f} M, charged; its own has {once / 1e6:.1f} M"
        print(f"| {label(entry)} | {entry.mj:g} | {' | '.join(cells)} | {entry.gsop:g} | {rate:.1%} | {why} |")
    for entry in published_energies():
        if entry.stem_gmac is not None:
            every = stem_macs(shapes_of(entry), True)
            print(f"\n{label(entry)}: first convolution, 4 steps {every / 1e9:.4f} G; printed {entry.stem_gmac:g} G.")
    d512 = stem_macs(shapes("spikformer_8_512"), False)
    left = sorted(e.mj - PJ.add * (e.gsop or 0) for e in published_energies() if e.stem_of)
    print(
        f"\nSpikformer: printed energy less 0.9 pJ · printed SOP leaves {left[0]:.4f} to {left[-1]:.4f} mJ for each;"
        f" 4 · {d512 / 1e6:.1f} M · 4.6 pJ = {4 * d512 * PJ.mac * 1e-9:.4f} mJ, the first convolution of D = 512."
    )


def bounds() -> None:
    print("| model | printed, mJ | at least, mJ (every step / once) | implied rate (every step / once) |")
    print("|---|---:|---:|---:|")
    for entry in published_energies():
        if entry.gsop is not None:
            continue
        least = [at({**entry.rates, **entry.at_least}, entry, stem)[0] for stem in ("every step", "once")]
        rates = [implied(entry, every_step) for every_step in (True, False)]
        print(
            f"| {label(entry)} | {entry.mj:.2f} | {least[0]:.3f} / {least[1]:.3f} | {rates[0]:.1%} / {rates[1]:.1%} |"
        )
    print("\nEvery step / once: of the first convolution. Not recomputable; rates that are missing, by module:\n")
    lacks: dict[str, list[str]] = {}
    for entry in published_energies():
        if entry.gsop is None:
            _, missing = at(entry.rates, entry, "once")
            lacks.setdefault(folded(missing, shapes_of(entry)), []).append(label(entry))
    for missing_modules, models in lacks.items():
        print(f"- {'; '.join(models)}: {missing_modules}")


def from_rates() -> None:
    for entry in published_energies():
        if not entry.rates:
            continue
        counts = shapes_of(entry)
        known, missing = with_rates(counts, entry.rates)
        sops = paper(known, PJ, stem="once").acs
        missing_macs = sum(c.macs for c in counts.operators if c.module in missing)
        share = 1 - missing_macs / behind(counts)
        print(f"{label(entry)}, from the printed rates of stages 1 and 2:\n")
        print("| module | operand's rate | dense, G | SOP, G |\n|---|---:|---:|---:|")
        for pattern, rate in entry.rates.items():
            one, _ = with_rates(counts, {pattern: rate})
            found = [c for c in one.operators if not c.stem and c.module != "head"]
            macs = sum(c.macs for c in found)
            print(f"| `{pattern}` | {rate:g} | {macs / 1e9:.3f} | {paper(one, PJ, stem='once').acs / 1e9:.4f} |")
        print(f"| together | | {(behind(counts) - missing_macs) / 1e9:.3f} | {sops / 1e9:.4f} |")
        mj = Energy(acs=sops, constants=PJ).mj
        print(f"\nThat is {share:.1%} of all charged products and {mj:.3f} mJ, {mj / entry.mj:.1%} of what is printed.")
        rest = [
            (entry.mj * 1e9 - PJ.mac * stem_macs(counts, every) - PJ.add * sops) / (PJ.add * missing_macs)
            for every in (True, False)
        ]
        print(
            f"All other operands together would fire at {rest[0]:.1%} (first convolution every step) or {rest[1]:.1%}."
        )


def twin() -> None:
    name, gflops, mj = TWIN
    counts = shapes(name)
    ours = dense(counts, PJ)
    stem = stem_macs(counts, False)
    padded = stem + (counts.macs - stem) / counts.time_steps
    products = [c.macs for c in counts.operators if len(c.operands) == 2]
    print("| ANN twin of Spikformer 8-512 | GFLOPs | mJ | difference, % |\n|---|---:|---:|---:|")
    print(f"| Transformer-8-512, printed | {gflops:.2f} | {mj:.3f} | |")
    for what, macs in (("`dense(count_shapes(…))`, products in bounds", ours.macs), ("padding counted, too", padded)):
        e = macs * PJ.mac * 1e-9
        print(f"| {what} | {macs / 1e9:.3f} | {e:.3f} | {100 * (e / mj - 1):+.1f} |")
    n, c = 14 * 14, 512
    other = sum(products) / counts.time_steps
    print(
        f"\nIts attention is q(kᵀv), {other / 1e9:.3f} G; as (qkᵀ)v, which softmax needs, it would be "
        f"{8 * 2 * n * n * c / 1e9:.3f} G. What else an ANN's stem or norm would be is not printed."
    )


def main() -> None:
    print(
        f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, spikevit {spikevit.__version__}\n"
    )
    for title, part in (
        ("Operations are published", recomputed),
        ("Operations are not published", bounds),
        ("QKFormer from rates", from_rates),
        ("ANN twin", twin),
    ):
        print(f"## {title}\n")
        part()
        print()


if __name__ == "__main__":
    main()
