"""What every source gives: aggregates, and the facts about the data that a report has to state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, FromClause, Select, func, select

from analysis.aggregates import Aggregates, Cell, Frequencies, Needs, Rank, Ranked
from analysis.columns import Column, Limits, check_upper
from analysis.currencies import Rates
from analysis.errors import MetricError
from analysis.query import arm_label, frequency_select, label, quantile_select, rank_bounds, ranks_select

DAY = 24 * 3600 * 1_000_000

Execute = Callable[[Select[Any]], Sequence[Sequence[Any]]]
"""Runs a statement and gives all its rows."""


@dataclass(frozen=True)
class Late:
    """Rows that came in later than the `threshold` after they happened, of all rows that count."""

    rows: int
    of: int
    threshold: timedelta


@dataclass(frozen=True)
class Refunds:
    """Value taken back of orders that count, in minor units: inside the window (net of it), and after its end (not)."""

    counted: float
    after: float


@dataclass(frozen=True)
class Facts:
    """What a report says about its data besides the sums. None where the source cannot know."""

    source: str
    sql: tuple[str, ...]
    multiple_arms: int | None = None  # units seen in two arms; they are in no sum
    immature: int | None = None  # units whose window was not complete at the cut-off; they are in the sums
    window: timedelta | None = None
    pre_period: timedelta | None = None
    bucket: timedelta | None = None  # width of a day cell
    cut_off: datetime | None = None  # the newest data there is
    currency: str | None = None
    rates: Rates | None = None  # what amounts in other currencies were converted with
    config_versions: tuple[int, ...] = ()
    late_covariates: int | None = None  # units whose covariates reach beyond their first exposure
    late: Late | None = None
    refunds: Refunds | None = None
    segment: str | None = None  # what the segments are of
    filters: tuple[str, ...] = ()  # what units had to pass


@dataclass(frozen=True)
class Collected:
    aggregates: Aggregates
    facts: Facts


class Source(Protocol):
    """Anything that can answer for its units with aggregates."""

    def collect(self, needs: Needs) -> Collected: ...


def moment(microseconds: int) -> datetime:
    """Microseconds since the epoch as an aware time, exact to the microsecond."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection whose statements all see the data of one moment, for a report takes several.

    PostgreSQL: one repeatable-read transaction that can write nothing. SQLite and DuckDB: one transaction, which reads
    the state at its beginning. Elsewhere as far as the engine's own isolation level goes.
    """
    with engine.connect() as connection:
        name = connection.dialect.name
        if name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        elif name == "sqlite":
            connection.begin()  # SQLAlchemy's own notion; the driver itself begins only before it writes
            driver: Any = connection.connection.dbapi_connection
            if not driver.in_transaction:
                connection.exec_driver_sql("BEGIN")
        yield connection


def look_twice(query: Callable[[Mapping[Column, float]], list[Cell]]) -> Aggregates:
    """Run the query with no shift; where that lost digits to cancellation, once more around the means it found."""
    first = Aggregates(tuple(query({})))
    shifts = first.better_shifts()
    return first if shifts is None else Aggregates(tuple(query(shifts)), shifts)


def find_limits(execute: Execute, units: FromClause, needs: Needs) -> dict[Column, Limits]:
    """What the caps come to: quantiles over the units of all arms together. MetricError where a cap leaves nothing."""
    return {
        column: Limits(
            _limit(execute, units, column, "lower"),
            check_upper(upper, str(column)) if (upper := _limit(execute, units, column, "upper")) is not None else None,
        )
        for column in needs.capped
    }


def _limit(execute: Execute, units: FromClause, column: Column, side: str) -> float | None:
    cap = column.cap
    assert cap is not None, "only capped columns have limits"
    q: float | None = getattr(cap, f"{side}_quantile")
    if q is None:
        fixed: float | None = getattr(cap, side)
        return fixed
    counted = select(func.count()).select_from(units)
    if cap.nonzero:
        counted = counted.where(units.c[label(column.quantity)] != 0)
    n = int(execute(counted)[0][0])
    if n == 0:
        raise MetricError(f"There is no value other than 0 to take a quantile of, for the cap of {column.quantity}.")
    return float(execute(quantile_select(units, column, q, n, nonzero=cap.nonzero))[0][0])


def find_ranks(
    execute: Execute, units: FromClause, needs: Needs, counts: Mapping[str, int]
) -> dict[tuple[str, Rank], Ranked]:
    """The order statistics that the needs ask for, by arm. counts: units by arm."""
    found: dict[tuple[str, Rank], Ranked] = {}
    for rank in sorted(needs.ranks):
        wanted = {arm: rank_bounds(rank, n) for arm, n in counts.items() if n}
        rows = execute(ranks_select(units, rank.column, wanted))
        values = {(arm_label(arm), int(position)): float(value) for arm, position, value in rows}
        for arm, (low, at, high) in wanted.items():
            three = (values[arm, low], values[arm, at], values[arm, high])
            found[arm, rank] = Ranked(counts[arm], (low, at, high), three)
    return found


def find_tables(
    execute: Execute, units: FromClause, needs: Needs, limits: Mapping[Column, Limits]
) -> dict[tuple[str, tuple[Column, ...]], Frequencies]:
    """The tables of frequencies that the needs ask for, by arm, with caps and signs applied."""
    import numpy as np

    found: dict[tuple[str, tuple[Column, ...]], Frequencies] = {}
    for columns in sorted(needs.tables):
        by_arm: dict[str, list[list[float]]] = {}
        for arm, *rest in execute(frequency_select(units, columns)):
            by_arm.setdefault(arm_label(arm), []).append([float(value) for value in rest])
        for arm, counted in by_arm.items():
            table = np.array(sorted(counted))
            rows = np.column_stack([_as_summed(table[:, i], c, limits.get(c)) for i, c in enumerate(columns)])
            found[arm, columns] = Frequencies(rows, table[:, -1].astype(np.int64))
    return found


def _as_summed(values: Any, column: Column, limits: Limits | None) -> Any:
    import numpy as np

    if limits is not None:
        values = np.clip(values, limits.lower, limits.upper)
    return (values > 0).astype(float) if column.positive else values
