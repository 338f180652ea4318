"""What a metric reads of each unit: a column of the source, perhaps capped, filtered, of a window of its own.

    quantity   the column's value for a unit, counting only rows that pass the filters, in the window
    capped     the quantity, with what lies outside the cap's limits moved to them
    positive   1 where the quantity is above zero, else 0

Everything here is a value: equal declarations are one column, however many metrics share it.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import total_ordering
from math import isfinite
from typing import Literal, get_args

from analysis.errors import MetricError

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]
Value = str | int | float | bool
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Filter:
    """Rows that count: `Filter("surface", "=", "home")`, `Filter("country", "in", ("DE", "FR"))`. NULL never counts."""

    column: str
    op: Operator
    value: Value | tuple[Value, ...]

    def __post_init__(self) -> None:
        if self.op not in get_args(Operator):
            raise MetricError(f"A filter's operator is {self.op!r}, and must be one of {' '.join(get_args(Operator))}.")
        if (self.op == "in") != isinstance(self.value, tuple):
            raise MetricError(
                f"The filter on {self.column!r} compares by {self.op!r} with {self.value!r}: "
                "`in` takes several values, every other operator takes one."
            )
        if self.value == ():
            raise MetricError(f"The filter on {self.column!r} lists no value, so no row could pass it.")

    def __str__(self) -> str:
        return f"{self.column} {self.op} {self.value!r}"


@dataclass(frozen=True)
class Window:
    """Time since a unit's first exposure that counts: start <= t - first < end."""

    start: timedelta
    end: timedelta

    def __post_init__(self) -> None:
        if not timedelta(0) <= self.start < self.end:
            raise MetricError(
                f"A window runs from {self.start} to {self.end}: it starts at or after exposure, and ends after that."
            )

    def __str__(self) -> str:
        return f"day {self.start / _DAY:g} to {self.end / _DAY:g}"


@dataclass(frozen=True)
class Cap:
    """Where a column is capped, in the same way in all arms.

    upper, lower: limits in the column's own unit. upper_quantile, lower_quantile: limits at a share of the units,
    pooled over all arms, each the smallest value with at least that share of the units at or below it. nonzero: take
    the quantiles over the units with a value other than 0. An upper cap of 0 or less is refused, also when it
    comes out of a quantile: the 99 % quantile over all visitors of a shop where 1 % buy is 0.
    """

    upper: float | None = None
    lower: float | None = None
    upper_quantile: float | None = None
    lower_quantile: float | None = None
    nonzero: bool = False

    def __post_init__(self) -> None:
        given = (self.upper, self.lower, self.upper_quantile, self.lower_quantile)
        if all(value is None for value in given):
            raise MetricError("A cap has no limit. Give upper, lower, upper_quantile or lower_quantile.")
        for side in ("upper", "lower"):
            limit, quantile = getattr(self, side), getattr(self, f"{side}_quantile")
            if limit is not None and quantile is not None:
                raise MetricError(f"A cap has both {side} and {side}_quantile. Give one of them.")
            if limit is not None and not isfinite(limit):
                raise MetricError(f"A cap's {side} is {limit}, and must be a finite number.")
            if quantile is not None and not 0 < quantile < 1:
                raise MetricError(f"A cap's {side}_quantile is {quantile}, and must lie between 0 and 1, e.g. 0.99.")
        if self.upper is not None:
            check_upper(self.upper, "the metric")
        if self.upper is not None and self.lower is not None and self.lower >= self.upper:
            raise MetricError(f"A cap's lower limit {self.lower:g} is not below its upper one {self.upper:g}.")

    def __str__(self) -> str:
        over = " of non-zero" if self.nonzero else ""
        sides = (("<=", self.upper, self.upper_quantile), (">=", self.lower, self.lower_quantile))
        fixed = [f"{sign} {limit:g}" for sign, limit, _ in sides if limit is not None]
        shares = [f"{sign} p{quantile * 100:g}{over}" for sign, _, quantile in sides if quantile is not None]
        return " ".join(fixed + shares)


def check_upper(limit: float, where: str) -> float:
    """An upper limit that leaves something. Errors: MetricError."""
    if limit <= 0:
        raise MetricError(
            f"The upper cap of {where} is {limit:g}, which would leave nothing above 0. Give a larger limit, a higher "
            "quantile, or take the quantile over non-zero values (nonzero)."
        )
    return limit


@dataclass(frozen=True)
class Limits:
    """The numbers that a cap came to; None where a side is open."""

    lower: float | None
    upper: float | None


@total_ordering
@dataclass(frozen=True)
class Column:
    """A quantity per unit. Ordered by its text, so that nothing depends on the order of declaration."""

    name: str
    positive: bool = False
    cap: Cap | None = None
    where: tuple[Filter, ...] = ()
    window: Window | None = None

    @property
    def quantity(self) -> "Column":
        """What is read for a unit: without cap and sign."""
        return replace(self, positive=False, cap=None) if self.positive or self.cap else self

    def __lt__(self, other: "Column") -> bool:
        return str(self) < str(other)

    def __str__(self) -> str:
        if not (self.positive or self.cap or self.where or self.window):
            return self.name
        parts = [self.name]
        if self.where:
            parts.append("where " + " and ".join(map(str, self.where)))
        if self.window:
            parts.append(f"in {self.window}")
        if self.cap:
            parts.append(f"capped {self.cap}")
        if self.positive:
            parts.append("> 0")
        return " ".join(parts)
