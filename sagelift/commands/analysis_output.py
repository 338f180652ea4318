"""How `sagelift analyze`, `report`, `simulate` and `plan` print their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from sagelift.commands.console import say

if TYPE_CHECKING:
    from analysis.results import Report
    from sagelift.commands.analysis_options import OutputOptions, ReportOutput

Result = TypeVar("Result")


def show_reports(reports: Sequence[Report], output: ReportOutput) -> NoReturn:
    """Print reports and write their pages, then exit with code 1 if a check failed, else 0."""
    from analysis.render.json import to_json
    from analysis.render.markdown import to_markdown
    from analysis.render.terminal import to_terminal

    if output.html is not None:
        _write_pages(reports, output.html)
    if output.as_json:
        typer.echo("[\n" + ",\n".join(map(to_json, reports)) + "\n]")
    else:
        print_results(reports, to_markdown, to_terminal, output)
    raise typer.Exit(1 if any(check.status == "fail" for report in reports for check in report.checks) else 0)


def print_results(
    results: Sequence[Result],
    to_markdown: Callable[[Result], str],
    to_terminal: Callable[[Result], Any],
    output: OutputOptions,
) -> None:
    """Print results one after the other, as tables or as Markdown."""
    if output.markdown:
        return typer.echo("\n".join(map(to_markdown, results)), nl=False)
    from rich.console import Console

    for result in results:
        Console().print(to_terminal(result))


def _write_pages(reports: Sequence[Report], path: Path) -> None:
    from analysis.render.html import write_html

    for report in reports:
        arm = "".join(c if c.isalnum() or c in "-_" else "_" for c in report.treatment)
        page = path if len(reports) == 1 else path.with_stem(f"{path.stem}-{arm}")
        say(f"page: {write_html(report, page)}")
