"""Published energies beside ours, as Markdown: what can be recomputed, and what is missing for the rest.

    python benchmarks/published_energy.py

Published figures and what they rest on: src/spikevit/profiling/published.yaml. Ours are from shapes (`count_shapes`),
by the paper convention with fp32 constants; nothing is trained or run.
"""

from __future__ import annotations

import datetime
import platform
import statistics
from collections.abc import Mapping
from functools import cache

import torch

import spikevit
from spikevit.profiling.baselines import dense
from spikevit.profiling.constants import load_constants
from spikevit.profiling.conventions import Energy, paper, with_rates
from spikevit.profiling.count import count_shapes
from spikevit.profiling.counts import Counts
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
    return sum(c.macs for c in counts.operators if not c.stem and not c.head)


def energy(entry: PublishedEnergy, macs: float) -> float:
    assert entry.gsop is not None
    return Energy(macs=macs, acs=entry.gsop * 1e9, constants=PJ).mj


def off(ours: float, entry: PublishedEnergy) -> str:
    percent = round(100 * (ours / entry.mj - 1), 1)
    return f"{ours:.3f}\u00a0({percent:+.1f}%)" if percent else f"{ours:.3f}\u00a0(0.0%)"


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
    charged = [c.module for c in counts.operators if not c.stem and not c.head]
    shown = []
    for name in missing:
        parts = name.split(".")
        for n in range(1, len(parts)):  # the shortest prefix of which nothing is known
            prefix = ".".join(parts[:n])
            inside = [m for m in charged if m == prefix or m.startswith(prefix + ".")]
            if all(m in missing for m in inside):
                name = prefix + ".*"
                break
        shown.append(f"`{name}`")
    return ", ".join(dict.fromkeys(shown))


FAMILIES = {"spikformer": "Spikformer", "spikingformer": "Spikingformer", "sdt": "SDT", "qkformer": "QKFormer"} | {
    "msvit": "MSViT",
    "stmixer": "STMixer",
}


def label(entry: PublishedEnergy) -> str:
    family, size = entry.model.split("_", 1)
    name = f"{FAMILIES[family]}\u00a0{size.replace('_', '-')}"
    changes = (f"{v}²" if key == "image_size" else f"T = {v}" for key, v in entry.config.items())
    return ", ".join([name, *changes])


def recomputed() -> None:
    print("| model | printed, mJ | as they counted | own, every step | own, once | implied rate |")
    print("|---|---:|---:|---:|---:|---:|")
    others = []
    for entry in published_energies():
        if entry.gsop is None:
            continue
        counts = shapes_of(entry)
        every, once = stem_macs(counts, True), stem_macs(counts, False)
        theirs = stem_macs(shapes(entry.stem_of), True) if entry.stem_of else (entry.stem_gmac or 0) * 1e9
        cells = " | ".join(off(energy(entry, macs), entry) for macs in (theirs, every, once))
        print(f"| {label(entry)} | {entry.mj:g} | {cells} | {entry.gsop * 1e9 / behind(counts):.1%} |")
        if abs(theirs / every - 1) > 0.01:
            others.append(f"{label(entry)} has {once / 1e6:.1f} M")
    d512 = stem_macs(shapes("spikformer_8_512"), False)
    spikformers = [e for e in published_energies() if e.stem_of == "spikformer_8_512"]
    left = sorted(e.mj - PJ.add * (e.gsop or 0) for e in spikformers)
    print("\nWhy they differ, by the first convolution that is charged:\n")
    print(f"- As they counted: printed energy less 0.9 pJ · SOP is {left[0]:.4f} to {left[-1]:.4f} mJ for Spikformer.")
    print(f"  4.6 pJ · 4 steps · {d512 / 1e6:.1f} M, that of D = 512, make {4 * d512 * PJ.mac * 1e-9:.4f} mJ.")
    for entry in published_energies():
        if entry.stem_gmac is not None:
            own = stem_macs(shapes_of(entry), True)
            print(f"  For {label(entry)} {entry.stem_gmac:g} G are printed; ours are {own / 1e9:.4f} G.")
    print(f"- Own, every step: {' and '.join(others)} instead.")
    print("- Own, once: the image stands still, so that one step of the convolution is executed, not four.")


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


def by_depth() -> None:
    """What the printed energies of one width say of the first convolution: a line over the number of blocks."""
    found = {e.model: e.mj for e in published_energies() if e.model in ("sdt_6_512", "sdt_8_512", "sdt_10_512")}
    depths, energies = zip(*((int(name.split("_")[1]), mj) for name, mj in found.items()), strict=True)
    _, intercept = statistics.linear_regression(depths, energies)
    ends = (energies[-1] - energies[0]) / (depths[-1] - depths[0])
    stem = PJ.mac * stem_macs(shapes("sdt_8_512"), False) * 1e-9
    print(f"SDT, width 512, depth {', '.join(map(str, depths))}: {', '.join(f'{mj:.2f}' for mj in energies)} mJ.")
    print(f"A line through the first and the last leaves {energies[0] - ends * depths[0]:.3f} mJ for no block, least")
    print(f"squares {intercept:.3f} mJ. The first convolution costs {stem:.3f} mJ once and {4 * stem:.3f} mJ")
    print("at every step: it can have been charged once, not four times.")


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
            found = [c for c in one.operators if not c.stem and not c.head]
            macs = sum(c.macs for c in found)
            print(f"| `{pattern}` | {rate:g} | {macs / 1e9:.3f} | {paper(one, PJ, stem='once').acs / 1e9:.4f} |")
        print(f"| together | | {(behind(counts) - missing_macs) / 1e9:.3f} | {sops / 1e9:.4f} |")
        mj = Energy(acs=sops, constants=PJ).mj
        print(f"\nThat is {share:.1%} of all charged products and {mj:.3f} mJ, {mj / entry.mj:.1%} of what is printed.")
        rest = [
            (entry.mj * 1e9 - PJ.mac * stem_macs(counts, every) - PJ.add * sops) / (PJ.add * missing_macs)
            for every in (True, False)
        ]
        print(f"All other operands would fire at {rest[0]:.1%} (first convolution every step) or {rest[1]:.1%} (once).")


def twin() -> None:
    name, gflops, mj = TWIN
    counts = shapes(name)
    stem = stem_macs(counts, False)
    padded = stem + (counts.macs - stem) / counts.time_steps
    products = sum(c.macs for c in counts.operators if len(c.operands) == 2) / counts.time_steps
    tokens, width, blocks = 14 * 14, 512, 8
    softmax = 2 * blocks * tokens**2 * width
    print("| ANN twin of Spikformer 8-512 | GFLOPs | mJ | difference, % |\n|---|---:|---:|---:|")
    print(f"| Transformer-8-512, printed | {gflops:.2f} | {mj:.3f} | |")
    for what, macs in (
        ("`dense(count_shapes(…))`: products in bounds", dense(counts, PJ).macs),
        ("padding counted, too", padded),
        ("and attention as (q kᵀ) v, which a softmax needs", padded - products + softmax),
    ):
        e = macs * PJ.mac * 1e-9
        print(f"| {what} | {macs / 1e9:.3f} | {e:.3f} | {100 * (e / mj - 1):+.1f} |")


def main() -> None:
    print(
        f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, spikevit {spikevit.__version__}\n"
    )
    for title, part in (
        ("Operations are published", recomputed),
        ("Operations are not published", bounds),
        ("SDT by depth", by_depth),
        ("QKFormer from rates", from_rates),
        ("ANN twin", twin),
    ):
        print(f"## {title}\n")
        part()
        print()


if __name__ == "__main__":
    main()
