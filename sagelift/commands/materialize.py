"""`sagelift features materialize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say
from sagelift.commands.engines import EngineName, EngineOption, MasterOption, spark_engine
from sagelift.commands.times import instant

if TYPE_CHECKING:
    from feature_repo.jobs.materialize import Summary, ViewSummary

ViewOption = Annotated[list[str] | None, typer.Option("--view", help="Only this view; give it again for more.")]


def features_materialize(
    view: ViewOption = None,
    since: Annotated[str | None, typer.Option(help="First event time, such as 2026-03-01T00:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Last event time.")] = None,
    full: Annotated[bool, typer.Option("--full", help="The whole history, rows of an equal version too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    engine: EngineOption = EngineName.LOCAL,
    master: MasterOption = None,
    as_json: AsJson = False,
) -> None:
    """Bring the history into the online store: what no run has seen yet, a window, or all of it.

    Killed at any moment, the same call goes on where it stopped. Exit code 0: done, and both sides are equal; 1: they
    differ; 3: a view could not be done; 4: another run is at one of the views.
    """
    first, last = instant(since), instant(until)

    from feature_repo.jobs.materialize import Progress, materialize
    from sagelift.progress import Stages
    from sagelift.services import Services

    with (
        Services(current_settings()) as services,
        spark_engine(engine, master) as spark,
        Stages().stage("materialize", "Materialising") as stage,
    ):

        def tell(progress: Progress) -> None:
            note = f"{progress.view} {progress.rows_per_s:,.0f} rows/s, {progress.seconds_left:,.0f} s left"
            stage.update(progress.done, progress.total, note)

        summary = materialize(
            services.features,
            views=view or (),
            since=first,
            until=last,
            full=full,
            dry_run=dry_run,
            engine=spark,
            progress=tell,
        )
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary)
    raise typer.Exit(summary.exit_code)


def _print_summary(summary: Summary) -> None:
    for view in summary.views:
        typer.echo(f"{view.view:<32} {view.outcome:<8} {_told(view)}")
        if view.message:
            say(f"sagelift: {view.message}")


def _told(view: ViewSummary) -> str:
    if view.outcome in ("locked", "failed"):
        return ""
    verb = "to write" if view.outcome == "dry_run" else "written"
    told = f"{view.products:,} products in {view.parts:,} parts: {view.written:,} {verb}, {view.kept:,} kept"
    if view.resumed:
        told += f", {view.resumed:,} from a run before"
    if view.reconciliation is None:
        return told
    found = view.reconciliation
    return f"{told}; {view.rows_per_s:,.0f} rows/s; {found.equal:,} equal, {found.fresher:,} fresher online"
