"""The figures of docs/explanation/ge2mst.md, and the table beside the last one.

    python benchmarks/ge2mst_figures.py                 # minutes: trains ge2mst_tiny on digits for T = 1, 2, 4, 8
    python benchmarks/ge2mst_figures.py --only codes windows     # seconds

Writes docs/images/expg-codes.svg, groupwise-windows.svg and code-energy.svg. Energies are of the first 72 test images,
of networks trained by the recipe ge2mst_digits and converted into spikes; accuracies are of all 360, of the spikes.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
from pathlib import Path

import torch

import spikevit
from spikevit.neurons import ExpG
from spikevit.neurons.staircase import spike_count, spike_pattern

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CODES = ((4, 1), (2, 5), (1, 15))  # all of 15 levels
STEPS = (1, 2, 4, 8)
BLUE, RED, INK = "#2a5caa", "#d1495b", "#222222"


def new_figure(width: float, height: float):
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasSVG(figure)
    return figure


def save(figure, name: str) -> None:
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    print(f"wrote docs/images/{name}.svg")


def draw_codes() -> None:
    """The spikes of every code 0 … 15, for three ways to group time; how many they are."""
    from matplotlib.patches import Rectangle

    figure = new_figure(10, 4.4)
    gaps = [0 if 1 in code else 0.35 for code in CODES]  # between steps of one weight and those of the next
    widths = [steps * groups + gap * (steps - 1) + 2.6 for (steps, groups), gap in zip(CODES, gaps, strict=True)]
    panels = figure.subplots(1, len(CODES), sharey=True, width_ratios=widths)
    shades = {8: "#12305f", 4: "#2a5caa", 2: "#6b9bd8", 1: "#a9c8ee"}
    for axis, (steps, groups), gap in zip(panels, CODES, gaps, strict=True):
        code = ExpG(steps, groups)
        k = torch.arange(code.levels + 1)
        spikes, counts = spike_pattern(k, code), spike_count(k, code)
        ticks = []
        for t, weight in enumerate(code.weights):
            left = t + gap * (t // groups)
            ticks.append((left + 0.5, weight))
            for row in k.tolist():
                face = shades[weight] if spikes[t, row] else "#f2f2f2"
                axis.add_patch(Rectangle((left + 0.06, row - 0.42), 0.88, 0.84, facecolor=face, linewidth=0))
        right = code.time_steps + gap * (steps - 1) + 0.5
        for row, count in enumerate(counts.tolist()):
            axis.text(right + 0.75, row, count, ha="center", va="center", fontsize=9, color=RED)
        axis.text(right + 0.75, -1.1, "spikes", ha="center", va="center", fontsize=9, color=RED)
        axis.text(
            right + 0.75, 16.2, f"ø {counts.double().mean():.2f}", ha="center", va="center", fontsize=9, color=RED
        )
        axis.set_xlim(-0.3, right + 1.8)
        axis.set_ylim(16.7, -1.6)
        for x, weight in ticks:
            axis.text(x, 16.2, weight, ha="center", va="center", fontsize=9, color=INK)
        axis.set_xticks([])
        axis.set_yticks(range(16), range(16), fontsize=9)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(f"n = {steps}, G = {groups}\nT = {code.time_steps} steps", fontsize=11, loc="left")
    panels[0].set_ylabel("code k", fontsize=10)
    figure.supxlabel("what a spike of each step stands for, in quanta Δ", fontsize=10)
    save(figure, "expg-codes")


def draw_windows() -> None:
    """Which tokens one token sees: windows of 4 × 4 on a grid of 10 × 10, padded, and the whole grid."""
    from matplotlib.patches import Rectangle

    figure = new_figure(9, 4.4)
    grid, token = 10, (5, 6)
    titles = ("heads of scale 1: windows of 4 × 4", "heads of scale 2: the whole grid")
    for axis, side, title in zip(figure.subplots(1, 2), (4, 10), titles, strict=True):
        padded = -(-grid // side) * side
        for row in range(padded):
            for column in range(padded):
                inside = row < grid and column < grid
                same = row // side == token[0] // side and column // side == token[1] // side
                face = ("#a9c8ee" if same else "#eeeeee") if inside else "white"
                axis.add_patch(
                    Rectangle(
                        (column + 0.06, row + 0.06),
                        0.88,
                        0.88,
                        facecolor=face,
                        edgecolor="none" if inside else "#bbbbbb",
                        linestyle=":",
                        linewidth=1,
                    )
                )
                if not inside:
                    axis.text(column + 0.5, row + 0.53, "0", ha="center", va="center", fontsize=8, color="#999999")
        for start in range(0, padded, side):
            for other in range(0, padded, side):
                axis.add_patch(Rectangle((start, other), side, side, fill=False, edgecolor=BLUE, linewidth=1.8))
        axis.add_patch(Rectangle((token[1] + 0.06, token[0] + 0.06), 0.88, 0.88, facecolor=RED, linewidth=0))
        axis.set_xlim(-0.15, 12.15)
        axis.set_ylim(12.15, -0.15)
        axis.set_aspect("equal")
        axis.axis("off")
        axis.set_title(title, fontsize=11, loc="left")
    for x, face, edge, what in (
        (0, RED, "none", "a token"),
        (3.0, "#a9c8ee", "none", "what it sees"),
        (7.0, "white", "#bbbbbb", "padding, code 0"),
    ):
        patch = Rectangle((x + 0.06, 11.06), 0.7, 0.7, facecolor=face, edgecolor=edge, linestyle=":", linewidth=1)
        axis.add_patch(patch)
        axis.text(x + 0.95, 11.43, what, va="center", fontsize=9.5, color=INK)
    save(figure, "groupwise-windows")


def trained(T: int, epochs: int, folder: Path):
    """The checkpoint's model after a short training."""
    from spikevit.training.recipe import load_recipe
    from spikevit.training.run import train

    changes = [f"model.time_steps={T}", f"schedule.epochs={epochs}", "trainer.accelerator=cpu"]
    train(folder / str(T), load_recipe("ge2mst_digits", changes), progress=False)
    return spikevit.load_model(folder / str(T) / "best.safetensors")


def measured(model, code: ExpG, x: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Of the spiking network: energies of an image, µJ; spikes a neuron; accuracy; share of codes that differ."""
    spiking, certificate = spikevit.convert(model, x, codes={"*": (code.steps, code.groups)})
    report = spikevit.profile(spiking, x[:72].split(24))
    matched, skipped = (b.energy for name, b in report.baselines.items() if "-bit" in name)
    with torch.no_grad():
        right = sum(int((spiking(b).argmax(-1) == y).sum()) for b, y in zip(x.split(60), labels.split(60), strict=True))
    neurons = sum(layer.compared for layer in certificate.layers)
    return {
        "spikes": sum(layer.spikes * layer.compared for layer in certificate.layers) / neurons,
        "exact": report.costs["exact"].energy.mj * 1e3,
        "paper": report.costs["paper, stem once"].energy.mj * 1e3,
        "matched": matched.mj * 1e3,
        "skipped": skipped.mj * 1e3,
        "accuracy": right / len(labels),
        "differing": certificate.differing / neurons,
    }


def energies(epochs: int) -> dict[tuple[int, int], dict[str, float]]:
    """By (n, G): networks trained for T = 1, 2, 4, 8, and the one of T = 4 in other groups of the same levels."""
    from spikevit.data import load_data, normalise

    data = load_data("digits", image_size=16)
    test = data.split("test")
    x, labels = normalise(test.images, data.info), test.labels
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for T in STEPS:
            model, own = trained(T, epochs, Path(folder)), ExpG.of(T)
            for steps, groups in CODES if own.levels == 15 else [(own.steps, own.groups)]:
                rows[steps, groups] = measured(model, ExpG(steps, groups), x, labels)
    return rows


def table(rows: dict[tuple[int, int], dict[str, float]]) -> None:
    heads = ["n", "G", "T", "L", "spikes a neuron", "`exact`, µJ", "`paper`, µJ", "ANN of as many bits, µJ"]
    heads += ["its zeros skipped, µJ", "accuracy", "codes differing"]
    print(f"\n| {' | '.join(heads)} |\n|{'---:|' * len(heads)}")
    for (steps, groups), r in sorted(rows.items(), key=lambda row: (ExpG(*row[0]).levels, row[0][1])):
        code = ExpG(steps, groups)
        print(
            f"| {steps} | {groups} | {code.time_steps} | {code.levels} | {r['spikes']:.2f} | {r['exact']:.2f}", end=""
        )
        print(f" | {r['paper']:.2f} | {r['matched']:.2f} | {r['skipped']:.2f} |", end="")
        print(f" {r['accuracy']:.1%} | {r['differing']:.2g} |".replace("%", " %"))


def draw_energy(rows: dict[tuple[int, int], dict[str, float]]) -> None:
    """Energy over T: at 15 levels in three groupings, and of networks trained for more levels."""
    figure = new_figure(9.5, 3.9)
    panels = figure.subplots(1, 2, sharey=True, width_ratios=[3, 4])
    own = [(code.steps, code.groups) for code in map(ExpG.of, STEPS)]
    titles = ("15 levels in three ways: one network", "more levels: four networks")
    for axis, keys, title in zip(panels, (CODES, own), titles, strict=True):
        for i, key in enumerate(keys):
            r = rows[key]
            axis.bar(i - 0.17, r["exact"], 0.32, color=BLUE, label="spikes, exact" if i == 0 else None)
            axis.bar(i + 0.17, r["paper"], 0.32, color="#a9c8ee", label="spikes, paper" if i == 0 else None)
            ann = "ANN with activations of as many bits" if i == 0 else None
            axis.plot([i - 0.4, i + 0.4], [r["matched"]] * 2, color=RED, linewidth=1.8, label=ann)
            ann = "the same, its zeros skipped" if i == 0 else None
            axis.plot([i - 0.4, i + 0.4], [r["skipped"]] * 2, color=RED, linewidth=1.8, linestyle=":", label=ann)
            top = max(r[what] for what in ("exact", "paper", "matched"))
            axis.text(i, top + 0.35, f"{r['accuracy']:.1%}".replace("%", " %"), ha="center", fontsize=9.5, color=INK)
        names = [f"T = {ExpG(*key).time_steps}\nn = {key[0]}, G = {key[1]}" for key in keys]
        axis.set_xticks(range(len(keys)), names, fontsize=9.5)
        axis.set_xlim(-0.6, len(keys) - 0.4)
        axis.set_title(title, fontsize=11, loc="left")
        axis.grid(axis="y", color="#dddddd", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(length=0)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(0, 1.12 * max(r["paper"] for r in rows.values()))
    panels[0].set_ylabel("energy of an image, µJ")
    panels[1].legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="upper left", fontsize=9.5)
    save(figure, "code-energy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("codes", "windows", "energy"), default=None)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "spikevit"  # the same file each time
    only = args.only or ("codes", "windows", "energy")
    if "codes" in only:
        draw_codes()
    if "windows" in only:
        draw_windows()
    if "energy" in only:
        rows = energies(args.epochs)
        draw_energy(rows)
        print(f"\n{datetime.date.today()}, {platform.machine()}, torch {torch.__version__},", end=" ")
        print(f"spikevit {spikevit.__version__}; {args.epochs} epochs each")
        table(rows)


if __name__ == "__main__":
    main()
