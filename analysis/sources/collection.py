"""Steps that the collection of every source takes: snapshot, shifts, limits of caps, order statistics, value tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, FromClause, Select, func, select

from analysis.aggregates import Aggregates, Cell, Frequencies, Needs, Rank, Ranked
from analysis.columns import Column, Limits, check_upper
from analysis.errors import MetricError
from analysis.query import arm_label, frequency_select, label, quantile_select, ranks_select
from analysis.ranks import rank_bounds

Execute = Callable[[Select[Any]], Sequence[Sequence[Any]]]
"""Runs a statement and returns all its rows."""


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Open a connection whose statements all see the data as of one time; a report runs several statements.

    PostgreSQL: one repeatable-read transaction that can write nothing. SQLite and DuckDB: one transaction, which reads
    the state at its beginning. Other engines: whatever their isolation level guarantees.
    """
    with engine.connect() as connection:
        name = connection.dialect.name
        if name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        elif name == "sqlite":
            connection.begin()  # SQLAlchemy's transaction; the driver begins its own only before its first write
            driver: Any = connection.connection.dbapi_connection
            if not driver.in_transaction:
                connection.exec_driver_sql("BEGIN")
        yield connection


def accurate_aggregates(query: Callable[[Mapping[Column, float]], list[Cell]]) -> Aggregates:
    """Run the query without shifts; if that lost digits to cancellation, run it again around the resulting means."""
    first = Aggregates(tuple(query({})))
    shifts = first.better_shifts()
    return first if shifts is None else Aggregates(tuple(query(shifts)), shifts)


def find_limits(execute: Execute, units: FromClause, needs: Needs) -> dict[Column, Limits]:
    """Find the limits of all caps: fixed, or quantiles over the units of all arms together.

    Args:
        execute: Runs a statement.
        units: One row per unit.
        needs: What the metrics need.

    Raises:
        MetricError: An upper limit is 0 or less, or there is no value to take a quantile of.
    """
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
        raise MetricError(
            f"All values of {column.quantity} are 0, so its cap at a quantile of the non-zero values has no limit. "
            "Remove the cap, or check the column."
        )
    return float(execute(quantile_select(units, column, q, n, nonzero=cap.nonzero))[0][0])


def find_ranks(
    execute: Execute, units: FromClause, needs: Needs, counts: Mapping[str, int]
) -> dict[tuple[str, Rank], Ranked]:
    """Find the order statistics that the metrics need, by arm.

    Args:
        execute: Runs a statement.
        units: One row per unit.
        needs: What the metrics need.
        counts: Number of units by arm.
    """
    ranked: dict[tuple[str, Rank], Ranked] = {}
    for rank in sorted(needs.ranks):
        bounds = {arm: rank_bounds(rank, n) for arm, n in counts.items() if n}
        rows = execute(ranks_select(units, rank.column, bounds))
        values = {(arm_label(arm), int(position)): float(value) for arm, position, value in rows}
        for arm, (low, at, high) in bounds.items():
            statistics = (values[arm, low], values[arm, at], values[arm, high])
            ranked[arm, rank] = Ranked(counts[arm], (low, at, high), statistics)
    return ranked


def find_tables(
    execute: Execute, units: FromClause, needs: Needs, limits: Mapping[Column, Limits]
) -> dict[tuple[str, tuple[Column, ...]], Frequencies]:
    """Count how often each combination of values occurs, by arm, with caps and signs applied."""
    import numpy as np

    tables: dict[tuple[str, tuple[Column, ...]], Frequencies] = {}
    for columns in sorted(needs.tables):
        by_arm: dict[str, list[list[float]]] = {}
        for arm, *rest in execute(frequency_select(units, columns)):
            by_arm.setdefault(arm_label(arm), []).append([float(value) for value in rest])
        for arm, counted in by_arm.items():
            table = np.array(sorted(counted))
            rows = np.column_stack([_as_summed(table[:, i], c, limits.get(c)) for i, c in enumerate(columns)])
            tables[arm, columns] = Frequencies(rows, table[:, -1].astype(np.int64))
    return tables


def _as_summed(values: Any, column: Column, limits: Limits | None) -> Any:
    import numpy as np

    if limits is not None:
        values = np.clip(values, limits.lower, limits.upper)
    return (values > 0).astype(float) if column.positive else values
