"""`sagelift analyze` and `sagelift simulate`: a table with one row per user in, a report out. Needs no other part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from analysis.columns import Cap, Filter
    from analysis.config import Declarations
    from analysis.metrics import Declared
    from analysis.sources.user_rows import UserRows

_Table = Annotated[
    str, typer.Argument(help="Parquet, CSV, Arrow or DuckDB file (a glob is fine), or with --database a table's name.")
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
_Money = Annotated[list[str] | None, typer.Option(help="Columns that hold money, in minor units.")]
_Alpha = Annotated[float, typer.Option(help="Level of the tests; 1 - coverage of the intervals.")]
_Interval = Annotated[str, typer.Option(help="Of the relative lift: fieller, delta or log.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
_Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")]


def analyze(
    table: _Table,
    control: Annotated[str, typer.Option(help="The control arm, as it stands in the data.")],
    treatment: Annotated[str | None, typer.Option(help="The treatment; needed where there are several.")] = None,
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
    money: _Money = None,
    currency: Annotated[str | None, typer.Option(help="Of the money columns.")] = None,
    currency_column: Annotated[str | None, typer.Option(help="The column with each row's currency.")] = None,
    split: Annotated[str | None, typer.Option(help="The planned split, if not equal: 0=0.9,1=0.1.")] = None,
    planned_units: Annotated[
        int | None, typer.Option(help="Planned size of both arms: until then, confidence sequences decide.")
    ] = None,
    precision: Annotated[float, typer.Option(help="Say how long until the lift is known to +- this.")] = 0.02,
    alpha: _Alpha = 0.05,
    interval: _Interval = "fieller",
    database: _Database = None,
    of: _Of = None,
    title: Annotated[str, typer.Option(help="Of the report.")] = "",
    html: Annotated[Path | None, typer.Option(help="Write the page here.")] = None,
    markdown: _Markdown = False,
    as_json: _Json = False,
) -> None:
    """Compare two arms in a table with one row per user. Exit code 1 when a check fails."""
    from analysis.report import analyze as compare

    declared = _declared(metrics, mean, count, ratio, proportion, quantile, covariate, cap, money)
    source = _source(
        table,
        database,
        of,
        variant=variant,
        unit=unit,
        day=day,
        segment=segment,
        covariate_until=covariate_until,
        where=tuple(map(_filter, where or ())),
        currency=currency,
        currency_column=currency_column,
        rates=declared.rates,
        money=tuple(money or ()),
    )
    report = compare(
        source,
        declared.metrics,
        control,
        treatment if treatment is not None else _only_other(source, control),
        _split(split),
        alpha,
        interval=_interval(interval),
        planned_units=planned_units,
        precision=precision,
        title=title,
    )
    if html is not None:
        from analysis.render.html import write_html

        typer.echo(f"page: {write_html(report, html)}", err=True)
    if as_json:
        from analysis.render.json import to_json

        typer.echo(to_json(report))
    elif markdown:
        from analysis.render.markdown import to_markdown

        typer.echo(to_markdown(report), nl=False)
    else:
        from rich.console import Console

        from analysis.render.terminal import to_terminal

        Console().print(to_terminal(report))
    raise typer.Exit(1 if any(check.status == "fail" for check in report.checks) else 0)


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
    lift: Annotated[list[float] | None, typer.Option(help="Lifts to plant: 0.05 is 5 %. Default 0.05 and 0.1.")] = None,
    runs: Annotated[int, typer.Option(help="Simulated experiments.")] = 1000,
    size: Annotated[
        int | None, typer.Option(help="Users of each, drawn with replacement; without it, all, dealt out anew.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of the treatment.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
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

    declared = _declared(metrics, mean, count, ratio, proportion, quantile, covariate, cap, None).metrics
    # `variant` is not read: any column that there is can stand for it.
    names = sorted(column.name for column in merged_needs(declared).quantities)
    source = _source(table, database, of, variant=names[0], where=tuple(map(_filter, where or ())))
    found = run(
        source.values(merged_needs(declared)),
        declared,
        lifts=lift or (0.05, 0.1),
        runs=runs,
        size=size,
        share=share,
        alpha=alpha,
        interval=_interval(interval),
        seed=seed,
        source=source.label,
    )
    if picture is not None:
        typer.echo(f"picture: {write_picture(found, picture)}", err=True)
    if as_json:
        typer.echo(to_json(found))
    elif markdown:
        typer.echo(to_markdown(found), nl=False)
    else:
        from rich.console import Console

        Console().print(to_terminal(found))
    raise typer.Exit(1 if any(outcome.doubtful for outcome in found.outcomes) else 0)


def _declared(
    file: Path | None,
    mean: list[str] | None,
    count: list[str] | None,
    ratio: list[str] | None,
    proportion: list[str] | None,
    quantile: list[str] | None,
    covariate: list[str] | None,
    cap: list[str] | None,
    money: list[str] | None,
) -> Declarations:
    """The metrics of the file, then those of the options; `money` are the columns in minor units."""
    from analysis.config import Declarations, load_metrics
    from analysis.metrics import Count, Mean, Metric, Proportion, Quantile, Ratio

    declared = load_metrics(file) if file else Declarations(())
    found: list[Declared] = []
    amounts = set(money or ())
    for name in mean or ():
        found.append(Mean(name=name, column=name, unit="money" if name in amounts else "count"))
    found += [Count(name=name, column=name) for name in count or ()]
    for text in ratio or ():
        top, bottom = _two(text, "/", "--ratio", "clicks/impressions")
        unit = "money" if top in amounts else "share"
        found.append(Ratio(name=text, numerator=top, denominator=bottom, unit=unit))  # type: ignore[arg-type]
    found += [Proportion(name=f"{name} > 0", column=name) for name in proportion or ()]
    for text in quantile or ():
        column, q = _two(text, "@", "--quantile", "gmv@0.9")
        unit = "money" if column in amounts else "count"
        found.append(Quantile(name=text, column=column, q=_number(q, "--quantile"), unit=unit))  # type: ignore[arg-type]
    caps = dict(_two(text, "=", "--cap", "gmv=p99") for text in cap or ())
    _each_known(caps, [m.name for m in found if isinstance(m, Mean)], "--cap")
    adjusting: dict[str, list[str]] = {}
    for text in covariate or ():
        whose, equals, column = text.rpartition("=")
        names = [whose] if equals else [m.name for m in found if isinstance(m, Mean)]
        _each_known(names, [m.name for m in found if isinstance(m, Metric)], "--covariate")
        for name in names:
            adjusting.setdefault(name, []).append(column)
    result = [_with(metric, caps.get(metric.name), adjusting.get(metric.name, [])) for metric in found]
    return Declarations((*declared.metrics, *result), declared.rates)


def _with(metric: Declared, cap: str | None, covariates: list[str]) -> Declared:
    from dataclasses import replace

    from analysis.metrics import Mean, Metric

    if cap is not None and isinstance(metric, Mean):
        metric = replace(metric, cap=_cap(cap))
    if covariates and isinstance(metric, Metric):
        metric = replace(metric, covariates=tuple(covariates))
    return metric


def _cap(text: str) -> Cap:
    from analysis.columns import Cap

    limit, _, over = text.partition(":")
    if over not in ("", "nonzero"):
        raise typer.BadParameter(f"{text!r}: after the colon only `nonzero` can stand.", param_hint="--cap")
    if limit.startswith("p"):
        return Cap(upper_quantile=_number(limit[1:], "--cap") / 100, nonzero=bool(over))
    return Cap(upper=_number(limit, "--cap"))


def _source(table: str, database: str | None, of: str | None, **options: Any) -> UserRows:
    if database is None:
        from analysis.sources.user_table import UserTable

        return UserTable(table, table=of, **options)
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
    return SqlTable(engine, table, **options)


def _only_other(source: UserRows, control: str) -> str:
    """The one arm beside the control. With more of them, one has to be named."""
    from analysis.aggregates import Needs
    from analysis.errors import ArmError

    arms = source.collect(Needs()).aggregates.arms
    others = [arm for arm in arms if arm != control]
    if control not in arms:
        raise ArmError(f"The control {control!r} is not an arm of the data. Its arms: {', '.join(map(repr, arms))}.")
    if len(others) != 1:
        raise ArmError(
            f"Beside {control!r} there are {len(others)} arms: {', '.join(others) or '-'}. Name one (--treatment)."
        )
    return others[0]


def _split(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    pairs = [_two(part, "=", "--split", "0=0.9,1=0.1") for part in text.split(",")]
    return {arm: _number(weight, "--split") for arm, weight in pairs}


def _filter(text: str) -> Filter:
    from analysis.columns import Filter, Operator

    operators: tuple[Operator, ...] = ("!=", "<=", ">=", "=", "<", ">")
    for operator in operators:
        column, found, value = text.partition(operator)
        if found and column and value:
            values = tuple(map(_literal, value.split(",")))
            if operator == "=" and len(values) > 1:
                return Filter(column.strip(), "in", values)
            return Filter(column.strip(), operator, _literal(value))
    raise typer.BadParameter(f"{text!r} is no comparison such as country=DE.", param_hint="--where")


def _literal(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def _interval(name: str) -> Any:
    if name not in ("fieller", "delta", "log"):
        raise typer.BadParameter(f"{name!r} is none of fieller, delta, log.", param_hint="--interval")
    return name


def _two(text: str, by: str, option: str, example: str) -> tuple[str, str]:
    left, found, right = (part.strip() for part in text.partition(by))
    if not (found and left and right):
        raise typer.BadParameter(f"{text!r} must look like {example}.", param_hint=option)
    return left, right


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number.", param_hint=option) from None


def _each_known(names: Any, known: list[str], option: str) -> None:
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none"
            raise typer.BadParameter(f"{name!r} is none of the metrics it could be for ({there}).", param_hint=option)
