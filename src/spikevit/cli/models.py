"""spikevit models: what can be made by name."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import NamedTuple

EXAMPLE = "examples:\n  spikevit models 'qkformer*'\n  spikevit models --markdown"
COLUMNS = ("model", "parameters", "image", "T", "GMAC", "ANN, mJ", "published top-1, %", "published mJ")
LEFT = ("model", "published top-1, %")
ACCURACY_MARKS = {"paper": "", "paper, with the batch-axis defect": "¹", "paper, 288²": "²"}
QUIRK_MARKS = {"legacy_batch_leak": "†", "legacy_sml_mixing": "‡"}
NOTES = (
    "GMAC: dense multiply-accumulates of one image over all T steps, its first convolution once, as it runs; papers "
    "charge that one at every step. Of ge2mst, which is trained without a time axis, those of its one pass.",
    "ANN: the same network without spikes, each product in bounds once, at 4.6 pJ (fp32, 45 nm). It is not the fairest "
    "opponent: fewer bits and skipped zeros make it cheaper, see `spikevit profile`.",
    "Published figures are those of the papers, not measured here: ¹ with the batch-axis defect; ² at 288×288 (its "
    "energy: not said at which size). The energies are of several conventions.",
    "Quirks, options for defects of released code that published weights need, off by default: † legacy_batch_leak; "
    "‡ legacy_sml_mixing.",
)


class Row(NamedTuple):
    """What is known of a model, as text; its fields but `quirks` are COLUMNS."""

    model: str
    parameters: str
    image: str
    time_steps: str
    gmac: str
    ann: str
    accuracy: str
    energy: str
    quirks: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A pattern, and how to print."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names (default: all)")
    parser.add_argument("--markdown", action="store_true", help="as the table of the README")


def run(args: argparse.Namespace) -> int:
    """A table of names, sizes, operations, energy, published figures and quirks."""
    from spikevit.models import list_models
    from spikevit.report.terminal import console

    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; all of them: {', '.join(list_models())}")
    if args.markdown:
        print("\n".join(markdown(names)))
        return 0
    shown = console()
    shown.print(table(names), "")
    for note in NOTES:
        shown.print(note, style="dim")
    return 0


def table(names: list[str]):
    """For a terminal of 80 columns: the published figures share the last one."""
    from spikevit.report.terminal import Table

    shown = Table(collapse_padding=True, show_edge=False)
    for column in COLUMNS[:-2]:
        shown.add_column(column, no_wrap=column != "ANN, mJ", justify="left" if column in LEFT else "right")
    shown.add_column("published", overflow="fold")
    for r in map(row, names):
        published = f"{r.accuracy}; {r.energy} mJ" if r.energy else r.accuracy
        mark = f" {r.quirks}" if r.quirks else ""
        shown.add_row(r.model + mark, r.parameters, r.image, r.time_steps, r.gmac, r.ann, published)
    return shown


def markdown(names: list[str]) -> list[str]:
    """The lines of a Markdown table, and its notes."""
    rule = ["---" if column in LEFT else "---:" for column in COLUMNS]
    rows = [[f"`{r.model}`{r.quirks}", *r[1:-1]] for r in map(row, names)]
    return [*(f"| {' | '.join(cells)} |" for cells in [COLUMNS, rule, *rows]), "", *(f"{note}  " for note in NOTES)]


def row(name: str) -> Row:
    """What is known of a model, without making its weights."""
    import torch

    from spikevit.models import create_model
    from spikevit.models.published import published
    from spikevit.profiling.baselines import dense
    from spikevit.profiling.count import count_shapes
    from spikevit.profiling.published import published_energy

    with torch.device("meta"):
        model = create_model(name).eval()
    c, counts = model.config, count_shapes(model)
    known = ", ".join(f"{r.data} {r.top1:.2f}{ACCURACY_MARKS[r.note]}" for r in published(name))
    energy = published_energy(name)
    return Row(
        model=name,
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        image=f"{c.image_size[0]}×{c.image_size[1]}",
        time_steps=str(c.time_steps),
        gmac=f"{counts.macs / 1e9:.2f}",
        ann=f"{dense(counts).mj:.2f}",
        accuracy=known or ("–" if name.endswith("_tiny") or name.startswith("ge2mst") else "not known"),
        energy=f"{energy.mj:.2f}" if energy else "",
        quirks="".join(QUIRK_MARKS[f.name] for f in fields(c) if f.name.startswith("legacy_")),
    )
