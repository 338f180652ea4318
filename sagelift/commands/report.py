"""`sagelift report`: the lift of an experiment in the experiment database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from sagelift.commands.analysis_options import MonitoringOptions, ReportOutput, StatisticsOptions
from sagelift.commands.analysis_output import show_reports
from sagelift.commands.analysis_texts import parse_split
from sagelift.commands.console import current_settings
from sagelift.commands.metric_options import GoalOptions
from sagelift.commands.option_groups import expand_options
from sagelift.commands.times import parse_time

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from analysis.columns import Window
    from sagelift.experiment_report import ReportPlan


@dataclass(frozen=True)
class PlannedArmOptions:
    """The arms to compare, where they differ from the config."""

    control: Annotated[str | None, typer.Option(help="Control arm. Default: that of the config.")] = None
    treatment: Annotated[
        list[str] | None,
        typer.Option(help="Treatment arm; repeatable. Default: every arm but the control, one report each."),
    ] = None
    split: Annotated[
        str | None, typer.Option(help="Planned split of the units: 0=0.9,1=0.1. Default: the weights of the config.")
    ] = None

    def applied(self, plan: ReportPlan) -> ReportPlan:
        """The plan with the arms of the options.

        Raises:
            typer.BadParameter: Neither the options nor a config name the control.
        """
        if self.control is not None:
            treatments = [arm for arm in plan.split or () if arm != self.control]
            changed = {} if plan.treatments is None else {"treatments": treatments}
            plan = plan.override("control", self.control, control=self.control, **changed)
        if plan.control is None:
            raise typer.BadParameter(
                f"{plan.experiment!r} has no published config that names the control; give it.", param_hint="--control"
            )
        if self.treatment:
            plan = plan.override("treatments", self.treatment, treatments=list(self.treatment))
        if self.split is not None:
            split = parse_split(self.split)
            plan = plan.override("split", split, split=split)
        return plan


@dataclass(frozen=True)
class ExperimentDataOptions:
    """The data that is read from the experiment database."""

    panel: ClassVar[str] = "Data"

    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics",
            help="YAML file of metrics and exchange rates. Its metrics replace the published ones of the same name and "
            "add others. Default: the metrics of the config, as published, or else a shop's usual ones.",
        ),
    ] = None
    window_days: Annotated[
        float | None,
        typer.Option(min=0.01, help="Number of days after first exposure that count. Default: that of the config."),
    ] = None
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
            help="Attribute that exposures record, or column of a table with unit_id: customer.country. Default: that "
            "of the config."
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
    def cut_off(self) -> datetime | None:
        """Time after which nothing is read."""
        return None if self.as_of is None else parse_time(self.as_of, "--as-of", naive_is_utc=True)

    def applied(self, plan: ReportPlan) -> ReportPlan:
        """The plan with the window and the segment of the options.

        Raises:
            typer.BadParameter: The table or the column of the segment is missing.
        """
        if self.window_days is not None:
            plan = plan.override("window in days", self.window_days, window_days=self.window_days)
        if self.segment is not None:
            table, dot, column = self.segment.rpartition(".")
            if not column or bool(table) != bool(dot):
                raise typer.BadParameter(
                    f"{self.segment!r} must look like country or customer.country.", param_hint="--segment"
                )
            plan = plan.override("segment", self.segment, segment=self.segment)
        return plan

    def ages(self, plan: ReportPlan) -> tuple[Window, ...]:
        """Intervals of time since exposure; none when `by_age` is 0."""
        from datetime import timedelta

        from analysis.novelty import age_windows

        if self.by_age == 0:
            return ()
        return tuple(age_windows(plan.window, plan.window / 7 if self.by_age is None else timedelta(days=self.by_age)))


@expand_options
def report(
    experiment: Annotated[str, typer.Argument(help="Key of the experiment.")],
    arms: PlannedArmOptions,
    data: ExperimentDataOptions,
    roles: GoalOptions,
    statistics: StatisticsOptions,
    monitoring: MonitoringOptions,
    output: ReportOutput,
) -> None:
    """Compute the lift of an experiment: table, JSON, page.

    Arms, split, metrics, window, size and looks are those of the published config. Options override them, and the
    report states what was overridden. Exit code 1 when a check fails.
    """
    from analysis.report import analyze_arms
    from sagelift.experiment_report import plan_report
    from sagelift.services import Services

    options = statistics.arguments()
    cut_off = data.cut_off
    with Services(current_settings()) as services:
        plan = data.applied(arms.applied(plan_report(services.experiments, experiment, data.metrics)))
        plan = plan.with_metrics(roles.applied(plan.metrics))
        plan, sequential = _sequential(plan, monitoring, services.experiments.engine, cut_off)
        reports = analyze_arms(
            plan.source(services.experiments.engine, as_of=cut_off, complete_windows_only=data.complete_windows),
            plan.metrics,
            str(plan.control),
            plan.treatments,
            plan.split,
            title=experiment,
            ages=data.ages(plan),
            overridden=plan.overridden,
            choose_goal=not plan.has_roles,
            **options,
            **sequential,
        )
    show_reports(reports, output)


def _sequential(
    plan: ReportPlan, options: MonitoringOptions, engine: Engine, cut_off: datetime | None
) -> tuple[ReportPlan, dict[str, Any]]:
    """The plan with the size and the looks of the options, and their arguments of `analysis.report.analyze_arms`."""
    from sagelift.experiment_report import count_units

    if options.planned_units is not None:
        plan = plan.override("planned units", options.planned_units, planned_units=options.planned_units)
    if options.spending is not None:
        plan = plan.override("spending", options.spending, spending=options.spending)
    if options.earlier_looks is not None:
        plan = plan.override("earlier looks", options.earlier_looks, looks=())
    analysis = plan.analysis
    arguments = replace(options, planned_units=analysis.planned_units, spending=analysis.spending).arguments()
    planned = plan.config is not None and plan.config.analysis.spending is not None and options.spending is None
    if planned and options.earlier_looks is None:
        counts = count_units(engine, plan.experiment, (str(plan.control), *(plan.treatments or ())), cut_off)
        control = counts.pop(str(plan.control))
        plan, design = plan.at_planned_look(arguments["design"], control + min(counts.values(), default=0))
        arguments["design"] = design
    return plan, arguments
