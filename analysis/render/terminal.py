"""The report for the terminal, with rich: no colour where the output is not a terminal."""

from typing import TYPE_CHECKING

from analysis.render import wording
from analysis.results import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLOURS = {"good": "green", "bad": "red", "open": "", "ok": "green", "warn": "yellow", "fail": "bold red"}
_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
_VERDICT_COLOURS = {"ship": "green", "do not ship": "red", "keep running": "cyan", "cannot trust": "bold red"}


def to_terminal(report: Report) -> "RenderableType":
    """Return the report in a form that `rich.console.Console.print` shows."""
    from rich.console import Group
    from rich.text import Text

    verdict = Text.assemble(
        (wording.CONCLUSIONS[report.verdict.conclusion], f"bold {_VERDICT_COLOURS[report.verdict.conclusion]}"),
        f"   {report.title}: {report.treatment} against {report.control}",
    )
    reasons = [Text(f"  {reason}") for reason in report.verdict.reasons]
    checks = [
        Text.assemble(
            (f"{_MARKS[check.status]} {wording.check_name(check.name)}", _COLOURS[check.status]), f"  {check.sentence}"
        )
        for check in report.checks
    ]
    foot = Text(wording.provenance(report), style="dim")
    notes = [Text(f"  {note}", style="dim") for note in wording.notes(report)]
    return Group(verdict, *reasons, _table(report), *notes, *_segments(report), *_ages(report), *checks, foot)


def _segments(report: Report) -> "list[RenderableType]":
    """Return the table of the metrics by segment; empty without segments."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not any(result.segments for result in report.metrics):
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Metric", str(report.data.segment)):
        table.add_column(Text(name), overflow="fold")
    for name in (report.control, report.treatment, "Lift", "Interval", "Adjusted p"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for result in wording.by_role(report):
        for part in result.segments:
            table.add_row(
                Text(result.label),
                Text(part.segment),
                f"{part.n_control:,}",
                f"{part.n_treatment:,}",
                wording.lift(part.lift),
                wording.bounds(part.low, part.high),
                wording.p_value(part.p_adjusted),
            )
    return [table]


def _ages(report: Report) -> "list[RenderableType]":
    """Return the table of the goals by time since exposure; empty without ages."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    goals = [result for result in wording.by_role(report) if result.role == "goal"]
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
                wording.age(part.start_days, part.end_days),
                f"{part.n_control:,}",
                f"{part.n_treatment:,}",
                wording.lift(part.lift),
                wording.bounds(part.low, part.high),
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
    for result in wording.by_role(report):
        colour = _COLOURS[wording.effect(result, report)]
        marks = ([result.role] if result.role != "secondary" else []) + ["CUPED"] * ("cuped" in result.method)
        table.add_row(
            Text.assemble(result.label, (f"  {' · '.join(marks)}", "dim")),
            wording.quantity(result.control, result.unit, report.data.currency),
            wording.quantity(result.treatment, result.unit, report.data.currency),
            Text(wording.lift(result.lift), style=colour),
            wording.interval(result),
            wording.p_values(result).replace(" (adjusted", "\n(adj."),
        )
    return table
