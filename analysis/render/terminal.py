"""The report as a table for the terminal (rich): no colour where there is no terminal."""

from typing import TYPE_CHECKING

from analysis.render import words
from analysis.report import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLOURS = {"good": "green", "bad": "red", "open": "", "ok": "green", "warn": "yellow", "fail": "bold red"}
_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
_VERDICT_COLOURS = {"ship": "green", "do not ship": "red", "keep running": "cyan", "cannot trust": "bold red"}


def to_terminal(report: Report) -> "RenderableType":
    """Something that `rich.console.Console.print` shows."""
    from rich.console import Group
    from rich.text import Text

    verdict = Text.assemble(
        (words.VERDICTS[report.decision.verdict], f"bold {_VERDICT_COLOURS[report.decision.verdict]}"),
        f"   {report.title}: {report.treatment} against {report.control}",
    )
    reasons = [Text(f"  {reason}") for reason in report.decision.reasons]
    checks = [
        Text.assemble(
            (f"{_MARKS[check.status]} {words.check_name(check.name)}", _COLOURS[check.status]), f"  {check.sentence}"
        )
        for check in report.checks
    ]
    data = report.data
    versions = ", ".join(map(str, data.config_versions)) or words.DASH
    foot = Text(
        f"Data until {words.when(data.cut_off)}, config version {versions}. {words.method(report)}", style="dim"
    )
    return Group(verdict, *reasons, _table(report), *checks, foot)


def _table(report: Report) -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Metric")
    for name in (report.control, report.treatment, "Lift", f"{1 - report.alpha:.0%} interval", "p"):
        table.add_column(Text(name), justify="right")
    for result in words.in_order(report):
        colour = _COLOURS[words.effect(result, report.alpha)]
        marks = ([result.role] if result.role != "secondary" else []) + ["CUPED"] * ("cuped" in result.method)
        table.add_row(
            Text.assemble(result.label, (f"  {' · '.join(marks)}", "dim")),
            words.quantity(result.control, result.unit, report.data.currency),
            words.quantity(result.treatment, result.unit, report.data.currency),
            Text(words.lift(result.lift), style=colour),
            words.interval(result),
            words.p_value(result.p),
        )
    return table
