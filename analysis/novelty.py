"""The lift by days since first exposure: does it wear off (novelty), or grow as people get used to it (primacy)?

The metric is computed in each interval of time since exposure, over the units that have completed the interval. Whether
the lift *changes* is a separate test. With the values Y_1 of a unit in the first interval and Y_2 in the later ones, a
multiplicative effect that does not change means

    E(Y_2 | treatment) / E(Y_1 | treatment) = E(Y_2 | control) / E(Y_1 | control).

This compares two ratios over units, by the delta method like any other ratio. The relative lift of the ratio is the
relative change of 1 + lift. The test also holds for units that have not completed all intervals: both arms miss the
same part.
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

MOST_AGES = 31  # each interval adds one sum per metric to the query


def age_windows(until: timedelta, step: timedelta) -> tuple[Window, ...]:
    """Divide the time since first exposure into intervals.

    Args:
        until: End of the last interval.
        step: Length of each interval; the last may be shorter.

    Raises:
        ArgumentError: The step is not between 0 and `until`, or there are more than `MOST_AGES` intervals.
    """
    if not timedelta(0) < step < until:
        raise ArgumentError(
            f"Steps of {_days(step)} do not divide the {_days(until)} after exposure. "
            "Give a step that is above 0 and shorter than that."
        )
    number = ceil(until / step - 1e-6)  # a step rounded to the microsecond must not leave a tiny interval at the end
    if number > MOST_AGES:
        raise ArgumentError(
            f"{number} intervals since exposure are more than {MOST_AGES}. "
            f"Give longer steps, for example {_days(until / 14)}."
        )
    return tuple(Window(k * step, (k + 1) * step if k + 1 < number else until) for k in range(number))


def check_ages(ages: Sequence[Window]) -> tuple[Window, ...]:
    """Return the intervals: at least two, each starting where the one before ends.

    Raises:
        ArgumentError: There are fewer than two intervals, or they do not follow each other.
    """
    if len(ages) < 2 or any(a.end != b.start for a, b in pairwise(ages)):
        raise ArgumentError(
            f"There are {len(ages)} intervals since exposure. "
            "Give at least two, each starting where the one before it ends."
        )
    return tuple(ages)


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} days"


@dataclass(frozen=True, kw_only=True)
class Change(Metric):
    """The value of a metric in later time divided by its value in early time; undefined where the latter is 0.

    Attributes:
        early: The metric in the first interval since exposure.
        late: The metric in all later intervals.
    """

    early: Metric
    late: Metric

    @property
    def inputs(self) -> tuple[Column, ...]:
        """Columns of the late metric, then of the early one."""
        return (*self.late.inputs, *self.early.inputs)

    def value(self, means: Mapping[Column, float]) -> float | None:
        """Return late over early; None where early is 0."""
        early, late = self.early.value(means), self.late.value(means)
        return late / early if late is not None and early is not None and early > 0 else None

    def gradient(self, means: Mapping[Column, float]) -> dict[Column, float]:
        """Return the derivatives of late over early."""
        early, late = self.early.value(means), self.late.value(means)
        assert early is not None
        assert late is not None
        gradient = {column: slope / early for column, slope in self.late.gradient(means).items()}
        for column, slope in self.early.gradient(means).items():
            gradient[column] = gradient.get(column, 0.0) - slope * late / early**2
        return gradient


@dataclass(frozen=True)
class MetricByAge:
    """A metric in each interval since exposure, without its cap: each interval would have another limit.

    Attributes:
        ages: The metric in each interval.
        early: The metric in the first interval.
        late: The metric in all later intervals.
        change: Late over early.
    """

    ages: tuple[Metric, ...]
    early: Metric
    late: Metric
    change: Change

    @property
    def needs(self) -> Needs:
        """Aggregates that all parts need."""
        needs = Needs.moments(self.change.inputs)
        for metric in (*self.ages, self.late):
            adjusters = [column for adjuster in metric.adjusters for column in adjuster.inputs]
            needs |= Needs.moments((*metric.inputs, *dict.fromkeys(adjusters)))
        return needs


def by_age(metric: Declared, ages: Sequence[Window]) -> MetricByAge | None:
    """Split a metric by time since exposure; None for a quantile and for a metric with its own window."""
    if not ages or not isinstance(metric, Metric) or metric.window is not None:
        return None
    plain = metric.uncapped
    parts = tuple(replace(plain, window=age) for age in ages)
    late = replace(plain, window=Window(ages[0].end, ages[-1].end))
    change = Change(name=metric.name, early=parts[0].without_covariates, late=late.without_covariates)
    return MetricByAge(parts, parts[0], late, change)
