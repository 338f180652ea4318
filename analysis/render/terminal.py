"""The report as a table for the terminal (rich): no colour where there is no terminal."""

from typing import TYPE_CHECKING

from analysis.render import words
from analysis.results import Report

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
    foot = Text(words.provenance(report), style="dim")
    notes = [Text(f"  {note}", style="dim") for note in words.notes(report)]
    return Group(verdict, *reasons, _table(report), *notes, *_segments(report), *_ages(report), *checks, foot)


def _segments(report: Report) -> "list[RenderableType]":
    """The metrics by segment, where there are any."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not any(result.segments for result in report.metrics):
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Metric", str(report.data.segment)):
        table.add_column(Text(name), overflow="fold")
    for name in (report.control, report.treatment, "Lift", "Interval", "adjusted p"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for result in words.in_order(report):
        for part in result.segments:
            table.add_row(
                Text(result.label),
                Text(part.segment),
                f"{part.n_control:,}",
                f"{part.n_treatment:,}",
                words.lift(part.lift),
                words.bounds(part.low, part.high),
                words.p_value(part.p_adjusted),
            )
    return [table]


def _ages(report: Report) -> "list[RenderableType]":
    """The goals by time since exposure, where it was asked for."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    goals = [result for result in words.in_order(report) if result.role == "goal"]
    if not any(result.ages for result in goals):
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Metric", "Since exposure"):
        table.add_column(name, overflow="fold")
    for name in (report.control, report.treatment, "Lift", "Interval"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for result in goals:
        for part in result.ages:
            table.add_row(
                Text(result.label),
                words.age(part.start_days, part.end_days),
                f"{part.n_control:,}",
                f"{part.n_treatment:,}",
                words.lift(part.lift),
                words.bounds(part.low, part.high),
            )
    return [table]


def _table(report: Report) -> "RenderableType":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Metric", overflow="fold")
    for name in (report.control, report.treatment, "Lift", f"{1 - report.alpha:.0%} interval", "p"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for result in words.in_order(report):
        colour = _COLOURS[words.effect(result, report)]
        marks = ([result.role] if result.role != "secondary" else []) + ["CUPED"] * ("cuped" in result.method)
        table.add_row(
            Text.assemble(result.label, (f"  {' · '.join(marks)}", "dim")),
            words.quantity(result.control, result.unit, report.data.currency),
            words.quantity(result.treatment, result.unit, report.data.currency),
            Text(words.lift(result.lift), style=colour),
            words.interval(result),
            words.p_values(result).replace(" (adjusted", "\n(adj."),
        )
    return table
