"""Conditions on rows as SQL. The type of the column decides how a value is compared, not the look of the value.

`zip = 00501` selects exactly that text in a text column, and is refused on a column of numbers, which has no leading
zeros. NULL satisfies no condition, also not `!=`, on every source.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from math import isfinite
from typing import Any, Literal, TypeVar

from sqlalchemy import BigInteger, Boolean, ColumnElement, Date, DateTime, Double, String, and_, cast, literal, true

from analysis.columns import Filter, Value
from analysis.errors import ArgumentError

Kind = Literal["number", "boolean", "date", "timestamp", "instant", "text", "other"]
"""Kind of a column: `timestamp` has no time zone, `instant` has one. Values of `other` are compared as text."""

ColumnTypes = Mapping[str, tuple[Kind, str]]
"""Kind of each column, and the source's own name of its type."""

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_Parsed = TypeVar("_Parsed")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def filter_clause(filters: Sequence[Filter], columns: Any, types: ColumnTypes) -> ColumnElement[bool]:
    """Return the condition that all filters hold.

    Args:
        filters: The conditions.
        columns: The columns by name.
        types: Kind and type of each column.

    Raises:
        ArgumentError: A value does not fit the type of its column.
    """
    return and_(true(), *(_one_filter(f, columns[f.column], *types[f.column]) for f in filters))


def _one_filter(condition: Filter, column: ColumnElement[Any], kind: Kind, type_name: str) -> ColumnElement[bool]:
    given = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    values = [_TYPED[kind](value) for value in given]
    if None in values:
        bad = given[values.index(None)]
        raise ArgumentError(
            f"Column {condition.column!r} is {type_name}, and the filter {condition} compares it with {bad!r}. "
            f"Give {_EXAMPLES[kind]}."
        )
    if kind == "other":
        if condition.op not in ("=", "!=", "in"):
            raise ArgumentError(
                f"Column {condition.column!r} is {type_name}, whose values have no order for the filter {condition}. "
                "Cast the column at the source, or use = or !=."
            )
        column = cast(column, String)
    literals = [_literal(value) for value in values]
    if isinstance(condition.value, tuple):
        return column.not_in(literals) if condition.op == "!=" else column.in_(literals)
    compare = {
        "=": column.__eq__,
        "!=": column.__ne__,
        "<": column.__lt__,
        "<=": column.__le__,
        ">": column.__gt__,
        ">=": column.__ge__,
    }[condition.op]
    result: ColumnElement[bool] = compare(literals[0])
    return result


def _number(value: Value) -> int | float | None:
    if isinstance(value, str):
        text = value.strip()
        if _WHOLE.fullmatch(text):
            value = int(text)
        elif _NUMBER.fullmatch(text):
            value = float(text)
        else:
            return None
    if isinstance(value, bool) or not isfinite(value):
        return None
    return value if isinstance(value, float) or abs(value) < 2**63 else float(value)


def _boolean(value: Value) -> bool | None:
    return _BOOLEANS.get(str(value).strip().lower())


def _date(value: Value) -> date | None:
    return _parsed(date.fromisoformat, value)


def _timestamp(value: Value) -> datetime | None:
    time = _parsed(datetime.fromisoformat, value)
    return time if time is not None and time.tzinfo is None else None


def _instant(value: Value) -> datetime | None:
    """Return an instant; a date is its start in UTC, and a time needs a zone."""
    day = _date(value)
    if day is not None:
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    time = _parsed(datetime.fromisoformat, value)
    return time.astimezone(UTC) if time is not None and time.tzinfo is not None else None


def _text(value: Value) -> str | None:
    """Return a text; YAML reads `no` as false and `1.10` as 1.1, so such values are refused."""
    return None if isinstance(value, bool | float) else str(value)


def _parsed(parse: Callable[[str], _Parsed], value: Value) -> _Parsed | None:
    try:
        return parse(str(value).strip())
    except ValueError:
        return None


_TYPED: Mapping[Kind, Callable[[Value], Any]] = {
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
    "instant": _instant,
    "text": _text,
    "other": _text,
}
_EXAMPLES: Mapping[Kind, str] = {
    "number": "a number without leading zeros, such as 501",
    "boolean": "true or false",
    "date": "a day, such as 2026-06-01",
    "timestamp": "a time without a zone, such as 2026-06-01T12:00",
    "instant": "a UTC day or a time with a zone, such as 2026-06-01 or 2026-06-01T12:00Z",
    "text": "a text; write it in quotes in a file",
    "other": "a text; write it in quotes in a file",
}


def _literal(value: Any) -> ColumnElement[Any]:
    """Return a value with its own SQL type: without one, SQLAlchemy would cut 1.5 to the integers of a column."""
    if isinstance(value, bool):
        return literal(value, Boolean())
    if isinstance(value, int):
        return literal(value, BigInteger())
    if isinstance(value, float):
        return literal(value, Double())
    if isinstance(value, datetime):
        return literal(value, DateTime(timezone=value.tzinfo is not None))
    return literal(value, Date() if isinstance(value, date) else String())
