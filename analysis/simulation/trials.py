"""One metric with one planted lift, ready to be compared in any split of the units."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.aggregates import Moments, Pair, exact_sum
from analysis.columns import Column, check_upper
from analysis.errors import MetricError
from analysis.inference import Effect, IntervalMethod, Undefined, compare
from analysis.metrics import Declared, Metric, Quantile
from analysis.quantiles import compare_quantiles, ranked
from analysis.ranks import quantile_rank

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """One metric with one planted lift.

    Attributes:
        metric: The metric.
        lift: The planted lift.
        arms: Values of all units as if all were in the control, and as if all were in the treatment.
    """

    metric: Declared
    lift: float
    arms: "tuple[Sums, Sums] | tuple[_Array, _Array]"

    @classmethod
    def of(cls, metric: Declared, lift: float, arrays: Mapping[str, _Array]) -> "Trial":
        """Plant a lift in the values of a metric.

        Args:
            metric: The metric.
            lift: The lift to plant in the treatment.
            arrays: Columns by name, one value per unit.

        Raises:
            MetricError: The metric has filters or a window, or its cap leaves nothing.
        """
        return cls(metric, lift, _arms(metric, arrays, lift))

    def effects(
        self, control: _Array, treatment: _Array, *, alpha: float, interval: IntervalMethod
    ) -> Iterator[Effect | Undefined]:
        """Yield the effect in each split.

        Args:
            control: How often each unit is in the control, shape (units, splits).
            treatment: How often each unit is in the treatment, shape (units, splits).
            alpha: Level of the tests.
            interval: Method of the lift's interval.
        """
        left, right = self.arms
        if isinstance(left, Sums) and isinstance(right, Sums):
            assert isinstance(self.metric, Metric)
            for c, t in zip(left.moments(control), right.moments(treatment), strict=True):
                yield compare(self.metric, c, t, alpha=alpha, method=interval)
            return
        assert isinstance(self.metric, Quantile)
        assert isinstance(left, np.ndarray)
        assert isinstance(right, np.ndarray)
        for split in range(control.shape[1]):
            first, second = (
                ranked(np.repeat(values, weights[:, split].astype(np.intp)), self.metric.q)
                for values, weights in ((left, control), (right, treatment))
            )
            yield compare_quantiles(first, second, self.metric.q, alpha=alpha, method=interval)


@dataclass(frozen=True)
class Sums:
    """The shifted columns and products of a metric by unit, from which the moments of any split follow.

    Attributes:
        columns: Columns of the metric.
        products: Pairs of columns whose products are needed.
        shifts: Shift of each column.
        table: Values, shape (1 + columns + products, units); the first row holds ones.
    """

    columns: tuple[Column, ...]
    products: tuple[Pair, ...]
    shifts: Mapping[Column, float]
    table: _Array

    def moments(self, weights: _Array) -> Iterator[Moments]:
        """Yield the moments of an arm in each split. weights: how often each unit is in it, shape (units, splits)."""
        for sums in (self.table @ weights).T:
            n, rest = round(float(sums[0])), sums[1:]
            total = dict(zip(self.columns, map(float, rest), strict=False))
            sides = {c: exact_sum(self.shifts[c], total[c] / n) for c in self.columns} if n else {}
            means, rests = ({c: side[i] for c, side in sides.items()} for i in (0, 1))
            if n < 2:  # a rare split where one arm is almost empty
                yield Moments(n, means, None, {}, rests)
                continue
            covariances = {
                (a, b): _not_below_zero(float(product) - total[a] * total[b] / n, a == b) / (n - 1)
                for (a, b), product in zip(self.products, rest[len(self.columns) :], strict=True)
            }
            yield Moments(n, means, covariances, {}, rests)


def _not_below_zero(value: float, square: bool) -> float:
    return max(value, 0.0) if square else value


def _arms(metric: Declared, arrays: Mapping[str, _Array], lift: float) -> "tuple[Sums, Sums] | tuple[_Array, _Array]":
    if isinstance(metric, Quantile):
        values = _quantity(metric.rank.column, arrays)
        return values, values * (1 + lift)
    assert isinstance(metric, Metric), f"{type(metric).__name__} cannot be simulated"
    needs = metric.needs
    columns, products = tuple(sorted(needs.columns)), tuple(sorted(needs.products))
    before = {column: _values(column, arrays, 1.0) for column in columns}
    lifted = {metric.inputs[0], metric.uncapped.inputs[0]}
    after = {c: _values(c, arrays, 1 + lift) if c in lifted else before[c] for c in columns}
    shifts = {column: float(values.mean()) for column, values in before.items()}

    def sums(values: Mapping[Column, _Array]) -> Sums:
        centred = {c: values[c] - shifts[c] for c in columns}
        rows = [np.ones(len(next(iter(values.values()))))]
        rows += [centred[c] for c in columns] + [centred[a] * centred[b] for a, b in products]
        return Sums(columns, products, shifts, np.vstack(rows))

    control = sums(before)
    return control, sums(after) if lift else control


def _values(column: Column, arrays: Mapping[str, _Array], factor: float) -> _Array:
    """Return a column's values, multiplied before they are capped; the cap's limits come from the unchanged data."""
    raw = _quantity(column, arrays)
    values = raw * factor
    if column.cap is not None:
        cap = column.cap
        upper = _limit(raw, cap.upper, cap.upper_quantile, cap.nonzero)
        lower = _limit(raw, cap.lower, cap.lower_quantile, cap.nonzero)
        values = values if upper is None else np.minimum(values, check_upper(upper, str(column)))
        values = values if lower is None else np.maximum(values, lower)
    return (values > 0).astype(np.float64) if column.positive else values


def _quantity(column: Column, arrays: Mapping[str, _Array]) -> _Array:
    if column.where or column.window:
        raise MetricError(f"{column}: a simulation takes columns as they are. Apply filters and windows before it.")
    return arrays[column.name]


def _limit(values: _Array, fixed: float | None, q: float | None, nonzero: bool) -> float | None:
    if q is None:
        return fixed
    chosen = values[values != 0] if nonzero else values
    if chosen.size == 0:
        raise MetricError("All values are 0, so a cap at a quantile of the non-zero values has no limit.")
    rank = quantile_rank(q, chosen.size)
    return float(np.partition(chosen, rank - 1)[rank - 1])
