"""The one aggregate query, in SQLAlchemy Core, and its rows read back as cells.

The same statement runs on SQLite, PostgreSQL and DuckDB: `CAST`, `CASE`, `SUM`, `COUNT`, `MAX` and `ABS` are all it
uses; order statistics, for quantiles and caps, take `ORDER BY .. LIMIT .. OFFSET` or `ROW_NUMBER`. All arithmetic is in
double precision: integer products overflow in SQLite and PostgreSQL where amounts are large.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from math import nan
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    FromClause,
    Select,
    and_,
    case,
    cast,
    extract,
    func,
    or_,
    select,
    true,
)
from sqlalchemy import column as sql_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from analysis.aggregates import Cell, Needs, Pair, Rank, Rule, Tail
from analysis.columns import Column, Filter, Limits

_EPOCH = date(1970, 1, 1)
_DAY = 24 * 3600 * 1_000_000

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What the per-unit rows hold besides the quantities.
_OWN_NAMES = {"arm", "day", "segment", "currency", "unpriced", "late_covariate", "first_time", "unit_id", "placed_at"}
_OWN_NAMES |= {"currency_first", "currency_last"}


@dataclass(frozen=True)
class Layout:
    """What `aggregate_select` lists, in this order: keys, n, sums, products, nonzero and largest of each tail, units
    that break each rule, units that each cap changed, extras.

    Rows are read by position, so that no name of a column can be mistaken for another's sum. keys: `arm`, then perhaps
    `day` and `segment`. passed: columns that the extras are computed from.
    """

    columns: tuple[Column, ...]
    products: tuple[Pair, ...]
    tails: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    capped: tuple[Column, ...] = ()
    keys: tuple[str, ...] = ("arm",)
    extras: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)
    passed: tuple[str, ...] = ()

    @classmethod
    def of(cls, needs: Needs, **rest: Any) -> "Layout":
        return cls(
            tuple(sorted(needs.columns)),
            tuple(sorted(needs.products)),
            tuple(sorted(needs.tails)),
            tuple(sorted(needs.rules)),
            needs.capped,
            **rest,
        )


def label(column: Column) -> str:
    """A name for a column's values in SQL: its text, or, where that is no short plain name, the beginning of it and a
    number of its own.

    PostgreSQL cuts names at 63 bytes, and the names of products hold two of these. BigQuery takes letters, digits and
    underscores only. The query's own names stay free.
    """
    text = str(column)
    if _PLAIN_NAME.fullmatch(text) and len(text) <= 24 and text not in _OWN_NAMES and not text.startswith("uncapped_"):
        return text
    from hashlib import blake2b

    start = "".join(c if _PLAIN_NAME.fullmatch(c) or c.isdecimal() else "_" for c in column.name[:12] if c.isascii())
    return f"c_{start}_{blake2b(text.encode(), digest_size=4).hexdigest()}"


def aggregate_select(
    units: FromClause, layout: Layout, shifts: Mapping[Column, float], limits: Mapping[Column, Limits] | None = None
) -> Select[Any]:
    """Sums per arm, day and segment over `units`: one row per unit, with the keys and, by `label`, the quantities."""
    limits = limits or {}

    def shifted(column: Column) -> ColumnElement[Any]:
        plain = units.c[label(column.quantity)]
        value: ColumnElement[Any] = case((plain > 0, 1.0), else_=0.0) if column.positive else cast(plain, Double)
        value = _limited(value, limits.get(column))
        shift = shifts.get(column, 0.0)
        return (value - shift if shift else value).label(label(column))

    plain = [units.c[name] for name in (*layout.keys, *layout.passed)]
    plain += [units.c[label(c.quantity)].label(f"uncapped_{label(c)}") for c in layout.capped]
    values = select(*plain, *(shifted(column) for column in layout.columns)).cte("unit_values")
    x = {column: values.c[label(column)] for column in layout.columns}
    keys = [values.c[key] for key in layout.keys]
    selected: list[ColumnElement[Any]] = [*keys, func.count().label("n")]
    selected += [func.sum(x[c]).label(f"sum_{label(c)}") for c in layout.columns]
    selected += [func.sum(x[a] * x[b]).label(f"sum_{label(a)}_x_{label(b)}") for a, b in layout.products]
    for column in layout.tails:
        shift = shifts.get(column, 0.0)
        changed = case((x[column] != (-shift if shift else 0), 1), else_=0)
        selected.append(func.sum(changed).label(f"nonzero_{label(column)}"))
        largest = func.max(func.abs(x[column] + shift if shift else x[column]))
        selected.append(largest.label(f"largest_{label(column)}"))
    for number, rule in enumerate(layout.rules, 1):
        bound = shifts.get(rule.most, 0.0) if rule.most else 0.0
        left, right = x[rule.column], x[rule.most] if rule.most else None
        gap = bound - shifts.get(rule.column, 0.0)
        broken = left > (right + gap if gap else right) if right is not None else left < gap
        selected.append(func.sum(case((broken, 1), else_=0)).label(f"broken_{number}"))
    for column in layout.capped:
        outside = _outside(values.c[f"uncapped_{label(column)}"], limits[column])
        selected.append(func.sum(case((outside, 1), else_=0)).label(f"capped_{label(column)}"))
    selected += [expression.label(name) for name, expression in layout.extras.items()]
    return select(*selected).group_by(*keys)


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


def filter_clause(filters: Sequence[Filter], columns: Any) -> ColumnElement[bool]:
    """All of the filters, as SQL. columns: looked up by name, `columns[name]`."""
    return and_(true(), *(_one_filter(f, columns[f.column]) for f in filters))


def _one_filter(given: Filter, column: ColumnElement[Any]) -> ColumnElement[bool]:
    if given.op == "in":
        return column.in_(list(given.value))  # type: ignore[arg-type]
    compare = {
        "=": column.__eq__,
        "!=": column.__ne__,
        "<": column.__lt__,
        "<=": column.__le__,
        ">": column.__gt__,
        ">=": column.__ge__,
    }[given.op]
    result: ColumnElement[bool] = compare(given.value)
    return result


def quantile_select(units: FromClause, column: Column, q: float, n: int, *, nonzero: bool) -> Select[Any]:
    """The smallest value with at least a share q of the n values at or below it: one row.

    Sorted from the nearer end, so that a database keeps few values for a high quantile.
    """
    value = units.c[label(column.quantity)]
    rank = quantile_rank(q, n)
    descending = rank > n / 2
    statement = select(value).order_by(value.desc() if descending else value.asc())
    statement = statement.where(value != 0) if nonzero else statement
    return statement.offset(n - rank if descending else rank - 1).limit(1)


def ranks_select(units: FromClause, column: Column, ranks: Mapping[str, Iterable[int]]) -> Select[Any]:
    """Order statistics by arm: rows of arm, rank (from 1) and value. ranks: the wanted ones, by label of arm."""
    value = units.c[label(column.quantity)]
    position = func.row_number().over(partition_by=units.c.arm, order_by=value.asc())
    ordered = select(units.c.arm, position.label("position"), cast(value, Double).label("value")).cte("ordered")
    wanted = sorted({rank for those in ranks.values() for rank in those})
    return select(ordered.c.arm, ordered.c.position, ordered.c.value).where(sql_column("position").in_(wanted))


def frequency_select(units: FromClause, columns: Sequence[Column]) -> Select[Any]:
    """How many units of each arm have which values of these columns: rows of arm, values and number."""
    values = [cast(units.c[label(column.quantity)], Double).label(f"value_{i}") for i, column in enumerate(columns, 1)]
    return select(units.c.arm, *values, func.count().label("n")).group_by(units.c.arm, *values)


def quantile_rank(q: float, n: int) -> int:
    """Rank, counted from 1, of the quantile q of n values: ceil(q n). A product just above a whole number is one."""
    from math import ceil

    return min(max(ceil(q * n - 1e-9), 1), n)


def rank_bounds(rank: Rank, n: int) -> tuple[int, int, int]:
    """Ranks of the order statistics below, at and above a quantile of n values."""
    from math import ceil, floor, sqrt

    reach = rank.reach * sqrt(n * rank.q * (1 - rank.q))
    return max(floor(rank.q * n - reach), 1), quantile_rank(rank.q, n), min(ceil(rank.q * n + reach) + 1, n)


def read_cells(rows: Iterable[Sequence[Any]], layout: Layout) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Rows of `aggregate_select` as cells, and the values of the extras row by row.

    A sum is None only where every value was NULL; it becomes NaN, which `Aggregates` refuses.
    """
    cells, extras = [], []
    for row in rows:
        values = iter(row)
        key = {name: next(values) for name in layout.keys}
        segment = key.get("segment")
        cells.append(
            Cell(
                arm=arm_label(key["arm"]),
                day=_day(key.get("day")),
                segment=None if segment is None else arm_label(segment),
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
    """An arm or segment as text; 1.0, as a file with a gap in a column of numbers has it, is 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _day(value: Any) -> int | None:
    """Microseconds of the start of a day, from those or from a date."""
    if isinstance(value, date):
        return (value - _EPOCH).days * _DAY
    return None if value is None else int(value)


def _float(value: Any) -> float:
    return nan if value is None else float(value)


def sql_text(statement: Select[Any], dialect: Dialect) -> str:
    """The statement as text that can be pasted into a console: values written out, `%` not doubled for a driver."""
    build: Any = type(dialect)  # each dialect's own constructor takes a paramstyle; the base class's does not
    compiled = statement.compile(dialect=build(paramstyle="named"), compile_kwargs={"literal_binds": True})
    return _one_item_a_line(str(compiled))


def _one_item_a_line(sql: str) -> str:
    """Break the lists of SELECTs, which SQLAlchemy writes on one line each. Only spaces outside quotes are changed."""
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
    """Days from 1970 to the UTC day of an instant, as each database says it."""

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
    """Start of the interval of `step` microseconds that a time from 1970 on falls in."""
    return time - time % step
