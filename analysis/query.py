"""The one aggregate query, in SQLAlchemy Core, and its rows read back as cells.

The same statement runs on SQLite, PostgreSQL and DuckDB: `CAST`, `CASE`, `SUM`, `COUNT`, `MAX` and `ABS` are all
it uses. All arithmetic is in double precision: integer products overflow in SQLite and PostgreSQL where amounts are
large.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

from sqlalchemy import ColumnElement, Dialect, Double, FromClause, Select, case, cast, func, select

from analysis.aggregates import Cell, Column, Needs, Pair, Tail


@dataclass(frozen=True)
class Layout:
    """What `aggregate_select` lists, in this order: keys, n, sums, products, nonzero and largest of each tail, extras.

    Rows are read by position, so that no name of a column can be mistaken for another's sum. keys: `arm`, then perhaps
    `day` and `segment`. passed: columns that the extras are computed from.
    """

    columns: tuple[Column, ...]
    products: tuple[Pair, ...]
    tails: tuple[Column, ...]
    keys: tuple[str, ...] = ("arm",)
    extras: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)
    passed: tuple[str, ...] = ()

    @classmethod
    def of(cls, needs: Needs, **rest: Any) -> "Layout":
        return cls(tuple(sorted(needs.columns)), tuple(sorted(needs.products)), tuple(sorted(needs.tails)), **rest)


def aggregate_select(units: FromClause, layout: Layout, shifts: Mapping[Column, float]) -> Select[Any]:
    """Sums per arm, day and segment over `units`: one row per unit, with the keys and the columns of the layout."""

    def shifted(column: Column) -> ColumnElement[Any]:
        plain = units.c[column.name]
        value: ColumnElement[Any] = case((plain > 0, 1.0), else_=0.0) if column.positive else cast(plain, Double)
        shift = shifts.get(column, 0.0)
        return (value - shift if shift else value).label(str(column))

    plain = [units.c[name] for name in (*layout.keys, *layout.passed)]
    values = select(*plain, *(shifted(column) for column in layout.columns)).cte("unit_values")
    x = {column: values.c[str(column)] for column in layout.columns}
    keys = [values.c[key] for key in layout.keys]
    selected: list[ColumnElement[Any]] = [*keys, func.count().label("n")]
    selected += [func.sum(x[c]).label(f"sum {c}") for c in layout.columns]
    selected += [func.sum(x[a] * x[b]).label(f"sum {a} * {b}") for a, b in layout.products]
    for column in layout.tails:
        shift = shifts.get(column, 0.0)
        selected.append(func.count(case((x[column] != (-shift if shift else 0), 1))).label(f"nonzero {column}"))
        selected.append(func.max(func.abs(x[column] + shift if shift else x[column])).label(f"largest {column}"))
    selected += [expression.label(name) for name, expression in layout.extras.items()]
    return select(*selected).group_by(*keys)


def read_cells(rows: Iterable[Sequence[Any]], layout: Layout) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Rows of `aggregate_select` as cells, and the values of the extras row by row.

    A sum is None only where every value was NULL; it becomes NaN, which `Aggregates` refuses.
    """
    cells, extras = [], []
    for row in rows:
        values = iter(row)
        key = {name: next(values) for name in layout.keys}
        day, segment = key.get("day"), key.get("segment")
        cells.append(
            Cell(
                arm=str(key["arm"]),
                day=None if day is None else int(day),
                segment=None if segment is None else str(segment),
                n=int(next(values)),
                sums={column: _float(next(values)) for column in layout.columns},
                products={product: _float(next(values)) for product in layout.products},
                tails={column: Tail(int(next(values)), _float(next(values))) for column in layout.tails},
            )
        )
        extras.append({name: next(values) for name in layout.extras})
    return cells, extras


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


def floor_to(time: ColumnElement[Any], step: int) -> ColumnElement[Any]:
    """Start of the interval of `step` microseconds that a time from 1970 on falls in."""
    return time - time % step
