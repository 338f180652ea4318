"""`sagelift features materialize`: copy the history into the online store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say
from sagelift.commands.engines import EngineOptions, spark_engine
from sagelift.commands.option_groups import expand_options
from sagelift.commands.times import parse_time

if TYPE_CHECKING:
    from feature_repo.jobs.materialize import Progress, Summary, ViewSummary

ViewOption = Annotated[list[str] | None, typer.Option("--view", help="Only this view; repeatable. Default: all views.")]


@dataclass(frozen=True)
class MaterializeOptions:
    """What is materialized."""

    view: ViewOption = None
    since: Annotated[str | None, typer.Option(help="First event time, such as 2026-03-01T00:00:00Z.")] = None
    until: Annotated[str | None, typer.Option(help="Last event time, inclusive.")] = None
    full: Annotated[
        bool, typer.Option("--full", help="The whole history, including rows whose version is already online.")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written, and write nothing.")] = False


@expand_options
def materialize(options: MaterializeOptions, engine: EngineOptions, as_json: AsJson = False) -> None:
    """Copy the history into the online store: rows that no earlier run wrote, a time window, or all rows.

    A run that was killed resumes when the same command runs again. Exit code 0: done, and both sides are equal;
    1: they differ; 3: a view failed; 4: another run holds the lock of a view.
    """
    since = None if options.since is None else parse_time(options.since, "--since")
    until = None if options.until is None else parse_time(options.until, "--until")

    from feature_repo.jobs import materialize as job
    from sagelift.progress import Stages
    from sagelift.services import Services

    with (
        Services(current_settings()) as services,
        spark_engine(engine) as spark,
        Stages().stage("materialize", "Materializing") as stage,
    ):

        def show(progress: Progress) -> None:
            note = f"{progress.view} {progress.rows_per_s:,.0f} rows/s, {progress.seconds_left:,.0f} s left"
            stage.update(progress.done, progress.total, note)

        summary = job.materialize(
            services.features,
            views=options.view or (),
            since=since,
            until=until,
            full=options.full,
            dry_run=options.dry_run,
            engine=spark,
            progress=show,
        )
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary)
    raise typer.Exit(summary.exit_code)


def _print_summary(summary: Summary) -> None:
    for view in summary.views:
        typer.echo(f"{view.view:<32} {view.outcome:<8} {_view_text(view)}")
        if view.message:
            say(f"sagelift: {view.message}")


def _view_text(view: ViewSummary) -> str:
    if view.outcome in ("locked", "failed"):
        return ""
    verb = "to write" if view.outcome == "dry_run" else "written"
    text = f"{view.products:,} products in {view.parts:,} parts: {view.written:,} {verb}, {view.kept:,} kept"
    if view.resumed:
        text += f", {view.resumed:,} from an earlier run"
    result = view.reconciliation
    if result is None:
        return text
    return f"{text}; {view.rows_per_s:,.0f} rows/s; {result.equal:,} equal, {result.fresher:,} fresher online"
