"""What the terminal shows: tables and text, as they are. Brackets are no markup, and nothing steers the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rich.table
from rich import box
from rich.console import Console, Group
from rich.text import Text

from spikevit.adaptive import DynamicTimeSteps
from spikevit.adaptive.adapted import own_name
from spikevit.conversion.certificate import Certificate
from spikevit.conversion.planner import Plan
from spikevit.errors import printable
from spikevit.models import SpikingModel
from spikevit.neurons import ExpG
from spikevit.profiling.check import Check
from spikevit.profiling.counts import SHIFT
from spikevit.profiling.profile import NOTE, Report, energy_unit


def words(text: str, style: str = "") -> Text:
    """A text, of which a name that steers terminals shows as what it is."""
    return Text("\n".join(map(printable, text.split("\n"))), style=style)


class Plain(Console):
    """A terminal that shows strings as they are."""

    def render_str(self, text: str, *, style: Any = "", **_options: Any) -> Text:
        return words(text, style)


def console(stderr: bool = False) -> Plain:
    """The terminal that every verb prints on."""
    return Plain(stderr=stderr, markup=False, emoji=False, highlight=False)


class Table(rich.table.Table):
    """A table of texts as they are, on any console."""

    def __init__(self, title: str | None = None, **options: Any):
        plain: dict[str, Any] = {"box": box.SIMPLE, "title_justify": "left", "pad_edge": False}
        super().__init__(title=None if title is None else words(title, "bold"), **(plain | options))

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        super().add_column(words(header) if isinstance(header, str) else header, *args, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(words(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def alarms(*said: str) -> Group:
    """Sentences in red, of those that are not empty: what makes figures worthless."""
    return Group(*(words(f"{line[0].upper()}{line[1:]}.", "bold red") for line in said if line))


def summary(
    accuracies: Mapping[str, float], images: int, model: SpikingModel, rates: Mapping[str, float], report: Report
) -> Group:
    """Accuracies, firing rate of every layer of neurons, operations and energy per image."""
    e = report.costs["exact"].energy
    facts = Table(f"{model.name}")
    facts.show_header = False
    for name, accuracy in accuracies.items():
        facts.add_row(f"test accuracy, {name}", f"{accuracy:.2%} ({round(accuracy * images)} of {images})")
    for name, value in (
        ("time steps", f"{model.config.time_steps}"),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("firing rate", f"{sum(rates.values()) / len(rates):.1%} per neuron and step, mean over layers"),
        ("operations", f"{e.acs / 1e6:.2f} M additions, {e.macs / 1e6:.2f} M multiply-accumulates an image"),
    ):
        facts.add_row(name, value)
    layers = Table("Firing rates")
    layers.add_column("layer of neurons")
    layers.add_column("rate", justify="right")
    layers.add_column("")
    for name, rate in rates.items():
        layers.add_row(name, f"{rate:.1%}", "█" * round(rate * 40))
    return Group(words(""), layers, facts, totals(report))


def time_steps(model: DynamicTimeSteps) -> Group:
    """Which time steps of every layer of neurons pass spikes."""
    table = Table(f"Open time steps of {model.config.time_steps}, mean {model.mean_steps:.2f}")
    table.add_column("layer of neurons")
    table.add_column("steps", justify="right")
    table.add_column("")
    for name, mask in model.table().items():
        table.add_row(own_name(name), f"{sum(mask)}", "".join("█" if passes else "·" for passes in mask))
    return Group(words(""), table)


def totals(report: Report) -> Group:
    """Energy by every convention; the same network as an ANN; at which activity spikes stop paying off."""
    scale, unit = energy_unit([report.baselines["ANN"].energy.mj])
    table = Table(f"Energy of one image by convention — {NOTE}")
    for column in ("convention", "M MAC", "M AC", unit, "± over images"):
        table.add_column(column, justify="left" if column == "convention" else "right")
    for name, cost in report.costs.items():
        e, spread = cost.energy, cost.spread
        shown = "" if spread is None else f"{spread * scale:.3f}"
        table.add_row(name, f"{e.macs / 1e6:.3f}", f"{e.acs / 1e6:.3f}", f"{e.mj * scale:.3f}", shown)
    against = Table("The same network without spikes: below 1 × spikes cost less")
    for column in ("", unit, "spikes ÷ it", f"{unit}, memory too", "spikes ÷ it"):
        against.add_column(column, justify="right" if column else "left")
    for row in report.opponents():
        ratios = ["" if row[key] is None else f"{row[key]:.2f} ×" for key in ("ratio", "memory_ratio")]
        energies = [f"{row[key] * scale:.3f}" for key in ("mj", "memory_mj")]
        against.add_row(row["name"], energies[0], ratios[0], energies[1], ratios[1])
    c = report.constants
    return Group(
        table,
        against,
        alarms(report.counts.silence),
        *(words(line, style="dim") for line in (report.activity(), *report.break_even())),
        words(f"{c.name}: {c.about}; MAC {c.mac:g} pJ, AC {c.add:g} pJ, shift {c.shift:g} pJ.", style="dim"),
    )


def costs(report: Report) -> Group:
    """All of a report: layers, totals, and what no total contains."""
    layers = Table(f"{report.model}: every product, per image")
    for column in ("module", "operand", "non-zero", "M dense", "M executed", "µJ"):
        layers.add_column(column, justify="left" if column in ("module", "operand") else "right")
    layers.columns[0].no_wrap = True
    for row in report.layers():
        if not (operands := row["operands"]):
            continue
        executed = [f"{row[key] / 1e6:.3f} {word}" for key, word in (("macs", "MAC"), ("acs", "AC ")) if row[key]]
        layers.add_row(
            row["module"],
            " × ".join(o["class"] for o in operands),
            " × ".join(f"{o['rate']:.0%}" for o in operands),
            f"{row['dense'] / 1e6:.3f}",
            "\n".join(executed) or "–",
            f"{row['exact_mj'] * 1e3:.3f}",
        )
    return Group(layers, *_parts(report), totals(report), *_left_out(report))


def _parts(report: Report) -> list[Table]:
    """Firing rates of q, k, v, … of every mixer."""
    rows = report.attention_rates()
    if not rows:
        return []
    table, names = Table("Firing rates of the parts of attention"), dict.fromkeys(p for r in rows.values() for p in r)
    for column in ("mixer", *names):
        table.add_column(column, justify="left" if column == "mixer" else "right", no_wrap=column == "mixer")
    for mixer, rates in rows.items():
        table.add_row(mixer, *(f"{rates[name]:.1%}" if name in rates else "" for name in names))
    return [table]


def _left_out(report: Report) -> list[Text]:
    """What the totals lack, in words."""
    lines, others = [], [(name, n) for name, n in report.others().items() if name != SHIFT]
    if others:
        named = ", ".join(f"{name} {n:,.0f}" for name, n in others)
        lines.append(words(f"Charged by no convention (entries an image; batch norm by syops): {named}.", style="dim"))
    for other in report.counts.uncounted:
        where = other.module or "the model itself"
        lines.append(words(f"NOT COUNTED: operator {other.operator} in {where}, {other.calls} calls", style="bold red"))
    return lines


def verdicts(check: Check, *, show_all: bool = False) -> Group:
    """What a rule says of every product."""
    rule, failed = check.rule, [v for v in check.verdicts if not v.passed]
    title = (
        f"{rule.name}: {'passed' if check.passed else f'{len(failed)} of {len(check.verdicts)} fail'} — {rule.about}"
    )
    shown = check.verdicts if show_all else failed
    if not shown:
        return Group(alarms(check.silence), words(title, style="bold"))
    table = Table(title)
    for column in ("", "module", "operands", "why"):
        table.add_column(column, no_wrap=column == "module")
    for v in shown:
        mark = words("pass", style="green") if v.passed else words("fail", style="red")
        table.add_row(mark, v.module, " × ".join(v.operands) or v.operator, v.reason)
    return Group(alarms(check.silence), table)


def certificate(c: Certificate) -> Group:
    """What was compared, layer by layer, and the verdict."""
    table = Table(f"Certificate on {c.images} images, {'exact mode' if c.exact else 'not exact'}")
    for column in ("layer", "n, G", "compared", "differ", "codes used", "spikes"):
        left = column in ("layer", "n, G")
        table.add_column(column, justify="left" if left else "right", no_wrap=column == "layer")
    for layer in c.layers:
        differ = f"{layer.differing} (by {layer.largest})" if layer.differing else "0"
        used = f"{layer.distinct} of {layer.codes}{' DEAD' if layer.flagged else ''}"
        code = ExpG.from_plain(*layer.code)
        shape = f"{code.steps}, {code.groups}" + (" by group" if code.order == "group" else "")
        spikes = f"{layer.spikes:.2f}{' NOT 0 OR 1' if layer.not_binary else ''}"
        table.add_row(layer.name, shape, f"{layer.compared:,}", differ, used, spikes)
    note = "spikes: a neuron's, for one image, on average."
    same = f" Top-1 agreement {c.agreement:.2%}; logits differ by {c.logits:.3g} at most."
    style = "bold green" if c.lossless else "bold red"
    why = [words(f"Not exact: {reason}.", style="dim") for reason in c.reasons]
    return Group(table, words(note, style="dim"), *why, words(c.verdict + same, style=style))


def plan(p: Plan) -> Group:
    """Before and after of every layer, and of the network."""
    table = Table(f"Plan from {p.images} images; L levels, n steps in each of G groups, T = n·G")
    for column in ("layer", "neurons", "L", "n, G", "T", "θ", "spikes a neuron", "counted", "error"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=column == "layer")

    def change(before: Any, after: Any) -> str:
        return f"{before}" if before == after else f"{before} → {after}"

    for layer in p.layers:
        old, new = layer.before, layer.after
        table.add_row(
            layer.name,
            f"{layer.neurons:,}",
            change(old.code.levels, new.code.levels),
            change(f"{old.code.steps}, {old.code.groups}", f"{new.code.steps}, {new.code.groups}"),
            change(old.code.time_steps, new.code.time_steps),
            "" if new.threshold == 1 else f"× {new.threshold:.2f}",
            change(f"{old.spikes:.2f}", f"{new.spikes:.2f}"),
            "" if layer.counted is None else f"{layer.counted:.2f}",
            change(f"{old.error:.3f}", f"{new.error:.3f}"),
        )
    counted = "" if p.counted is None else f" (counted: {p.counted:,.0f})"
    least = f"Spikes an image {change(f'{p.before.spikes:,.0f}', f'{p.after.spikes:,.0f}')}{counted}"
    error = change(f"{p.before.error:.3f}", f"{p.after.error:.3f}")
    return Group(
        table,
        words(f"{least}; T at most {change(p.before.steps, p.after.steps)}; error {error}.", style="bold"),
        words(
            "Error: relative RMS of what the neurons decode to against their unrounded input, up to the threshold; of "
            f"the network, RMS over layers. {len(p.front)} plans are on the front of spikes, T and error.",
            style="dim",
        ),
    )
