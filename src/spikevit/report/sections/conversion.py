"""The conversion into spikes: its certificate, codes of each layer, and spikes against T."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from spikevit.neurons import ExpG, ExpGIF
from spikevit.report import svg
from spikevit.report.pieces import Cell, Chart, chart, number, table
from spikevit.report.sections.base import Shown, render


def conversion(runs: list[Shown]) -> Markup:
    """The certificate: codes of each layer, and spikes against T; nothing where no run was converted."""
    return render("conversion.html", many=len(runs) > 1, runs=[_converted(shown, i) for i, shown in enumerate(runs)])


def _converted(shown: Shown, place: int) -> dict[str, Any]:
    c = shown.run.certificate
    if c is None:
        converted = any(isinstance(m, ExpGIF) for m in shown.model.modules())
        why = "This network was converted; its certificate is not beside it." if converted else ""
        said = shown.run.missing.get("conversion", why)
        return {"name": shown.name, "missing": [said] if said else [], "verdict": ""}
    rows, spikes, codes = [], {}, {}
    for layer in c.layers:
        code = ExpG.from_plain(*layer.code)
        spikes[layer.name] = layer.spikes, code.time_steps
        codes[layer.name] = layer.distinct, layer.codes
        used = Cell(f"{layer.distinct} of {layer.codes}{', dead' if layer.flagged else ''}", layer.distinct)
        shape = [code.steps, code.groups, code.time_steps, code.order]
        compared = [layer.compared, layer.differing, used, number(layer.spikes), layer.not_binary]
        rows.append([layer.name, *shape, *compared])
    verdict = c.verdict if c.lossless else f"Not shown to be lossless: {c.verdict}"
    of_code = ("n", "G", "T = n·G", "order")
    heads = ("layer", *of_code, "codes", "differ", "codes used", "spikes a neuron", "not 0 or 1")
    return {
        "name": shown.name,
        "missing": [],
        "lossless": c.lossless,
        "verdict": f"{verdict} Top-1 agreement {c.agreement:.2%}; logits differ by {c.logits:.3g} at most.",
        "charts": [
            _by_layer(f"conversion-spikes-{place}", spikes, "spikes of a neuron for one image", "its time steps T"),
            _by_layer(f"conversion-codes-{place}", codes, "codes in use", "how many there are"),
        ],
        "layers": table(f"certificate-{place}", "The certificate, layer by layer", heads, rows, sortable=True),
        "files": {
            "mode": "exact: no sum can round" if c.exact else f"not exact: {'; '.join(c.reasons) or 'float'}",
            "SHA-256 of both networks": c.model,
            "SHA-256 of the images": c.data,
            **{name: str(value) for name, value in c.versions.items()},
        },
    }


def _by_layer(name: str, rows: Mapping[str, tuple[float, float]], bar: str, mark: str) -> Chart:
    """A bar for each layer, and a mark at what it may reach."""
    data = [{"layer": layer, bar: value, mark: most} for layer, (value, most) in rows.items()]
    values = {layer: {bar: value} for layer, (value, _) in rows.items()}
    drawn = svg.bars(values, bar, marks={layer: most for layer, (_, most) in rows.items()})
    return chart(name, drawn, f"By layer: {bar}, and {mark}", f"The mark is {mark}", rows=data, wide=True)
