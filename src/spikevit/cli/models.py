"""spikevit models: what can be made by name."""

from __future__ import annotations

import argparse

EXAMPLE = "example:\n  spikevit models 'qkformer*'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A pattern."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names (default: all)")


def run(args: argparse.Namespace) -> int:
    """A table of names, sizes and inputs."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from spikevit.models import create_model, list_models

    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; all of them: {', '.join(list_models())}")
    table = Table("model", "parameters", "image", "T", "classes")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        with torch.device("meta"):
            model = create_model(name)
        c = model.config
        parameters = f"{sum(p.numel() for p in model.parameters()):,}"
        image = f"{c.in_channels}×{c.image_size[0]}×{c.image_size[1]}"
        table.add_row(name, parameters, image, str(c.time_steps), str(c.num_classes))
    Console().print(table)
    return 0
