"""spikevit models: what can be made by name."""

from __future__ import annotations

import argparse
from dataclasses import fields

EXAMPLE = "examples:\n  spikevit models 'qkformer*'\n  spikevit models --markdown"
COLUMNS = ("model", "parameters", "image", "T", "GFLOPs", "published top-1, %", "quirks")
PUBLISHED = COLUMNS.index("published top-1, %")
MARKS = {"paper": "", "paper, with the batch-axis defect": "¹", "paper, 288²": "²"}
NOTES = (
    "GFLOPs: dense multiply-accumulates of one image over all T steps, as papers count them.",
    "Published accuracies are those of the papers, not measured here: ¹ with the batch-axis defect; ² at 288×288.",
    "Quirks: options for defects of released code that published weights need, off by default.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A pattern, and how to print."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names (default: all)")
    parser.add_argument("--markdown", action="store_true", help="as the table of the README")


def run(args: argparse.Namespace) -> int:
    """A table of names, sizes, operations, published accuracies and quirks."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from spikevit.models import list_models

    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; all of them: {', '.join(list_models())}")
    if args.markdown:
        print("\n".join(markdown(names)))
        return 0
    table = Table(*COLUMNS, box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    for i, column in enumerate(table.columns):
        column.no_wrap = i < PUBLISHED
        column.overflow = "fold"
        column.justify = "right" if 1 <= i < PUBLISHED else "left"
    for name in names:
        table.add_row(*row(name))
    console = Console(highlight=False)
    console.print(table)
    for note in NOTES:
        console.print(note, style="dim")
    return 0


def markdown(names: list[str]) -> list[str]:
    """The lines of a Markdown table, and its notes."""
    rule = ["---" if i in (0, *range(PUBLISHED, len(COLUMNS))) else "---:" for i in range(len(COLUMNS))]
    rows = [[f"`{name}`", *cells] for name, *cells in map(row, names)]
    return [*(f"| {' | '.join(cells)} |" for cells in [COLUMNS, rule, *rows]), "", *(f"{note}  " for note in NOTES)]


def row(name: str) -> tuple[str, ...]:
    """What is known of a model, without making its weights."""
    import torch

    from spikevit.models import create_model
    from spikevit.models.published import published
    from spikevit.profiling.count import count_shapes

    with torch.device("meta"):
        model = create_model(name).eval()
    c, counts = model.config, count_shapes(model)
    known = ", ".join(f"{r.data} {r.top1:.2f}{MARKS[r.note]}" for r in published(name))
    return (
        name,
        f"{sum(p.numel() for p in model.parameters()):,}",
        f"{c.in_channels}×{c.image_size[0]}×{c.image_size[1]}",
        str(c.time_steps),
        f"{counts.macs / 1e9:.2f}",
        known or ("–" if name.endswith("_tiny") else "not known"),
        ", ".join(f.name for f in fields(c) if f.name.startswith("legacy_")),
    )
