"""spikevit models: what can be made by name."""

from __future__ import annotations

import argparse
from dataclasses import fields

EXAMPLE = "examples:\n  spikevit models 'qkformer*'\n  spikevit models --markdown"
COLUMNS = ("model", "parameters", "image", "T", "dense GFLOPs", "published top-1, %", "quirks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A pattern, and how to print."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names (default: all)")
    parser.add_argument("--markdown", action="store_true", help="as the table of the README")


def run(args: argparse.Namespace) -> int:
    """A table of names, sizes, operations, published accuracies and quirks."""
    from rich.console import Console
    from rich.table import Table

    from spikevit.models import list_models

    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; all of them: {', '.join(list_models())}")
    if args.markdown:
        print("\n".join(markdown(names)))
        return 0
    table = Table(*COLUMNS, caption="GFLOPs: multiply-accumulates of one image over all T steps, as papers count them")
    for column in table.columns[1:5]:
        column.justify = "right"
    for name in names:
        table.add_row(*row(name))
    Console().print(table)
    return 0


def markdown(names: list[str]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [" | ".join(COLUMNS), "|".join("---" if i in (0, 5, 6) else "---:" for i in range(len(COLUMNS)))]
    lines += [" | ".join([f"`{cells[0]}`", *cells[1:]]) for cells in map(row, names)]
    return [f"| {line} |" if "---" not in line else f"|{line}|" for line in lines]


def row(name: str) -> tuple[str, ...]:
    """What is known of a model, without making its weights."""
    import torch

    from spikevit.models import create_model
    from spikevit.models.published import published
    from spikevit.profiling.count import dense_macs

    with torch.device("meta"):
        model = create_model(name).eval()
    c = model.config
    results = published(name)
    notes = sorted({result.note for result in results})
    known = ", ".join(f"{result.data} {result.top1:.2f}" for result in results)
    return (
        name,
        f"{sum(p.numel() for p in model.parameters()):,}",
        f"{c.in_channels}×{c.image_size[0]}×{c.image_size[1]}",
        str(c.time_steps),
        f"{dense_macs(model) / 1e9:.2f}",
        f"{known} ({'; '.join(notes)})" if known else "–" if name.endswith("_tiny") else "not known",
        ", ".join(f.name for f in fields(c) if f.name.startswith("legacy_")),
    )
