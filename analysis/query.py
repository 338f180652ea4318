"""The one aggregate query, in SQLAlchemy Core, and the conversion of its rows to cells.

The same statement runs on SQLite, PostgreSQL, DuckDB and Spark: it uses only `CAST`, `CASE`, `SUM`, `COUNT`, `MAX` and
`ABS`. Order statistics, for quantiles and caps, use `ORDER BY .. LIMIT .. OFFSET` or `ROW_NUMBER`. All arithmetic is in
double precision, because integer products of large amounts overflow in SQLite and PostgreSQL.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import blake2b
from math import nan
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    FromClause,
    Select,
    case,
    cast,
    extract,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy import column as sql_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from analysis.aggregates import Cell, Needs, Pair, Rule, Tail
from analysis.columns import Column, Limits
from analysis.ranks import quantile_rank
from analysis.times import DAY, EPOCH

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Columns of the per-unit rows besides the quantities.
_OWN_NAMES = {"arm", "day", "segment", "currency", "unpriced", "late_covariate", "first_time", "unit_id", "placed_at"}
_OWN_NAMES |= {"currency_first", "currency_last"}

LARGEST_EXACT = 2.0**53  # doubles above it cannot hold every integer

UNKNOWN = "unknown"  # segment of the units that have none


@dataclass(frozen=True)
class Layout:
    """The columns of `aggregate_select`, in order.

    The order is: keys, n, sums, products, nonzero and largest of each tail, units that break each rule, units that each
    cap changed, extras. Rows are read by position, so that the name of one column cannot be confused with another's
    sum.

    Attributes:
        columns: Columns to sum.
        products: Pairs of columns whose products are summed.
        tails: Columns whose tails are counted.
        rules: Rules whose violations are counted.
        capped: Columns with a cap.
        keys: `arm`, and optionally `day` and `segment`.
        extras: Further expressions by name.
        passed: Columns that the extras are computed from.
        integers: Columns of 64-bit integers, whose large shifts are subtracted before the conversion to doubles.
    """

    columns: tuple[Column, ...]
    products: tuple[Pair, ...]
    tails: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    capped: tuple[Column, ...] = ()
    keys: tuple[str, ...] = ("arm",)
    extras: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)
    passed: tuple[str, ...] = ()
    integers: frozenset[Column] = frozenset()

    @classmethod
    def of(cls, needs: Needs, **rest: Any) -> "Layout":
        """Return the layout of what metrics need. rest: the other attributes."""
        return cls(
            tuple(sorted(needs.columns)),
            tuple(sorted(needs.products)),
            tuple(sorted(needs.tails)),
            tuple(sorted(needs.rules)),
            needs.capped,
            **rest,
        )


def label(column: Column) -> str:
    """Return the SQL name of a column: its text if that is a short plain name, else its first letters and a hash.

    PostgreSQL cuts names at 63 bytes, and the names of products contain two names. BigQuery allows only letters, digits
    and underscores. The result never equals one of the query's own names.
    """
    text = str(column)
    if _PLAIN_NAME.fullmatch(text) and len(text) <= 24 and text not in _OWN_NAMES and not text.startswith("uncapped_"):
        return text
    start = "".join(c if _PLAIN_NAME.fullmatch(c) or c.isdecimal() else "_" for c in column.name[:12] if c.isascii())
    return f"c_{start}_{blake2b(text.encode(), digest_size=4).hexdigest()}"


def aggregate_select(
    units: FromClause, layout: Layout, shifts: Mapping[Column, float], limits: Mapping[Column, Limits] | None = None
) -> Select[Any]:
    """Select the sums per arm, interval of time and segment.

    Args:
        units: One row per unit, with the keys and, by `label`, the quantities.
        layout: The columns to list.
        shifts: Shift of each column; 0 if missing.
        limits: Limits of each capped column.
    """
    limits = limits or {}
    values = _unit_values(units, layout, shifts, limits)
    x = {column: values.c[label(column)] for column in layout.columns}
    keys = [values.c[key] for key in layout.keys]
    selected: list[ColumnElement[Any]] = [*keys, func.count().label("n")]
    selected += [func.sum(x[c]).label(f"sum_{label(c)}") for c in layout.columns]
    selected += [func.sum(x[a] * x[b]).label(f"sum_{label(a)}_x_{label(b)}") for a, b in layout.products]
    for column in layout.tails:
        selected += _tail(column, x[column], shifts.get(column, 0.0))
    for number, rule in enumerate(layout.rules, 1):
        selected.append(func.sum(case((_broken(rule, x, shifts), 1), else_=0)).label(f"broken_{number}"))
    for column in layout.capped:
        outside = _outside(values.c[f"uncapped_{label(column)}"], limits[column])
        selected.append(func.sum(case((outside, 1), else_=0)).label(f"capped_{label(column)}"))
    selected += [expression.label(name) for name, expression in layout.extras.items()]
    return select(*selected).group_by(*keys)


def _unit_values(
    units: FromClause, layout: Layout, shifts: Mapping[Column, float], limits: Mapping[Column, Limits]
) -> CTE:
    """Select one row per unit, with each column's value: its sign or capped value, minus its shift."""

    def shifted(column: Column) -> ColumnElement[Any]:
        plain = units.c[label(column.quantity)]
        shift = shifts.get(column, 0.0)
        if column in layout.integers and abs(shift) >= LARGEST_EXACT:
            return cast(plain - literal(int(shift), BigInteger()), Double).label(label(column))
        value: ColumnElement[Any] = case((plain > 0, 1.0), else_=0.0) if column.positive else cast(plain, Double)
        value = _limited(value, limits.get(column))
        return (value - shift if shift else value).label(label(column))

    plain = [units.c[name] for name in (*layout.keys, *layout.passed)]
    plain += [units.c[label(c.quantity)].label(f"uncapped_{label(c)}") for c in layout.capped]
    return select(*plain, *(shifted(column) for column in layout.columns)).cte("unit_values")


def _tail(column: Column, x: ColumnElement[Any], shift: float) -> list[ColumnElement[Any]]:
    """Select how many units have a value other than 0, and the largest absolute value. x: values minus the shift."""
    nonzero = case((x != (-shift if shift else 0), 1), else_=0)
    largest = func.max(func.abs(x + shift if shift else x))
    return [func.sum(nonzero).label(f"nonzero_{label(column)}"), largest.label(f"largest_{label(column)}")]


def _broken(rule: Rule, x: Mapping[Column, ColumnElement[Any]], shifts: Mapping[Column, float]) -> ColumnElement[bool]:
    """Return the condition that a unit breaks a rule. x: values minus the shifts."""
    bound = shifts.get(rule.most, 0.0) if rule.most else 0.0
    left, right = x[rule.column], x[rule.most] if rule.most else None
    gap = bound - shifts.get(rule.column, 0.0)
    return left > (right + gap if gap else right) if right is not None else left < gap


def _limited(value: ColumnElement[Any], limits: Limits | None) -> ColumnElement[Any]:
    if limits is None:
        return value
    cases = []
    if limits.upper is not None:
        cases.append((value > limits.upper, limits.upper))
    if limits.lower is not None:
        cases.append((value < limits.lower, limits.lower))
    return case(*cases, else_=value) if cases else value


def _outside(value: ColumnElement[Any], limits: Limits) -> ColumnElement[bool]:
    sides = [value > limits.upper] if limits.upper is not None else []
    return or_(*sides, *([value < limits.lower] if limits.lower is not None else []))


def quantile_select(units: FromClause, column: Column, q: float, n: int, *, nonzero: bool) -> Select[Any]:
    """Select the smallest value with at least a share q of the n values at or below it: one row.

    The statement sorts from the nearer end, so that a database keeps few values for a high quantile.

    Args:
        units: One row per unit.
        column: The column.
        q: The quantile.
        n: Number of values.
        nonzero: Whether to leave out the value 0; `n` counts the rest.
    """
    value = units.c[label(column.quantity)]
    rank = quantile_rank(q, n)
    descending = rank > n / 2
    statement = select(value).order_by(value.desc() if descending else value.asc())
    statement = statement.where(value != 0) if nonzero else statement
    return statement.offset(n - rank if descending else rank - 1).limit(1)


def ranks_select(units: FromClause, column: Column, ranks: Mapping[str, Iterable[int]]) -> Select[Any]:
    """Select order statistics: rows of arm, rank (from 1) and value.

    Args:
        units: One row per unit.
        column: The column.
        ranks: Ranks by arm.
    """
    value = units.c[label(column.quantity)]
    position = func.row_number().over(partition_by=units.c.arm, order_by=value.asc())
    ordered = select(units.c.arm, position.label("position"), cast(value, Double).label("value")).cte("ordered")
    positions = sorted({rank for in_arm in ranks.values() for rank in in_arm})
    return select(ordered.c.arm, ordered.c.position, ordered.c.value).where(sql_column("position").in_(positions))


def frequency_select(units: FromClause, columns: Sequence[Column]) -> Select[Any]:
    """Count how many units of each arm have which values: rows of arm, values and number."""
    values = [cast(units.c[label(column.quantity)], Double).label(f"value_{i}") for i, column in enumerate(columns, 1)]
    return select(units.c.arm, *values, func.count().label("n")).group_by(units.c.arm, *values)


def read_cells(rows: Iterable[Sequence[Any]], layout: Layout) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Convert rows of `aggregate_select` to cells, and the values of the extras row by row.

    A sum is None only where every value is NULL; it becomes NaN, which `Aggregates` refuses.
    """
    cells, extras = [], []
    for row in rows:
        values = iter(row)
        key = {name: next(values) for name in layout.keys}
        segment = None
        if "segment" in key:
            segment = UNKNOWN if key["segment"] is None else arm_label(key["segment"])
        cells.append(
            Cell(
                arm=arm_label(key["arm"]),
                day=_day(key.get("day")),
                segment=segment,
                n=int(next(values)),
                sums={column: _float(next(values)) for column in layout.columns},
                products={product: _float(next(values)) for product in layout.products},
                tails={column: Tail(int(next(values)), _float(next(values))) for column in layout.tails},
                broken={rule: int(next(values)) for rule in layout.rules},
                capped={column: int(next(values)) for column in layout.capped},
            )
        )
        extras.append({name: next(values) for name in layout.extras})
    return cells, extras


def arm_label(value: Any) -> str:
    """Return an arm or segment as text. 1.0 becomes 1: some files turn whole numbers with gaps into floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _day(value: Any) -> int | None:
    """Return the start of a day in microseconds since the epoch, from a date or from such a number."""
    if isinstance(value, date):
        return (value - EPOCH.date()).days * DAY
    return None if value is None else int(value)


def _float(value: Any) -> float:
    return nan if value is None else float(value)


def sql_text(statement: Select[Any], dialect: Dialect) -> str:
    """Return a statement as text for a console: with its values, and without the doubled `%` of a driver."""
    build: Any = type(dialect)  # the constructor of each dialect takes a paramstyle; that of the base class does not
    compiled = statement.compile(dialect=build(paramstyle="named"), compile_kwargs={"literal_binds": True})
    return _one_item_a_line(str(compiled))


def _one_item_a_line(sql: str) -> str:
    """Break the lists of SELECTs, which SQLAlchemy writes on one line each. Only spaces outside quotes change."""
    lines = []
    for line in sql.split("\n"):
        if not line.lstrip(" (").startswith("SELECT "):
            lines.append(line.rstrip())
            continue
        out, quote = "", ""
        depth = -line[: line.index("SELECT ")].count("(")
        for character in line.rstrip():
            if quote:
                quote = "" if character == quote else quote
            elif character in "'\"":
                quote = character
            else:
                depth += {"(": 1, ")": -1}.get(character, 0)
            out += character
            if character == "," and depth == 0 and not quote:
                out += "\n   "
        lines.append(out)
    return "\n".join(lines)


class epoch_day(FunctionElement[int]):
    """SQL function: days from 1970 to the UTC day of an instant, in each database's dialect."""

    type = BigInteger()
    inherit_cache = True


@compiles(epoch_day)
def _epoch_day(element: epoch_day, compiler: Any, **options: Any) -> str:
    (instant,) = element.clauses
    seconds = extract("epoch", cast(instant, DateTime(timezone=True)))
    return str(compiler.process(cast(func.floor(seconds / 86400), BigInteger), **options))


@compiles(epoch_day, "bigquery")
def _epoch_day_bigquery(element: epoch_day, compiler: Any, **options: Any) -> str:
    return f"UNIX_DATE(DATE({compiler.process(element.clauses, **options)}, 'UTC'))"


@compiles(epoch_day, "spark")
@compiles(epoch_day, "databricks")
def _epoch_day_spark(element: epoch_day, compiler: Any, **options: Any) -> str:
    return f"CAST(floor(unix_seconds({compiler.process(element.clauses, **options)}) / 86400) AS BIGINT)"


def floor_to(time: ColumnElement[Any], step: int) -> ColumnElement[Any]:
    """Return the start of the interval of `step` microseconds that contains a time from 1970 on."""
    return time - time % step
