"""`sagelift plan`: how many users an experiment needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer

from sagelift.commands.analysis_options import Alpha, OutputOptions, Share, TableOptions
from sagelift.commands.analysis_output import print_results
from sagelift.commands.analysis_texts import parse_lift
from sagelift.commands.metric_options import MetricOptions
from sagelift.commands.option_groups import expand_options


@dataclass(frozen=True)
class PlanOptions:
    """What is planned."""

    panel: ClassVar[str] = "Plan"

    lift: Annotated[list[str] | None, typer.Option(help="Lift to detect; repeatable. Default: 2%, 5% and 10%.")] = None
    units: Annotated[
        int | None, typer.Option(help="Number of users available for both arms. Default: all users of the table.")
    ] = None
    power: Annotated[float, typer.Option(help="Probability to detect the lift, from 0 to 1.")] = 0.8
    day: Annotated[
        str | None,
        typer.Option(help="Column with the day each user was first seen (UTC). Shows how long the experiment takes."),
    ] = None
    looks: Annotated[
        int, typer.Option(help="Number of equally spaced looks at which to decide; 1 is only the end.")
    ] = 1
    spending: Annotated[
        str, typer.Option(help="How alpha is spent over the looks: obrien-fleming, pocock, power=3 or hsd=-4.")
    ] = "obrien-fleming"


@expand_options
def plan(
    data: TableOptions,
    metrics: MetricOptions,
    options: PlanOptions,
    output: OutputOptions,
    share: Share = 0.5,
    alpha: Alpha = 0.05,
) -> None:
    """Compute how many users an experiment needs, from the users of an earlier period, and what it could detect.

    With --day, also compute what each number of weeks could detect.
    """
    from analysis.plan import plan as make_plan
    from analysis.render.plan import to_json, to_markdown, to_terminal

    result = make_plan(
        data.source(variant=None, day=options.day),
        metrics.declared().metrics,
        [parse_lift(text) for text in options.lift or ("2%", "5%", "10%")],
        units=options.units,
        alpha=alpha,
        power=options.power,
        share=share,
        looks=options.looks,
        spending=options.spending,
    )
    if output.as_json:
        return typer.echo(to_json(result))
    print_results([result], to_markdown, to_terminal, output)
