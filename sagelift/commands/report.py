"""`sagelift report`: the lift of an experiment in the experiment database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from sagelift.commands.analysis_options import ArmOptions, MonitoringOptions, ReportOutput, StatisticsOptions
from sagelift.commands.analysis_output import show_reports
from sagelift.commands.console import current_settings
from sagelift.commands.option_groups import expand_options
from sagelift.commands.times import parse_time

if TYPE_CHECKING:
    from analysis.columns import Window


@dataclass(frozen=True)
class ExperimentDataOptions:
    """The data that is read from the experiment database."""

    panel: ClassVar[str] = "Data"

    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics", help="YAML file that declares metrics and exchange rates. Default: a shop's usual metrics."
        ),
    ] = None
    window_days: Annotated[float, typer.Option(min=0.01, help="Number of days after first exposure that count.")] = 14.0
    complete_windows: Annotated[
        bool, typer.Option("--complete-windows", help="Leave out units whose window has not ended.")
    ] = False
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Read nothing newer than this time: 2026-06-15 or 2026-06-15T08:00+02:00; UTC without a zone. "
            "Default: now."
        ),
    ] = None
    segment: Annotated[
        str | None,
        typer.Option(
            help="Attribute that exposures record, or column of a table with unit_id: customer.country. Default: none."
        ),
    ] = None
    by_age: Annotated[
        float | None,
        typer.Option(
            help="Step in days for metrics by time since first exposure (novelty); 0 leaves them out. Default: a "
            "seventh of the window."
        ),
    ] = None

    @property
    def window(self) -> timedelta:
        """Time after first exposure that counts."""
        return timedelta(days=self.window_days)

    def ages(self) -> dict[str, tuple[Window, ...]]:
        """The argument `ages` of `analysis.report.analyze_arms`; none when `by_age` is 0."""
        from analysis.novelty import age_windows

        if self.by_age == 0:
            return {}
        step = timedelta(days=self.window_days / 7 if self.by_age is None else self.by_age)
        return {"ages": tuple(age_windows(self.window, step))}

    def segments(self) -> Any:
        """The segments as `ExperimentTables` takes them: None, an attribute, or a table and its column.

        Raises:
            typer.BadParameter: The table or the column is missing.
        """
        table, dot, column = (self.segment or "").rpartition(".")
        if not dot:
            return self.segment
        if not (table and column):
            raise typer.BadParameter(
                f"{self.segment!r} must look like country or customer.country.", param_hint="--segment"
            )
        return table, column


@expand_options
def report(
    experiment: Annotated[str, typer.Argument(help="Key of the experiment.")],
    arms: ArmOptions,
    data: ExperimentDataOptions,
    statistics: StatisticsOptions,
    monitoring: MonitoringOptions,
    output: ReportOutput,
) -> None:
    """Compute the lift of an experiment: table, JSON, page.

    Exit code 1 when a check fails.
    """
    from analysis.config import Declarations, load_metrics
    from analysis.metrics import shop_metrics
    from analysis.report import analyze_arms
    from analysis.sources.experiment_tables import ExperimentTables
    from sagelift.services import Services

    declared = load_metrics(data.metrics) if data.metrics else Declarations(shop_metrics())
    segments, expected_split = data.segments(), arms.expected_split()
    as_of = None if data.as_of is None else parse_time(data.as_of, "--as-of", naive_is_utc=True)
    arguments = statistics.arguments() | monitoring.arguments() | data.ages()
    with Services(current_settings()) as services:
        source = ExperimentTables(
            services.experiments.engine,
            experiment,
            window=data.window,
            as_of=as_of,
            complete_windows_only=data.complete_windows,
            rates=declared.rates,
            segments=segments,
        )
        reports = analyze_arms(
            source,
            declared.metrics,
            arms.control,
            arms.treatment or None,
            expected_split,
            title=experiment,
            **arguments,
        )
    show_reports(reports, output)
