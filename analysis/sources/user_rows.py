"""What sources with one row per user share: a file or a data frame, and a table of a database.

Each opens a `Session`, which knows its columns and runs statements; all else is the same SQLAlchemy statement.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from math import floor
from typing import Any, Literal, Protocol

from sqlalchemy import ColumnElement, FromClause, Select, case, func, literal, or_, select

from analysis.aggregates import FEW_NONZERO, ONE_UNIT, Aggregates, Cell, Needs, Rule, Tail, pair
from analysis.columns import Column, Filter
from analysis.currencies import Rates
from analysis.errors import DataError, MissingColumnError, MissingRateError, MixedCurrenciesError
from analysis.query import Layout, aggregate_select, epoch_day, filter_clause, label, read_cells
from analysis.sources.base import DAY, Collected, Facts, find_limits, find_ranks, find_tables, look_twice

Kind = Literal["number", "boolean", "date", "instant", "other"]
Extremes = Mapping[str, tuple[float, float]]
"""Smallest and largest value of columns, over all rows."""


class Session(Protocol):
    """An open source with one row per user."""

    @property
    def users(self) -> FromClause:
        """What to select from; its columns by name."""

    @property
    def types(self) -> Mapping[str, tuple[Kind, str]]:
        """Of each column: its kind, and the source's own word for its type."""

    def rows(self, statement: Select[Any]) -> Sequence[Sequence[Any]]:
        """Run a statement."""

    def arrays(self, statement: Select[Any]) -> Mapping[str, Any]:
        """The statement's columns as NumPy arrays."""

    def text(self, statement: Select[Any]) -> str:
        """The statement as it can be pasted into a console of the source."""

    def extremes(self, names: Sequence[str]) -> Extremes | None:
        """Smallest and largest values where the source knows them without reading its rows, else None."""


@dataclass(frozen=True, kw_only=True)
class UserRows(ABC):
    """One row per unit.

    variant: the column with the arm; None where there are none, and all units are in one, `all`.
    unit: the column with the unit's id; with it, units in two arms are found and left out, and a unit with two rows in
    one arm is an error; without it each row counts as a unit.
    day: a DATE or TIMESTAMP WITH TIME ZONE column, the unit's first exposure. segment: a column to keep apart.
    where: units that count. covariate_until: a DATE or TIMESTAMP WITH TIME ZONE column, the end of the time that the
    unit's covariates cover; with it and `day`, covariates that reach beyond first exposure fail the report.
    currency: the currency of money columns, or `currency_column` where it stands in the data (minor units either way).
    rates, money: with them, the columns named by `money` are converted to the base currency of the rates.
    """

    variant: str | None = "variant"
    unit: str | None = None
    day: str | None = None
    segment: str | None = None
    where: tuple[Filter, ...] = ()
    covariate_until: str | None = None
    currency: str | None = None
    currency_column: str | None = None
    rates: Rates | None = None
    money: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if self.rates is not None and not (self.currency_column and self.money):
            raise DataError(
                "Rates are given, but not what to convert. Name the column of currencies (currency_column) and the "
                "columns that hold amounts (money)."
            )
        if self.covariate_until and not self.day:
            raise DataError("covariate_until is compared with the first exposure. Name its column too (day).")

    @property
    @abstractmethod
    def label(self) -> str:
        """What to call the source in messages and in the report."""

    @abstractmethod
    def open(self, needs: Needs) -> AbstractContextManager[Session]:
        """The source, open; errors of its own kind become SourceError."""

    def collect(self, needs: Needs) -> Collected:
        """Aggregates of the table. DataError for NULL, NaN, duplicates; MissingColumnError; SourceError."""
        # What is only asked for its sign, or capped, is summed as it is too: NaN > 0 holds, but a sum of NaN shows.
        needs |= Needs(frozenset(needs.quantities))
        for column in needs.quantities:
            if column.window is not None:
                raise DataError(
                    f"{column} has a window, and {self.label} has one row per unit, without the times of its events. "
                    "Apply the window where the table is made."
                )
        with self.open(needs) as session:
            self._check_columns(needs, session.types)
            several = self._units_in_two_arms(session)
            return _Look(self, session, needs, several).collect()

    def values(self, needs: Needs) -> dict[str, Any]:
        """The columns that the needs name, one value per unit, as NumPy arrays: for simulations only, which deal the
        units out anew. `where` holds; arms are read together. Errors as of `collect`."""
        import numpy as np

        names = sorted({column.name for column in needs.quantities})
        with self.open(needs) as session:
            self._check_columns(needs, session.types)
            columns = [session.users.c[name] for name in names]
            found = session.arrays(select(*columns).where(filter_clause(self.where, session.users.c)))
        arrays: dict[str, Any] = {name: np.ma.filled(np.ma.asarray(found[name], dtype=float), np.nan) for name in names}
        for name, array in arrays.items():
            if missing := int(np.count_nonzero(np.isnan(array))):
                raise DataError(f"Column {name!r} is NULL or NaN in {_rows(missing)}. Write 0 where nothing happened.")
        return arrays

    def names(self, needs: Needs) -> list[str]:
        """Every column that is read: keys, then numbers, then what filters compare."""
        keys = [self.variant, self.unit, self.day, self.segment, self.currency_column, self.covariate_until]
        filters = [f.column for f in self.where] + [f.column for c in needs.quantities for f in c.where]
        numbers = sorted({column.name for column in needs.quantities})
        return [*dict.fromkeys([key for key in keys if key] + numbers + filters)]

    def _check_columns(self, needs: Needs, types: Mapping[str, tuple[Kind, str]]) -> None:
        for name in self.names(needs):
            if name not in types:
                raise MissingColumnError(name, types, self.label)
        for name in sorted({column.name for column in needs.quantities}):
            kind, told = types[name]
            if kind not in ("number", "boolean"):
                raise DataError(f"Column {name!r} is {told}, and a metric needs numbers. Cast it at the source.")
        for time in (self.day, self.covariate_until):
            if time and types[time][0] not in ("date", "instant"):
                raise DataError(
                    f"Column {time!r} is {types[time][1]}, which leaves the time zone open. "
                    "Give a DATE (of UTC days) or a TIMESTAMP WITH TIME ZONE."
                )

    def _units_in_two_arms(self, session: Session) -> int | None:
        if self.unit is None:
            return None
        users = session.users
        arm: ColumnElement[Any] = users.c[self.variant] if self.variant else literal("all")
        unit, arms = users.c[self.unit], func.count(arm.distinct())
        repeated = (
            select(unit.label("unit"), func.count().label("n"), arms.label("arms"))
            .where(filter_clause(self.where, users.c))
            .group_by(unit)
            .having(or_(func.count() > 1, unit.is_(None)))
            .cte("repeated")
        )
        r = repeated.c
        counts = [
            func.sum(case((r.arms > 1, 1), else_=0)),
            func.sum(case(((r.arms == 1) & (r.n > 1), 1), else_=0)),
            func.sum(case((r.unit.is_(None), 1), else_=0)),
        ]
        several, doubled, nameless = (int(value or 0) for value in session.rows(select(*counts))[0])
        if nameless:
            raise DataError(f"Column {self.unit!r} is NULL in some rows. Every row needs the id of its unit.")
        if doubled:
            raise DataError(
                f"{doubled:,} units have several rows in one arm. Sum them up to one row per unit first; "
                "as they are, each row would count as a person."
            )
        return several


@dataclass(frozen=True)
class _Look:
    """One collection: the source as declared, the session, and what is needed of it."""

    source: UserRows
    session: Session
    needs: Needs
    several: int | None

    def collect(self) -> Collected:
        units, looked = self._units(), list[str]()

        def execute(statement: Select[Any]) -> Sequence[Sequence[Any]]:
            looked.append(self.session.text(statement))
            return self.session.rows(statement)

        limits = find_limits(execute, units, self.needs)
        settled = self._settled()
        layout = self._layout(settled)
        statements: list[str] = []
        extras: list[dict[str, Any]] = []

        def query(shifts: Mapping[Column, float]) -> list[Cell]:
            statement = aggregate_select(units, layout, shifts, limits)
            statements[:] = [self.session.text(statement)]
            rows = self.session.rows(statement)
            if any(row[0] is None for row in rows):
                raise DataError(f"Column {self.source.variant!r} is NULL in some rows. Every unit needs an arm.")
            cells, extras[:] = read_cells(rows, layout)
            self._refuse_nulls(cells, extras)
            self._refuse_mixed(extras)
            return cells

        aggregates = look_twice(query)
        if settled is not None:
            aggregates = self._with_tails(aggregates, settled, units)
        counts = {arm: aggregates.count(arm) for arm in aggregates.arms}
        ranked = find_ranks(execute, units, self.needs, counts)
        tables = find_tables(execute, units, self.needs, limits)
        facts = self._facts([*statements, *looked], extras)
        return Collected(replace(aggregates, limits=limits, ranked=ranked, tables=tables), facts)

    def _settled(self) -> Extremes | None:
        """Extremes of the plain columns, if the source has them at hand."""
        converted = set(self.source.money) if self.source.rates else set()
        plain = [c.name for c in self.needs.columns if c == Column(c.name) and c.name not in converted]
        return self.session.extremes(sorted(plain)) if plain else None

    def _layout(self, settled: Extremes | None) -> Layout:
        source = self.source
        quantities = sorted(self.needs.quantities)
        needs = self.needs
        if settled is not None:
            tails = frozenset(c for c in needs.tails if not _is_plain(c, settled))
            rules = frozenset(rule for rule in needs.rules if not _holds(rule, settled))
            needs = replace(needs, tails=tails, rules=rules)
        from sqlalchemy import column as sql_column

        extras: dict[str, ColumnElement[Any]] = {
            f"values_{label(q)}": func.count(sql_column(label(q))) for q in quantities
        }
        passed: tuple[str, ...] = ()
        if source.currency_column:
            passed = ("currency",)
            extras["currency_first"] = func.min(sql_column("currency"))
            extras["currency_last"] = func.max(sql_column("currency"))
        if source.rates:
            passed += ("unpriced",)
            extras["unpriced"] = func.sum(sql_column("unpriced"))
        if source.covariate_until:
            passed += ("late_covariate",)
            extras["late_covariates"] = func.sum(sql_column("late_covariate"))
        keys = tuple(key for key, given in (("arm", True), ("day", source.day), ("segment", source.segment)) if given)
        return Layout.of(needs, keys=keys, extras=extras, passed=passed)

    def _units(self) -> FromClause:
        """One row per unit that counts: the keys, and by `label` the quantities."""
        source, users, types = self.source, self.session.users, self.session.types
        arm: ColumnElement[Any] = users.c[source.variant] if source.variant else literal("all")
        columns: list[ColumnElement[Any]] = [arm.label("arm")]
        if source.day:
            columns.append(_day(users.c[source.day], types[source.day][0]).label("day"))
        if source.segment:
            columns.append(users.c[source.segment].label("segment"))
        if source.currency_column:
            columns.append(users.c[source.currency_column].label("currency"))
        if source.covariate_until and source.day:
            late = users.c[source.covariate_until] > users.c[source.day]
            columns.append(case((late, 1), else_=0).label("late_covariate"))
        factor = self._factor()
        if factor is not None:
            columns.append(case((factor.is_(None), 1), else_=0).label("unpriced"))
        for quantity in self.needs.quantities:
            value: ColumnElement[Any] = users.c[quantity.name]
            if types[quantity.name][0] == "boolean":
                value = case((value.is_(True), 1), (value.is_(False), 0))
            if factor is not None and quantity.name in source.money:
                value = value * func.coalesce(factor, 0.0)
            if quantity.where:
                value = case((filter_clause(quantity.where, users.c), value), else_=0)
            columns.append(value.label(label(quantity)))
        statement = select(*columns).select_from(users)
        if source.where:
            statement = statement.where(filter_clause(source.where, users.c))
        if self.several and source.unit:
            unit, arms = users.c[source.unit], func.count(arm.distinct())
            twice = select(unit).where(filter_clause(source.where, users.c)).group_by(unit).having(arms > 1)
            statement = statement.where(unit.not_in(twice))
        return statement.cte("units")

    def _factor(self) -> ColumnElement[Any] | None:
        """What an amount is multiplied with, NULL for a currency without a rate."""
        rates, name = self.source.rates, self.source.currency_column
        if rates is None or name is None:
            return None
        column = self.session.users.c[name]
        return case(*((column == currency, rates.factor(currency)) for currency in rates.currencies))

    def _refuse_nulls(self, cells: Sequence[Cell], extras: Sequence[Mapping[str, Any]]) -> None:
        for quantity in self.needs.quantities:
            key = f"values_{label(quantity)}"
            missing = sum(cell.n - int(extra[key]) for cell, extra in zip(cells, extras, strict=True))
            if missing:
                raise DataError(
                    f"Column {quantity.name!r} is NULL in {_rows(missing)}. Write 0 where nothing happened, "
                    "and leave units out that are not to be counted."
                )

    def _refuse_mixed(self, extras: Sequence[Mapping[str, Any]]) -> None:
        rates = self.source.rates
        if rates is None and len(self._currencies(extras)) > 1:
            raise MixedCurrenciesError(self._all_currencies())
        if rates is not None and any(int(extra["unpriced"]) for extra in extras):
            known = set(rates.currencies)
            unknown = [c for c in self._all_currencies() if c not in known]
            raise MissingRateError(unknown or ["rows without a currency"], known)

    @staticmethod
    def _currencies(extras: Sequence[Mapping[str, Any]]) -> set[str]:
        return {extra[key] for extra in extras for key in ("currency_first", "currency_last") if extra.get(key)}

    def _all_currencies(self) -> list[str]:
        column = self.session.users.c[self.source.currency_column or ""]
        return [str(row[0]) for row in self.session.rows(select(column).distinct()) if row[0] is not None]

    def _with_tails(self, aggregates: Aggregates, settled: Extremes, units: FromClause) -> Aggregates:
        """Tails as far as sums and extremes bound them; counted in a look of their own where that says too little."""
        open_ones = tuple(sorted(c for c in self.needs.tails if _is_plain(c, settled)))
        if not open_ones:
            return aggregates
        bounded = replace(
            aggregates, cells=tuple(_bounded(cell, open_ones, settled, aggregates.shifts) for cell in aggregates.cells)
        )
        arms = [bounded.moments(arm) for arm in bounded.arms]
        if all(
            arm.tails[c].nonzero >= FEW_NONZERO
            and (arm.covariances is None or arm.tails[c].heaviest(arm.means[c], arm.variance(c), arm.n) <= ONE_UNIT)
            for arm in arms
            for c in open_ones
        ):
            return bounded
        layout = Layout(open_ones, (), open_ones, keys=self._layout(settled).keys)
        counted, _ = read_cells(self.session.rows(aggregate_select(units, layout, {})), layout)
        tails = {(cell.arm, cell.day, cell.segment): cell.tails for cell in counted}
        cells = tuple(replace(c, tails={**c.tails, **tails[c.arm, c.day, c.segment]}) for c in aggregates.cells)
        return replace(aggregates, cells=cells)

    def _facts(self, statements: Sequence[str], extras: Sequence[Mapping[str, Any]]) -> Facts:
        source = self.source
        found = self._currencies(extras)
        if source.rates:
            currency: str | None = source.rates.base
        else:
            currency = next(iter(found), source.currency)
        return Facts(
            source=source.label,
            sql=tuple(statements),
            multiple_arms=self.several,
            bucket=timedelta(days=1) if source.day else None,
            currency=currency,
            rates=source.rates,
            late_covariates=sum(int(e["late_covariates"] or 0) for e in extras) if source.covariate_until else None,
            segment=source.segment,
            filters=tuple(map(str, source.where)),
        )


def _rows(number: int) -> str:
    return f"{number:,} row{'s' * (number != 1)}"


def _is_plain(column: Column, settled: Extremes) -> bool:
    return column.name in settled and column == Column(column.name)


def _holds(rule: Rule, settled: Extremes) -> bool:
    """Whether the extremes alone show that no unit breaks the rule."""
    if not _is_plain(rule.column, settled):
        return False
    least, most = settled[rule.column.name]
    if rule.most is None:
        return least >= 0
    return _is_plain(rule.most, settled) and most <= settled[rule.most.name][0]


def _bounded(cell: Cell, columns: Sequence[Column], settled: Extremes, shifts: Mapping[Column, float]) -> Cell:
    """By Cauchy and Schwarz, k units with a value have (sum x)^2 <= k sum x^2."""
    tails = dict(cell.tails)
    for column in columns:
        shift = shifts.get(column, 0.0)
        total = cell.sums[column] + cell.n * shift
        square = cell.products[pair(column, column)] + 2 * shift * cell.sums[column] + cell.n * shift**2
        least = floor(total**2 / square) if square > 0 else 0
        tails[column] = Tail(min(least, cell.n), max(map(abs, settled[column.name])), exact=False)
    return replace(cell, tails=tails)


def _day(column: ColumnElement[Any], kind: Kind) -> ColumnElement[Any]:
    """The UTC day as a date, or as the microseconds of its start."""
    if kind == "date":
        return column
    return epoch_day(column) * DAY
