"""The base class of all sources with one row per unit: checks, collection, and values for simulations."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, func, literal, or_, select

from analysis.aggregates import Needs
from analysis.errors import DataError, MissingColumnError
from analysis.filters import ColumnTypes, filter_clause
from analysis.sources.base import Collected
from analysis.sources.session import Session
from analysis.sources.user_columns import UserColumns
from analysis.sources.user_query import collect_rows, rows_text


@dataclass(frozen=True, kw_only=True)
class UserRows(UserColumns, ABC):
    """A source with one row per unit; `UserColumns` describes its attributes."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the source in messages and in the report."""

    @property
    def relation(self) -> str:
        """The source as a query names it after FROM."""
        return "users"

    @abstractmethod
    def open(self, needs: Needs) -> AbstractContextManager[Session]:
        """Open the source. Errors of its driver become SourceError."""

    def collect(self, needs: Needs) -> Collected:
        """Return the aggregates that the metrics need, and facts about the data.

        Raises:
            DataError: The data holds NULL, NaN, duplicates or mixed currencies.
            MissingColumnError: A column is missing.
            SourceError: The source cannot be read.
        """
        # A column that is only used by its sign or its cap is also summed unchanged: NaN > 0 holds in SQL, but the sum
        # of the column shows a NaN.
        needs |= Needs(frozenset(needs.quantities))
        for column in needs.quantities:
            if column.window is not None:
                raise DataError(
                    f"{column} has a window, and {self.label} has one row per unit, without the times of its events. "
                    "Apply the window where the table is made."
                )
        with self.open(needs) as session:
            self._check_columns(needs, session)
            return collect_rows(self, self.label, session, needs, self._units_in_several_arms(session))

    def values(self, needs: Needs) -> dict[str, Any]:
        """Return the columns that the metrics read, one value per unit, as NumPy arrays, shape (n,) each.

        Only simulations use this: they assign the units to arms themselves, so all arms are read together. `where`
        applies. The errors are those of `collect`.
        """
        import numpy as np

        names = sorted({column.name for column in needs.quantities})
        with self.open(needs) as session:
            self._check_columns(needs, session)
            columns = [session.users.c[name] for name in names]
            read = session.arrays(select(*columns).where(filter_clause(self.where, session.users.c, session.types)))
        arrays: dict[str, Any] = {name: np.ma.filled(np.ma.asarray(read[name], dtype=float), np.nan) for name in names}
        for name, array in arrays.items():
            if missing := int(np.count_nonzero(np.isnan(array))):
                raise DataError(
                    f"Column {name!r} is NULL or NaN in {rows_text(missing)}. Write 0 where nothing happened."
                )
        return arrays

    def _check_columns(self, needs: Needs, session: Session) -> None:
        types: ColumnTypes = session.types
        for name in self.names(needs):
            if name not in types:
                raise MissingColumnError(name, types, self.label)
        for name in sorted({column.name for column in needs.quantities}):
            kind, type_name = types[name]
            if kind not in ("number", "boolean"):
                raise DataError(f"Column {name!r} is {type_name}, and a metric needs numbers. Cast it at the source.")
        compared = {f.column for f in (*self.where, *(f for c in needs.quantities for f in c.where))}
        used = sorted(compared | {column.name for column in needs.quantities})
        for name, (number, text) in session.stray_texts([n for n in used if types[n][0] == "number"]).items():
            raise DataError(
                f"Column {name!r} is {types[name][1]} and holds text in {rows_text(number)}, for example {text!r}. "
                "Clean it at the source."
            )
        for time in (self.day, self.covariate_until):
            if time and types[time][0] not in ("date", "instant"):
                raise DataError(
                    f"Column {time!r} is {types[time][1]}, which leaves the time zone open. Give a DATE of UTC days or "
                    f"a TIMESTAMP WITH TIME ZONE. If the times are UTC, use {self._with_utc_day(time)} as the table "
                    f"(in a database as a view), and the column {time}_utc."
                )

    def _with_utc_day(self, time: str) -> str:
        """Return a query that adds a time as a UTC day."""
        return f'"SELECT *, CAST({time} AS DATE) AS {time}_utc FROM {self.relation}"'

    def _units_in_several_arms(self, session: Session) -> int | None:
        """Count the units in several arms, and refuse units without an id or with several rows in one arm."""
        if self.unit is None:
            return None
        users = session.users
        arm: ColumnElement[Any] = users.c[self.variant] if self.variant else literal("all")
        unit, arms = users.c[self.unit], func.count(arm.distinct())
        repeated = (
            select(unit.label("unit"), func.count().label("n"), arms.label("arms"))
            .where(filter_clause(self.where, users.c, session.types))
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
        several, duplicates, missing = (int(value or 0) for value in session.rows(select(*counts))[0])
        if missing:
            raise DataError(f"Column {self.unit!r} is NULL in some rows. Every row needs the id of its unit.")
        if duplicates:
            raise DataError(
                f"{duplicates:,} units have several rows in one arm, and each row would count as a unit. "
                "Sum them up to one row per unit first."
            )
        return several
