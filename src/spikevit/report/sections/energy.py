"""Energy: one figure with its range, its opponents, and the other conventions, each in a sentence."""

from __future__ import annotations

from spikevit.profiling.conventions import CONVENTIONS
from spikevit.profiling.profile import NOTE
from spikevit.report.pieces import Cell, Table, number, table
from spikevit.report.sections.base import NONE, Shown, unit_of

ABOUT = {  # what a convention charges, in a sentence
    "paper": "As Spikformer, QKFormer and SDT publish it: the first convolution at every step, then additions by "
    "firing rate, padding included. The head is free.",
    "paper, stem once": "The same, but the first convolution is charged once, as it runs.",
    "exact": "Every addition that a spike causes, padding not counted; attention and the head are charged, too.",
    "exact, integers multiplied": "The same, but a whole number costs one multiplication, not as many additions.",
    "syops": "As the package syops-counter: attention is free, batch norm and updates of neurons are charged.",
    "neurobench": "As NeuroBench defines effective operations: attention is free.",
    "memory": "As exact, and every access to weights, membranes and spikes of a machine that reuses nothing.",
}
OPERATIONS = [name for name in CONVENTIONS if name != "memory"]


def energy_range(shown: Shown) -> str:
    """The least and most by conventions of operations, and with data movement."""
    scale, unit = unit_of([shown])
    found = [shown.energies[name] * scale for name in OPERATIONS]
    low, high = f"{min(found):.3g}", f"{max(found):.3g}"
    spread = f"{low} to {high}" if low != high else low
    return f"{spread} {unit} by {len(found)} conventions, {shown.energies['memory'] * scale:.3g} with data movement"


def opponents(shown: Shown, place: int) -> Table | None:
    """The same network as an ANN, from the cheapest; ratios only where the network is healthy."""
    if shown.look is None:
        return None
    scale, unit = unit_of([shown])
    rows = []
    for row in sorted(shown.look.costs.opponents(), key=lambda row: row["mj"]):
        ratios = [row[key] if shown.sound else None for key in ("ratio", "memory_ratio")]
        cells = [NONE if ratio is None else number(ratio, ".2f") for ratio in ratios]
        energies = [number(row[key] * scale, ".3g") for key in ("mj", "memory_mj")]
        rows.append([row["name"], energies[0], cells[0], energies[1], cells[1]])
    heads = ("the same network as", unit, "spikes ÷ it", f"{unit}, memory too", "spikes ÷ it, memory too")
    caption = (
        "Opponents of the spikes, the fairest (cheapest) first: below 1, spikes cost less. Bits are of activations."
    )
    return table(f"opponents-{place}", caption, heads, rows)


def conventions(shown: Shown) -> Table | None:
    """Operations and energy by every convention, and what each charges."""
    if shown.look is None:
        return None
    scale, unit = unit_of([shown])
    rows = [
        [
            Cell(name, about=ABOUT[name]),
            number(cost.energy.mj * scale, ".4g"),
            NONE if cost.spread is None else number(cost.spread * scale, ".3g"),
            *(number(n / 1e6) for n in (cost.energy.macs, cost.energy.acs)),
        ]
        for name, cost in shown.look.costs.costs.items()
    ]
    caption = f"Energy of an image by convention, {unit} — {NOTE}"
    return table("energy", caption, ("convention", unit, "± over images", "M MAC", "M AC"), rows)


def compared(runs: list[Shown]) -> Table | None:
    """Energy of every run by every convention and as every opponent."""
    if not any(shown.energies for shown in runs):
        return None
    scale, unit = unit_of(runs)
    names = dict.fromkeys(name for shown in runs for name in shown.energies)
    rows = [
        [
            Cell(name, about=ABOUT[name]) if name in ABOUT else f"the same network: {name}",
            *(number(shown.energies[name] * scale, ".4g") if name in shown.energies else NONE for shown in runs),
        ]
        for name in names
    ]
    caption = f"Energy of an image by convention, {unit} — {NOTE}"
    return table("energy", caption, ("convention", *(shown.name for shown in runs)), rows)
