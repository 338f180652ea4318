"""What a metric reads for each unit: a column of the source, optionally filtered, in a window, and capped.

    quantity   the column's value for a unit, counting only rows that pass the filters, in the window
    capped     the quantity, with values beyond the cap's limits moved to the limits
    positive   1 where the quantity is above zero, else 0

All types are values: equal declarations are the same column, however many metrics share it.
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
    """A condition for rows to count: `Filter("surface", "=", "home")`, `Filter("country", "in", ("DE", "FR"))`.

    NULL never satisfies a condition, also not `!=`. The type of the column decides how values are compared.

    Attributes:
        column: Name of the column.
        op: Operator.
        value: Value to compare with; a tuple of values for `in` and, if no value may match, for `!=`.

    Raises:
        MetricError: The operator is unknown or does not fit the value.
    """

    column: str
    op: Operator
    value: Value | tuple[Value, ...]

    def __post_init__(self) -> None:
        if self.op not in get_args(Operator):
            raise MetricError(f"A filter's operator is {self.op!r}, and must be one of {' '.join(get_args(Operator))}.")
        if self.op != "!=" and (self.op == "in") != isinstance(self.value, tuple):
            raise MetricError(
                f"The filter on {self.column!r} has the operator {self.op!r} and the value {self.value!r}: "
                "`in` takes a tuple of values, `!=` takes either, every other operator takes one value."
            )
        if self.value == ():
            raise MetricError(f"The filter on {self.column!r} lists no value, so no row can pass it. Give one.")

    def __str__(self) -> str:
        return f"{self.column} {self.op} {self.value!r}"


@dataclass(frozen=True)
class Window:
    """The time since a unit's first exposure that counts: start <= t - first < end.

    Attributes:
        start: Start, at least 0.
        end: End, after the start.

    Raises:
        MetricError: The window starts before exposure, or ends before it starts.
    """

    start: timedelta
    end: timedelta

    def __post_init__(self) -> None:
        if not timedelta(0) <= self.start < self.end:
            raise MetricError(
                f"A window runs from {self.start} to {self.end}. It must start at or after exposure and end later."
            )

    def __str__(self) -> str:
        return f"day {self.start / _DAY:g} to {self.end / _DAY:g}"


@dataclass(frozen=True)
class Cap:
    """The limits of a column's values, the same in all arms.

    A quantile is the smallest value with at least that share of the units at or below it, pooled over all arms. An
    upper limit of 0 or less is refused, also if it comes from a quantile: in a shop where 1 % of the visitors buy, the
    99 % quantile over all visitors is 0.

    Attributes:
        upper: Upper limit, in the column's unit.
        lower: Lower limit, in the column's unit.
        upper_quantile: Upper limit as a quantile, between 0 and 1.
        lower_quantile: Lower limit as a quantile, between 0 and 1.
        nonzero: Take the quantiles only over the units with a value other than 0.

    Raises:
        MetricError: There is no limit, two limits on one side, or a limit out of range.
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
    """Return an upper limit that is above 0.

    Raises:
        MetricError: The limit is 0 or less.
    """
    if limit <= 0:
        raise MetricError(
            f"The upper cap of {where} is {limit:g}, which would leave nothing above 0. Give a larger limit, a higher "
            "quantile, or take the quantile over non-zero values (nonzero)."
        )
    return limit


@dataclass(frozen=True)
class Limits:
    """The limits of a cap as numbers.

    Attributes:
        lower: Lower limit; None for no limit.
        upper: Upper limit; None for no limit.
    """

    lower: float | None
    upper: float | None


@total_ordering
@dataclass(frozen=True)
class Column:
    """A quantity per unit. Columns sort by their text, so that nothing depends on the order of declaration.

    Attributes:
        name: Name of the column in the source.
        positive: Whether only the sign counts: 1 above 0, else 0.
        cap: Limits of the values.
        where: Conditions for rows to count.
        window: Time since exposure that counts; None means the source's window.
    """

    name: str
    positive: bool = False
    cap: Cap | None = None
    where: tuple[Filter, ...] = ()
    window: Window | None = None

    @property
    def quantity(self) -> "Column":
        """The column without cap and sign, as it is read for a unit."""
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
