"""The report of one run, or of several to compare: one HTML file that opens anywhere, without a network."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from spikevit import __version__
from spikevit.checkpoint import load_model
from spikevit.data.load import load_data_of
from spikevit.data.optional import need
from spikevit.errors import inside
from spikevit.files import write_text
from spikevit.report.look import look
from spikevit.report.run_files import Run, read_run
from spikevit.report.sections import SECTIONS, title
from spikevit.report.sections.base import Shown, asset, labels, render
from spikevit.report.sections.compare import ranked

MARK = '<meta name="generator" content="spikevit'


def write_report(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    root: str | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Path:
    """Writes the report of runs (directories of training, or checkpoints) and returns its path.

    Of a run it shows the model that was converted into spikes, where there is one, else final.safetensors or
    best.safetensors. What a run lacks is said in its place.

    Args:
        out: default: report.html in the run's directory, NAME-report.html beside a checkpoint; report.html here for
            several runs. A report there is replaced, another file is not.
        root: folder of the data set, where it is not that of training.
        device: where the models run.
        options: of `look`: images, count_images, constants.

    Raises:
        ValueError: not a run, a run without a checkpoint, a broken file, or `out` is in use.
    """
    for library in ("jinja2", "matplotlib", "PIL"):
        need(library, "train")
    if not runs:
        raise ValueError("a report needs a run: the directory of a training, or a checkpoint")
    found = [read_run(path) for path in runs]
    out = Path(out or default_path(found))
    if out.suffix != ".html":
        raise ValueError(f"out={out} must end in .html: a report is a page")
    if out.exists() and not _is_report(out):
        raise ValueError(f"{out} exists already, is no report and is not overwritten; name another with --out")
    names = labels([run.name for run in found])
    shown = [_shown(run, name, root, device, progress, options) for run, name in zip(found, names, strict=True)]
    write_text(out, page(shown))
    return out


def default_path(runs: Sequence[Run]) -> Path:
    """Where a report goes."""
    if len(runs) > 1:
        return Path("report.html")
    run = runs[0]
    return Path(
        f"{Path(run.name).with_suffix('')}-report.html" if Path(run.name).is_file() else f"{run.name}/report.html"
    )


def page(runs: list[Shown]) -> str:
    """The whole page; a section that has nothing to say is left out."""
    runs = ranked(runs)
    bodies = [{"id": key, "title": called, "body": of(runs)} for key, (called, of) in SECTIONS.items()]
    return render(
        "page.html",
        title=title(runs),
        sections=[section for section in bodies if section["body"].strip()],
        style=asset("style.css"),
        script=asset("script.js"),
        version=__version__,
        date=datetime.date.today(),
    )


def _is_report(path: Path) -> bool:
    """Whether a file is a page of ours, which may be replaced."""
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return MARK in file.read(2000)


def _shown(
    run: Run,
    name: str,
    root: str | None,
    device: str | torch.device,
    progress: Callable[[int, int], None],
    options: dict[str, Any],
) -> Shown:
    model = load_model(run.checkpoint).to(device)
    try:
        source = (run.about.get("data") or {}).get("source") or {}
        data = load_data_of(run.about, root=root if source.get("root") is not None else None)  # digits have none
    except (ValueError, OSError, ImportError) as error:
        why = f"The data set could not be loaded, so that the model was not run: {error}"
        return Shown(run, model, None, why, name)
    with inside(run.checkpoint):
        return Shown(run, model, look(model, data, progress=progress, **options), name=name)
