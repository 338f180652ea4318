"""`sagelift analyze`, `report`, `simulate` and `plan`: users or an experiment in, a report out.

All but `report` take a table with one row per user and need no other part of the system.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sagelift.commands import analysis_options as options
from sagelift.commands.analysis_options import MetricOptions

if TYPE_CHECKING:
    from analysis.results import Report
    from analysis.sources.user_rows import UserRows

_Table = Annotated[
    str,
    typer.Argument(
        help="Parquet, CSV, Arrow or DuckDB file (a glob is fine), a SELECT over such files, or with --database a "
        "table's name."
    ),
]
_Database = Annotated[str | None, typer.Option(help="SQLAlchemy URL of the database that holds the table.")]
_Of = Annotated[str | None, typer.Option("--table", help="The table, of a DuckDB file.")]
_Metrics = Annotated[Path | None, typer.Option("--metrics", help="Metrics, and rates, declared in YAML.")]
_Mean = Annotated[list[str] | None, typer.Option(help="Mean of a column per user: gmv.")]
_Count = Annotated[list[str] | None, typer.Option(help="Mean of a number of events per user: clicks.")]
_Ratio = Annotated[list[str] | None, typer.Option(help="Ratio of two columns' sums: clicks/impressions.")]
_Share = Annotated[list[str] | None, typer.Option("--proportion", help="Share of users with a column above 0: orders.")]
_Quantile = Annotated[list[str] | None, typer.Option(help="Quantile of a column: gmv@0.9.")]
_Covariate = Annotated[
    list[str] | None,
    typer.Option(help="Column from before exposure, for all --mean and --count; or for one metric: clicks=clicks_pre."),
]
_Cap = Annotated[
    list[str] | None, typer.Option(help="Cap of a --mean: gmv=50000, gmv=p99 or gmv=p99:nonzero; the same in all arms.")
]
_Where = Annotated[list[str] | None, typer.Option(help="Users that count: country=DE,FR or age>=18.")]
_Control = Annotated[str, typer.Option(help="The control arm, as it stands in the data.")]
_Treatment = Annotated[
    list[str] | None, typer.Option(help="A treatment arm; without it, every arm but the control, one report each.")
]
_Split = Annotated[str | None, typer.Option(help="The planned split, if not equal: 0=0.9,1=0.1.")]
_Planned = Annotated[
    int | None,
    typer.Option(
        help="Planned size of both arms: until then, confidence sequences decide, or with --spending boundaries."
    ),
]
_Spending = Annotated[
    str | None,
    typer.Option(help="Group-sequential design, and how it spends alpha: obrien-fleming, pocock, power=3, hsd=-4."),
]
_Earlier = Annotated[
    str | None, typer.Option(help="Units of both arms at each look of the design before this one: 8000,17000.")
]
_Last = Annotated[
    bool, typer.Option("--last-look", help="There will be no other look, whatever this one says: spend all alpha.")
]
_Precision = Annotated[str, typer.Option(help="Say how long until the lift is known to +- this.")]
_Equivalence = Annotated[
    str | None, typer.Option(help="Test of each metric whether its lift lies within +- this: 2% (TOST).")
]
_Prior = Annotated[
    str | None,
    typer.Option(help="Bayesian posterior of each lift, from a normal prior around 0 with this deviation: 5%."),
]
_Bootstrap = Annotated[
    int,
    typer.Option(
        help="Resamples of bootstrap and permutation test (0: none). Fetches the metrics' values unit by unit."
    ),
]
_Alpha = Annotated[float, typer.Option(help="Level of the tests; 1 - coverage of the intervals.")]
_Interval = Annotated[str, typer.Option(help="Of the relative lift: fieller, delta or log.")]
_Seed = Annotated[int, typer.Option(help="Of the random numbers.")]
_Title = Annotated[str, typer.Option(help="Of the report.")]
_Html = Annotated[Path | None, typer.Option(help="Write the page here.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")]


def analyze(
    table: _Table,
    control: _Control,
    treatment: _Treatment = None,
    variant: Annotated[str, typer.Option(help="The column with the arm.")] = "variant",
    unit: Annotated[str | None, typer.Option(help="The column with the user's id: finds users in two arms.")] = None,
    day: Annotated[str | None, typer.Option(help="The column with the day of first exposure (UTC).")] = None,
    segment: Annotated[str | None, typer.Option(help="A column to look at by segment.")] = None,
    covariate_until: Annotated[
        str | None, typer.Option(help="The column with the end of the time that covariates cover.")
    ] = None,
    metrics: _Metrics = None,
    mean: _Mean = None,
    count: _Count = None,
    ratio: _Ratio = None,
    proportion: _Share = None,
    quantile: _Quantile = None,
    covariate: _Covariate = None,
    cap: _Cap = None,
    where: _Where = None,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(help="A metric that must not get worse: clicks; or clicks=2%, a loss to rule out."),
    ] = None,
    lower_is_better: Annotated[list[str] | None, typer.Option(help="A metric that is better the lower it is.")] = None,
    money: Annotated[list[str] | None, typer.Option(help="Columns that hold money, in minor units.")] = None,
    currency: Annotated[str | None, typer.Option(help="Of the money columns.")] = None,
    currency_column: Annotated[str | None, typer.Option(help="The column with each row's currency.")] = None,
    split: _Split = None,
    planned_units: _Planned = None,
    spending: _Spending = None,
    earlier_looks: _Earlier = None,
    last_look: _Last = False,
    precision: _Precision = "2%",
    equivalence: _Equivalence = None,
    prior: _Prior = None,
    bootstrap: _Bootstrap = 0,
    seed: _Seed = 0,
    alpha: _Alpha = 0.05,
    interval: _Interval = "fieller",
    database: _Database = None,
    of: _Of = None,
    title: _Title = "",
    html: _Html = None,
    markdown: _Markdown = False,
    as_json: _Json = False,
) -> None:
    """Compare arms in a table with one row per user. Exit code 1 when a check fails.

    The first metric decides, unless a file of metrics names goals.
    """
    from analysis.metrics import money_columns
    from analysis.report import analyze_arms

    declared = MetricOptions(
        metrics, mean, count, ratio, proportion, quantile, covariate, cap, money, guardrail, lower_is_better
    ).declared()
    source = _source(
        table,
        database,
        of,
        variant=variant,
        unit=unit,
        day=day,
        segment=segment,
        covariate_until=covariate_until,
        where=options.where(where),
        currency=currency,
        currency_column=currency_column,
        rates=declared.rates,
        money=tuple(dict.fromkeys((*(money or ()), *money_columns(declared.metrics)))),
    )
    asked = _asked(split, alpha, interval, precision, equivalence, prior, bootstrap, seed, title)
    asked |= _looking(planned_units, spending, earlier_looks, last=last_look)
    reports = analyze_arms(source, declared.metrics, control, treatment or None, **asked)
    _show(reports, html, markdown=markdown, as_json=as_json)


def report(
    experiment: Annotated[str, typer.Argument(help="The experiment's key.")],
    control: _Control,
    treatment: _Treatment = None,
    window_days: Annotated[float, typer.Option(min=0.01, help="Days after first exposure that count.")] = 14.0,
    complete_windows: Annotated[
        bool, typer.Option("--complete-windows", help="Leave out units whose window is not over yet.")
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option(help="Read nothing newer: 2026-06-15 or 2026-06-15T08:00+02:00; UTC if it has no zone."),
    ] = None,
    segment: Annotated[
        str | None,
        typer.Option(help="An attribute that exposures record, or the column of a table by unit_id: customer.country."),
    ] = None,
    by_age: Annotated[
        float | None,
        typer.Option(
            help="Show metrics by time since first exposure (novelty), in steps of so many days; by default a seventh "
            "of the window, 0 for none."
        ),
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option("--metrics", help="Metrics, and rates, declared in YAML; without it, a shop's own.")
    ] = None,
    split: _Split = None,
    planned_units: _Planned = None,
    spending: _Spending = None,
    earlier_looks: _Earlier = None,
    last_look: _Last = False,
    precision: _Precision = "2%",
    equivalence: _Equivalence = None,
    prior: _Prior = None,
    bootstrap: _Bootstrap = 0,
    seed: _Seed = 0,
    alpha: _Alpha = 0.05,
    interval: _Interval = "fieller",
    html: _Html = None,
    markdown: _Markdown = False,
    as_json: _Json = False,
) -> None:
    """Compute the lift of an experiment: table, JSON, page. Exit code 1 when a check fails."""
    from datetime import timedelta

    from analysis.config import Declarations, load_metrics
    from analysis.metrics import shop_metrics
    from analysis.novelty import age_windows
    from analysis.report import analyze_arms
    from analysis.sources.experiment_tables import ExperimentTables
    from sagelift.commands.console import current_settings
    from sagelift.services import Services

    declared = load_metrics(metrics) if metrics else Declarations(shop_metrics())
    table, dot, column = (segment or "").rpartition(".")
    if segment and dot and not (table and column):
        raise typer.BadParameter(f"{segment!r} must look like country or customer.country.", param_hint="--segment")
    asked = _asked(split, alpha, interval, precision, equivalence, prior, bootstrap, seed, experiment)
    asked |= _looking(planned_units, spending, earlier_looks, last=last_look)
    if by_age != 0:
        step = timedelta(days=window_days / 7 if by_age is None else by_age)
        asked["ages"] = age_windows(timedelta(days=window_days), step)
    with Services(current_settings()) as services:
        source = ExperimentTables(
            services.experiments.engine,
            experiment,
            window=timedelta(days=window_days),
            as_of=_moment(as_of),
            complete_windows_only=complete_windows,
            rates=declared.rates,
            segments=(table, column) if dot else segment,
        )
        reports = analyze_arms(source, declared.metrics, control, treatment or None, **asked)
    _show(reports, html, markdown=markdown, as_json=as_json)


def simulate(
    table: _Table,
    metrics: _Metrics = None,
    mean: _Mean = None,
    count: _Count = None,
    ratio: _Ratio = None,
    proportion: _Share = None,
    quantile: _Quantile = None,
    covariate: _Covariate = None,
    cap: _Cap = None,
    where: _Where = None,
    lift: Annotated[list[str] | None, typer.Option(help="A lift to plant: 5%. Default 5% and 10%.")] = None,
    runs: Annotated[int, typer.Option(help="Simulated experiments.")] = 1000,
    size: Annotated[
        int | None, typer.Option(help="Users of each, drawn with replacement; without it, all, dealt out anew.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of the treatment.")] = 0.5,
    seed: _Seed = 0,
    alpha: _Alpha = 0.05,
    interval: _Interval = "fieller",
    database: _Database = None,
    of: _Of = None,
    picture: Annotated[Path | None, typer.Option(help="Write a picture here (.svg, .png, .pdf).")] = None,
    markdown: _Markdown = False,
    as_json: _Json = False,
) -> None:
    """Try the method on your own users: false positives, coverage, power and bias. Exit code 1 if p cannot be trusted.

    Users are dealt into two arms again and again, without and with a planted lift. Arms in the data are ignored: take
    a time without experiments, or the control alone (--where variant=0).
    """
    from analysis.metrics import merged_needs
    from analysis.render.simulation import to_json, to_markdown, to_terminal, write_picture
    from analysis.simulation import simulate as run

    declared = MetricOptions(metrics, mean, count, ratio, proportion, quantile, covariate, cap).declared().metrics
    source = _source(table, database, of, variant=None, where=options.where(where))
    found = run(
        source.values(merged_needs(declared)),
        declared,
        lifts=[options.share(text, "--lift") for text in lift or ("5%", "10%")],
        runs=runs,
        size=size,
        share=share,
        alpha=alpha,
        interval=options.interval(interval),
        seed=seed,
        source=source.label,
    )
    if picture is not None:
        typer.echo(f"picture: {write_picture(found, picture)}", err=True)
    if as_json:
        typer.echo(to_json(found))
    else:
        _print([found], to_markdown, to_terminal, markdown=markdown)
    raise typer.Exit(1 if any(outcome.doubtful for outcome in found.outcomes) else 0)


def plan(
    table: _Table,
    metrics: _Metrics = None,
    mean: _Mean = None,
    count: _Count = None,
    ratio: _Ratio = None,
    proportion: _Share = None,
    covariate: _Covariate = None,
    cap: _Cap = None,
    where: _Where = None,
    day: Annotated[
        str | None, typer.Option(help="The column with the day each user was first seen (UTC): how long will it take?")
    ] = None,
    lift: Annotated[list[str] | None, typer.Option(help="A lift to find: 5%. Default 2%, 5% and 10%.")] = None,
    units: Annotated[
        int | None, typer.Option(help="Users of both arms that could be had; without it, as many as there are.")
    ] = None,
    power: Annotated[float, typer.Option(help="Chance to find the lift.")] = 0.8,
    share: Annotated[float, typer.Option(help="Of the treatment.")] = 0.5,
    alpha: _Alpha = 0.05,
    looks: Annotated[int, typer.Option(help="Looks at which to decide, equally spaced; 1 is the end alone.")] = 1,
    spending: Annotated[
        str, typer.Option(help="How alpha is spent over the looks: obrien-fleming, pocock, power=3, hsd=-4.")
    ] = "obrien-fleming",
    database: _Database = None,
    of: _Of = None,
    markdown: _Markdown = False,
    as_json: _Json = False,
) -> None:
    """Say how many users an experiment needs, from the users of a time before it, and what it could find.

    With --day, also what each number of weeks could find.
    """
    from analysis.plan import plan as made
    from analysis.render.plan import to_json, to_markdown, to_terminal

    declared = MetricOptions(metrics, mean, count, ratio, proportion, None, covariate, cap).declared().metrics
    source = _source(table, database, of, variant=None, day=day, where=options.where(where))
    lifts = [options.share(text, "--lift") for text in lift or ("2%", "5%", "10%")]
    found = made(
        source, declared, lifts, units=units, alpha=alpha, power=power, share=share, looks=looks, spending=spending
    )
    if as_json:
        return typer.echo(to_json(found))
    _print([found], to_markdown, to_terminal, markdown=markdown)


def _asked(
    split: str | None,
    alpha: float,
    interval: str,
    precision: str,
    equivalence: str | None,
    prior: str | None,
    bootstrap: int,
    seed: int,
    title: str,
) -> dict[str, Any]:
    """What `analyze` and `report` ask of `analysis.report.analyze_arms` alike."""
    from analysis.bayes import Prior

    return {
        "expected_split": options.split(split),
        "alpha": alpha,
        "interval": options.interval(interval),
        "precision": options.share(precision, "--precision"),
        "equivalence": None if equivalence is None else options.share(equivalence, "--equivalence"),
        "prior": None if prior is None else Prior(0.0, options.share(prior, "--prior")),
        "resamples": bootstrap,
        "seed": seed,
        "title": title,
    }


def _looking(planned_units: int | None, spending: str | None, earlier: str | None, *, last: bool) -> dict[str, Any]:
    """Confidence sequences until the planned size; with a spending function, a look of a group-sequential design."""
    from analysis.designs import Design

    if spending is None:
        if earlier is not None or last:
            raise typer.BadParameter("it needs --spending, for example obrien-fleming.", param_hint="--earlier-looks")
        return {"planned_units": planned_units}
    if planned_units is None:
        raise typer.BadParameter("it needs --planned-units, the size at the last look.", param_hint="--spending")
    units = [options.number(text, "--earlier-looks") for text in (earlier or "").split(",") if text.strip()]
    if any(not number.is_integer() for number in units):
        raise typer.BadParameter(f"{earlier!r} must look like 8000,17000.", param_hint="--earlier-looks")
    return {"design": Design(planned_units, tuple(map(int, units)), spending, last)}


def _source(table: str, database: str | None, of: str | None, **given: Any) -> UserRows:
    if database is None:
        from analysis.sources.user_table import UserTable

        return UserTable(table, table=of, **given)
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    from analysis.sources.sql_table import SqlTable

    try:
        engine = create_engine(database)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        # The URL may hold a password: only what is wrong with it is said.
        raise typer.BadParameter(
            f"no engine for this URL ({error.__class__.__name__}).", param_hint="--database"
        ) from None
    return SqlTable(engine, table, **given)


def _show(reports: Sequence[Report], html: Path | None, *, markdown: bool, as_json: bool) -> NoReturn:
    """Print the reports, one after the other (JSON: the report, or an array of several), and exit."""
    from analysis.render.json import to_json
    from analysis.render.markdown import to_markdown
    from analysis.render.terminal import to_terminal

    if html is not None:
        from analysis.render.html import write_html

        for report in reports:
            arm = "".join(c if c.isalnum() or c in "-_" else "_" for c in report.treatment)
            path = html if len(reports) == 1 else html.with_stem(f"{html.stem}-{arm}")
            typer.echo(f"page: {write_html(report, path)}", err=True)
    if as_json:
        texts = [to_json(report) for report in reports]
        typer.echo(texts[0] if len(texts) == 1 else "[\n" + ",\n".join(texts) + "\n]")
    else:
        _print(reports, to_markdown, to_terminal, markdown=markdown)
    raise typer.Exit(1 if any(check.status == "fail" for report in reports for check in report.checks) else 0)


def _print(
    found: Sequence[Any], to_markdown: Callable[[Any], str], to_terminal: Callable[[Any], Any], *, markdown: bool
) -> None:
    if markdown:
        return typer.echo("\n".join(map(to_markdown, found)), nl=False)
    from rich.console import Console

    for one in found:
        Console().print(to_terminal(one))


def _moment(text: str | None) -> Any:
    """An instant; a day, or a time without a zone, is UTC."""
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} must look like 2026-06-15T08:00+02:00.", param_hint="--as-of") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
