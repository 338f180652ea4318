"""`sagelift analyze` and `sagelift simulate`: compare arms in a table of users, and test the method on it.

Both read a table with one row per user and need no other part of the system.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from sagelift.commands.analysis_options import (
    Alpha,
    ArmOptions,
    Interval,
    MonitoringOptions,
    OutputOptions,
    ReportOutput,
    Seed,
    Share,
    StatisticsOptions,
    TableOptions,
)
from sagelift.commands.analysis_output import print_results, show_reports
from sagelift.commands.analysis_texts import parse_lift
from sagelift.commands.console import say
from sagelift.commands.metric_options import MetricOptions, QuantileOption, RoleOptions
from sagelift.commands.option_groups import expand_options


@dataclass(frozen=True)
class ColumnOptions:
    """The meaning of the table's columns."""

    panel: ClassVar[str] = "Data"

    variant: Annotated[str, typer.Option(help="Column with the arm.")] = "variant"
    unit: Annotated[
        str | None, typer.Option(help="Column with the user's id. Finds users who are in two arms. Default: none.")
    ] = None
    day: Annotated[str | None, typer.Option(help="Column with the day of first exposure (UTC). Default: none.")] = None
    segment: Annotated[str | None, typer.Option(help="Column to compare segments by. Default: none.")] = None
    covariate_until: Annotated[
        str | None, typer.Option(help="Column with the end of the covariates' period. Default: none.")
    ] = None
    currency: Annotated[str | None, typer.Option(help="Currency of the money columns, such as EUR.")] = None
    currency_column: Annotated[str | None, typer.Option(help="Column with the currency of each row.")] = None


@dataclass(frozen=True)
class SimulationOptions:
    """The simulated experiments."""

    panel: ClassVar[str] = "Simulation"

    lift: Annotated[list[str] | None, typer.Option(help="Lift to plant; repeatable. Default: 5% and 10%.")] = None
    runs: Annotated[int, typer.Option(help="Number of simulated experiments.")] = 1000
    size: Annotated[
        int | None,
        typer.Option(
            help="Number of users of each experiment, drawn with replacement. Default: all users, shuffled again."
        ),
    ] = None
    picture: Annotated[
        Path | None, typer.Option(help="Picture of the result to write (.svg, .png, .pdf). Default: none.")
    ] = None


@expand_options
def analyze(
    data: TableOptions,
    arms: ArmOptions,
    columns: ColumnOptions,
    metrics: MetricOptions,
    roles: RoleOptions,
    statistics: StatisticsOptions,
    monitoring: MonitoringOptions,
    output: ReportOutput,
    quantile: QuantileOption = None,
    title: Annotated[str, typer.Option(help="Title of the report.", rich_help_panel="Output")] = "",
) -> None:
    """Compare the arms of an experiment in a table with one row per user.

    The first metric decides, unless a file of metrics names goals. Exit code 1 when a check fails.
    """
    from analysis.metrics import money_columns
    from analysis.report import analyze_arms

    declared = metrics.declared(quantile, roles)
    source = data.source(
        variant=columns.variant,
        unit=columns.unit,
        day=columns.day,
        segment=columns.segment,
        covariate_until=columns.covariate_until,
        currency=columns.currency,
        currency_column=columns.currency_column,
        rates=declared.rates,
        money=tuple(dict.fromkeys((*(roles.money or ()), *money_columns(declared.metrics)))),
    )
    reports = analyze_arms(
        source,
        declared.metrics,
        arms.control,
        arms.treatment or None,
        arms.expected_split(),
        title=title,
        **statistics.arguments(),
        **monitoring.arguments(),
    )
    show_reports(reports, output)


@expand_options
def simulate(
    data: TableOptions,
    metrics: MetricOptions,
    simulation: SimulationOptions,
    output: OutputOptions,
    quantile: QuantileOption = None,
    share: Share = 0.5,
    alpha: Alpha = 0.05,
    interval: Interval = "fieller",
    seed: Seed = 0,
) -> None:
    """Test the method on your own users: false positives, coverage, power, bias.

    Users are assigned to two arms at random again and again, without and with a planted lift. Arms in the data are
    ignored: use a period without experiments, or only the control (--where variant=0). Exit code 1 when p
    cannot be trusted.
    """
    from analysis.metrics import merged_needs
    from analysis.render.simulation import picture_format, to_json, to_markdown, to_terminal, write_picture
    from analysis.simulation import simulate as run_simulation

    if simulation.picture is not None:
        picture_format(simulation.picture)  # refuse the name before the work
    declared = metrics.declared(quantile).metrics
    source = data.source(variant=None)
    result = run_simulation(
        source.values(merged_needs(declared)),
        declared,
        lifts=[parse_lift(text) for text in simulation.lift or ("5%", "10%")],
        runs=simulation.runs,
        size=simulation.size,
        share=share,
        alpha=alpha,
        interval=interval,
        seed=seed,
        source=source.label,
    )
    if simulation.picture is not None:
        say(f"picture: {write_picture(result, simulation.picture)}")
    if output.as_json:
        typer.echo(to_json(result))
    else:
        print_results([result], to_markdown, to_terminal, output)
    raise typer.Exit(1 if any(outcome.doubtful for outcome in result.outcomes) else 0)
