"""The lift by days since first exposure: does it wear off (novelty), or grow as people get used to it (primacy)?

The metric is taken in one interval of time since exposure after the other, on the units that have completed it, each
with the interval of one look. Whether the lift *changes* is one test of its own: with the values Y_1 of a unit in the
first interval and Y_2 in the ones after it, no change of a multiplying effect means

    E(Y_2 | treatment) / E(Y_1 | treatment) = E(Y_2 | control) / E(Y_1 | control).

That is a comparison of two ratios over units, by the delta method as any other; the relative lift of that ratio is by
how much (1 + lift) has changed. It holds for units whose time is not over, too: both arms miss the same part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from math import ceil

from analysis.aggregates import Needs
from analysis.columns import Column, Window
from analysis.errors import ArgumentError
from analysis.metrics import Declared, Metric

MOST_AGES = 31  # each interval is one more sum per metric in the query


def age_windows(until: timedelta, step: timedelta) -> tuple[Window, ...]:
    """Intervals of `step` since first exposure, from 0 to `until`; the last may be shorter. Errors: ArgumentError."""
    if not timedelta(0) < step < until:
        raise ArgumentError(
            f"Steps of {_days(step)} do not divide the {_days(until)} after exposure. Take one above 0 and below it."
        )
    number = ceil(until / step - 1e-6)  # a step that was rounded to the microsecond leaves no sliver at the end
    if number > MOST_AGES:
        raise ArgumentError(f"{number} intervals since exposure are too many; take steps of {_days(until / 14)}.")
    return tuple(Window(k * step, (k + 1) * step if k + 1 < number else until) for k in range(number))


def check_ages(ages: Sequence[Window]) -> tuple[Window, ...]:
    """Two intervals at least, each beginning where the one before it ends. Errors: ArgumentError."""
    if len(ages) < 2 or any(a.end != b.start for a, b in pairwise(ages)):
        raise ArgumentError("The intervals since exposure must be two at least, each from where the last one ended.")
    return tuple(ages)


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} days"


@dataclass(frozen=True, kw_only=True)
class Change(Metric):
    """The value of a metric in later time over that in early time. Undefined where there was nothing early."""

    early: Metric
    late: Metric

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (*self.late.inputs, *self.early.inputs)

    def value(self, means: Mapping[Column, float]) -> float | None:
        early, late = self.early.value(means), self.late.value(means)
        return late / early if late is not None and early is not None and early > 0 else None

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        early, late = self.early.value(means), self.late.value(means)
        assert early is not None
        assert late is not None
        gradient = {column: slope / early for column, slope in self.late.gradient(means).items()}
        for column, slope in self.early.gradient(means).items():
            gradient[column] = gradient.get(column, 0.0) - slope * late / early**2
        return gradient


@dataclass(frozen=True)
class Aged:
    """A metric in each interval since exposure, in the first of them and in all later ones; uncapped (a quantile over
    each interval's values would be another cap for each)."""

    ages: tuple[Metric, ...]
    early: Metric
    late: Metric
    change: Change

    @property
    def needs(self) -> Needs:
        needs = Needs.moments(self.change.inputs)
        for metric in (*self.ages, self.late):
            adjusters = [column for adjuster in metric.adjusters for column in adjuster.inputs]
            needs |= Needs.moments((*metric.inputs, *dict.fromkeys(adjusters)))
        return needs


def aged(metric: Declared, ages: Sequence[Window]) -> Aged | None:
    """None for a quantile, and for a metric that has a window of its own."""
    if not ages or not isinstance(metric, Metric) or metric.window is not None:
        return None
    plain = metric.uncapped
    parts = tuple(replace(plain, window=age) for age in ages)
    late = replace(plain, window=Window(ages[0].end, ages[-1].end))
    change = Change(name=metric.name, early=parts[0].without_covariates, late=late.without_covariates)
    return Aged(parts, parts[0], late, change)
