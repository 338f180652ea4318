"""The aggregate query over a source with one row per unit, and the checks of what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, String, case, cast, func, literal, select
from sqlalchemy import column as sql_column

from analysis.aggregates import Aggregates, Cell, Needs
from analysis.columns import Column, Limits
from analysis.currencies import currency_code
from analysis.errors import DataError, MissingRateError, MixedCurrenciesError
from analysis.filters import Kind, filter_clause
from analysis.query import UNKNOWN, Layout, aggregate_select, epoch_day, label, read_cells
from analysis.sources.base import Collected, Facts
from analysis.sources.collection import accurate_aggregates, find_limits, find_ranks, find_tables
from analysis.sources.session import Extremes, Session
from analysis.sources.tails import bounds_suffice, is_plain, with_bounded_tails, without_settled
from analysis.sources.user_columns import UserColumns
from analysis.times import DAY

Extras = Sequence[Mapping[str, Any]]
"""What the aggregate query returns besides the sums, one mapping per row."""


def collect_rows(source: UserColumns, name: str, session: Session, needs: Needs, several_arms: int | None) -> Collected:
    """Collect the aggregates of an open source.

    Args:
        source: The columns that play a part.
        name: Name of the source in the report.
        session: The open source.
        needs: What the metrics need.
        several_arms: Number of units in several arms, which are left out; None if unknown.

    Raises:
        DataError: The data holds NULL, NaN or mixed currencies.
        MetricError: A cap leaves nothing.
    """
    units, lookups = _units(source, session, needs, exclude=bool(several_arms)), list[str]()

    def execute(statement: Select[Any]) -> Sequence[Sequence[Any]]:
        lookups.append(session.text(statement))
        return session.rows(statement)

    limits = find_limits(execute, units, needs)
    extremes = _extremes(source, session, needs)
    counted = without_settled(needs, extremes)
    layout = replace(_layout(source, counted), integers=_integers(source, session, counted))
    query = _AggregateQuery(source, session, needs, units, limits, layout)
    aggregates = accurate_aggregates(query.run)
    if extremes is not None:
        aggregates = _with_tails(aggregates, needs, extremes, query)
    counts = {arm: aggregates.count(arm) for arm in aggregates.arms}
    ranked = find_ranks(execute, units, needs, counts)
    tables = find_tables(execute, units, needs, limits)
    return Collected(
        replace(aggregates, limits=limits, ranked=ranked, tables=tables),
        _facts(source, name, [*query.statements, *lookups], query.extras, several_arms),
    )


def rows_text(number: int) -> str:
    """Return a number of rows as text: `1 row`, `2,000 rows`."""
    return f"{number:,} row{'s' * (number != 1)}"


class _AggregateQuery:
    """The one aggregate query, with its last statement and extras. It may run twice, with other shifts."""

    def __init__(
        self,
        source: UserColumns,
        session: Session,
        needs: Needs,
        units: FromClause,
        limits: Mapping[Column, Limits],
        layout: Layout,
    ) -> None:
        self.source, self.session, self.needs = source, session, needs
        self.units, self.limits, self.layout = units, limits, layout
        self.statements: list[str] = []
        self.extras: Extras = []

    def run(self, shifts: Mapping[Column, float]) -> list[Cell]:
        """Run the query and refuse rows that cannot be averaged."""
        statement = aggregate_select(self.units, self.layout, shifts, self.limits)
        self.statements = [self.session.text(statement)]
        rows = self.session.rows(statement)
        if any(row[0] is None for row in rows):
            raise DataError(f"Column {self.source.variant!r} is NULL in some rows. Every unit needs an arm.")
        cells, self.extras = read_cells(rows, self.layout)
        _refuse_nulls(self.needs, cells, self.extras)
        _refuse_mixed_currencies(self.source, self.session, self.extras)
        return cells


def _integers(source: UserColumns, session: Session, needs: Needs) -> frozenset[Column]:
    """Return the columns of integers that are summed as they are, such as timestamps in nanoseconds."""
    converted = set(source.money) if source.rates else set()
    return frozenset(
        column
        for column in needs.columns
        if column == column.quantity
        and column.name not in converted
        and session.types[column.name][1].upper() in ("INTEGER", "BIGINT", "HUGEINT")
    )


@dataclass(frozen=True)
class _Extra:
    """A column that the units carry through the query, and what is computed from it."""

    carried: str
    computed: Mapping[str, ColumnElement[Any]]


def _layout(source: UserColumns, needs: Needs) -> Layout:
    """Return what the aggregate query lists."""
    extras = []
    if source.currency_column:
        currency: ColumnElement[Any] = sql_column("currency")
        extras.append(_Extra("currency", {"currency_first": func.min(currency), "currency_last": func.max(currency)}))
    if source.rates:
        extras.append(_Extra("unpriced", {"unpriced": func.sum(sql_column("unpriced"))}))
    if source.covariate_until:
        extras.append(_Extra("late_covariate", {"late_covariates": func.sum(sql_column("late_covariate"))}))
    computed: dict[str, ColumnElement[Any]] = {
        f"values_{label(q)}": func.count(sql_column(label(q))) for q in sorted(needs.quantities)
    }
    for extra in extras:
        computed |= extra.computed
    keys = tuple(key for key, given in (("arm", True), ("day", source.day), ("segment", source.segment)) if given)
    return Layout.of(needs, keys=keys, extras=computed, passed=tuple(extra.carried for extra in extras))


def _units(source: UserColumns, session: Session, needs: Needs, *, exclude: bool) -> FromClause:
    """Select one row per unit that counts: the keys, and the quantities by `label`.

    Args:
        source: The columns that play a part.
        session: The open source.
        needs: What the metrics need.
        exclude: Whether to leave out units in several arms.
    """
    users = session.users
    arm: ColumnElement[Any] = users.c[source.variant] if source.variant else literal("all")
    columns = [*_keys(source, session, arm), *_quantities(source, session, needs)]
    statement = select(*columns).select_from(users)
    if source.where:
        statement = statement.where(filter_clause(source.where, users.c, session.types))
    if exclude and source.unit:
        unit, arms = users.c[source.unit], func.count(arm.distinct())
        kept = filter_clause(source.where, users.c, session.types)
        several = select(unit).where(kept).group_by(unit).having(arms > 1)
        statement = statement.where(unit.not_in(several))
    return statement.cte("units")


def _keys(source: UserColumns, session: Session, arm: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    users = session.users
    columns: list[ColumnElement[Any]] = [arm.label("arm")]
    if source.day:
        columns.append(_day(users.c[source.day], session.types[source.day][0]).label("day"))
    if source.segment:
        columns.append(_segment(users.c[source.segment], session.types[source.segment][0]).label("segment"))
    if source.currency_column:
        columns.append(_currency(source, session).label("currency"))
    if source.covariate_until and source.day:
        late = users.c[source.covariate_until] > users.c[source.day]
        columns.append(case((late, 1), else_=0).label("late_covariate"))
    return columns


def _segment(column: ColumnElement[Any], kind: Kind) -> ColumnElement[Any]:
    """Return the segment; units without one are a segment too. `read_cells` names it where segments are numbers."""
    if kind not in ("text", "other"):
        return column
    return func.coalesce(column if kind == "text" else cast(column, String), UNKNOWN)


def _quantities(source: UserColumns, session: Session, needs: Needs) -> list[ColumnElement[Any]]:
    """Select the quantities, converted and filtered, and whether the unit's currency has no rate."""
    users, factor = session.users, _factor(source, session)
    columns: list[ColumnElement[Any]] = (
        [] if factor is None else [case((factor.is_(None), 1), else_=0).label("unpriced")]
    )
    for quantity in needs.quantities:
        value: ColumnElement[Any] = users.c[quantity.name]
        if session.types[quantity.name][0] == "boolean":
            value = case((value.is_(True), 1), (value.is_(False), 0))
        if factor is not None and quantity.name in source.money:
            value = value * func.coalesce(factor, 0.0)
        if quantity.where:
            value = case((filter_clause(quantity.where, users.c, session.types), value), else_=0)
        columns.append(value.label(label(quantity)))
    return columns


def _factor(source: UserColumns, session: Session) -> ColumnElement[Any] | None:
    """Return the factor that converts an amount, NULL for a currency without a rate; None without rates."""
    rates = source.rates
    if rates is None or source.currency_column is None:
        return None
    column = _currency(source, session)
    return case(*((column == currency, rates.factor(currency)) for currency in rates.currencies))


def _currency(source: UserColumns, session: Session) -> ColumnElement[Any]:
    """Return the currency of the row, in capital letters."""
    return func.upper(session.users.c[source.currency_column or ""])


def _day(column: ColumnElement[Any], kind: Kind) -> ColumnElement[Any]:
    """Return the UTC day as a date, or as the microseconds of its start."""
    return column if kind == "date" else epoch_day(column) * DAY


def _extremes(source: UserColumns, session: Session, needs: Needs) -> Extremes | None:
    """Return the extremes of the plain columns, if the source has them at hand."""
    converted = set(source.money) if source.rates else set()
    plain = [c.name for c in needs.columns if c == Column(c.name) and c.name not in converted]
    return session.extremes(sorted(plain)) if plain else None


def _with_tails(aggregates: Aggregates, needs: Needs, extremes: Extremes, query: _AggregateQuery) -> Aggregates:
    """Bound the tails by sums and extremes; count them with one more query where the bounds say too little."""
    columns = tuple(sorted(c for c in needs.tails if is_plain(c, extremes)))
    if not columns:
        return aggregates
    bounded = with_bounded_tails(aggregates, columns, extremes)
    if bounds_suffice(bounded, columns):
        return bounded
    layout = Layout(columns, (), columns, keys=query.layout.keys)
    counted, _ = read_cells(query.session.rows(aggregate_select(query.units, layout, {})), layout)
    tails = {(cell.arm, cell.day, cell.segment): cell.tails for cell in counted}
    cells = tuple(replace(c, tails={**c.tails, **tails[c.arm, c.day, c.segment]}) for c in aggregates.cells)
    return replace(aggregates, cells=cells)


def _refuse_nulls(needs: Needs, cells: Sequence[Cell], extras: Extras) -> None:
    for quantity in needs.quantities:
        key = f"values_{label(quantity)}"
        missing = sum(cell.n - int(extra[key]) for cell, extra in zip(cells, extras, strict=True))
        if missing:
            raise DataError(
                f"Column {quantity.name!r} is NULL in {rows_text(missing)}. Write 0 where nothing happened, "
                "and leave out the units that must not count."
            )


def _refuse_mixed_currencies(source: UserColumns, session: Session, extras: Extras) -> None:
    rates = source.rates
    if rates is None and len(_currencies(extras)) > 1:
        raise MixedCurrenciesError(_all_currencies(source, session))
    if rates is not None and any(int(extra["unpriced"]) for extra in extras):
        missing = [c for c in _all_currencies(source, session) if c not in set(rates.currencies)]
        raise MissingRateError(missing or ["rows without a currency"], rates.currencies)


def _currencies(extras: Extras) -> set[str]:
    return {extra[key] for extra in extras for key in ("currency_first", "currency_last") if extra.get(key)}


def _all_currencies(source: UserColumns, session: Session) -> list[str]:
    column = _currency(source, session)
    return [str(row[0]) for row in session.rows(select(column).distinct()) if row[0] is not None]


def _facts(
    source: UserColumns, name: str, statements: Sequence[str], extras: Extras, several_arms: int | None
) -> Facts:
    named = next(iter(_currencies(extras)), source.currency)
    currency = source.rates.base if source.rates else named and currency_code(named)
    return Facts(
        source=name,
        sql=tuple(statements),
        multiple_arms=several_arms,
        bucket=timedelta(days=1) if source.day else None,
        currency=currency,
        rates=source.rates,
        late_covariates=sum(int(e["late_covariates"] or 0) for e in extras) if source.covariate_until else None,
        segment=source.segment,
        filters=tuple(map(str, source.where)),
    )
