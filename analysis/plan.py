"""A plan: how many units an experiment needs, from one query over past users and the formulas of `power`.

With several looks, the plan also has the boundary of each look and the additional units that they cost.
"""

from collections.abc import Mapping, Sequence
from math import isfinite

import msgspec

from analysis.aggregates import Aggregates, Moments
from analysis.errors import MetricError
from analysis.metrics import Declared, Metric, merged_needs
from analysis.power import WEEK, Baseline, durations, minimum_detectable_lift, sample_size
from analysis.sequential import OBRIEN_FLEMING, planned_looks
from analysis.sources.base import Source
from analysis.times import DAY
from analysis.validation import check_alpha, check_count, check_share


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """Units needed to detect a lift with the plan's power.

    Attributes:
        lift: The lift.
        control: Units of the control; None for a share that cannot rise so far.
        treatment: Units of the treatment; None for a share that cannot rise so far.
    """

    lift: float
    control: int | None
    treatment: int | None


class PlannedDuration(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment of some days can detect.

    Attributes:
        days: Length of the experiment.
        units: Units first seen in that many days of the history.
        smallest: Smallest lift that they detect; None if no lift is.
    """

    days: int
    units: int
    smallest: float | None


class PlannedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of one metric.

    Attributes:
        name: Name of the metric.
        value: Value in the history.
        deviation: Standard deviation per unit, after CUPED.
        variance_reduction: Share of the variance that CUPED removes; None without covariates.
        needed: Units needed for each lift.
        smallest: Smallest lift that the plan's `units` detect; None if no lift is.
        durations: Smallest lift by whole weeks, where the history has the time of each unit's first exposure.
    """

    name: str
    value: float
    deviation: float
    variance_reduction: float | None
    needed: list[Needed]
    smallest: float | None
    durations: list[PlannedDuration]


class PlannedLook(msgspec.Struct, frozen=True, kw_only=True):
    """One planned look. A metric is decided there if |z| >= critical, that is, p <= nominal.

    Attributes:
        share: Share of the planned units at the look.
        spent: Alpha spent up to and including the look.
        critical: Critical value; None where no alpha may be spent yet.
        nominal: Level of the look.
    """

    share: float
    spent: float
    critical: float | None
    nominal: float


class Looks(msgspec.Struct, frozen=True, kw_only=True):
    """A group-sequential design with equally spaced looks.

    Attributes:
        spending: Name of the spending function.
        inflation: Units relative to those of a single look; the plan's figures include it.
        looks: The looks.
    """

    spending: str
    inflation: float
    looks: list[PlannedLook]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan of an experiment.

    Attributes:
        source: Name of the source.
        history: Number of past units that the figures come from.
        units: Units of both arms that `smallest` refers to.
        alpha: Level of the tests.
        power: Power of the tests.
        share: Share of the units in the treatment.
        design: The looks; None for a single analysis at the end.
        metrics: The plan of each metric.
    """

    source: str
    history: int
    units: int
    alpha: float
    power: float
    share: float
    design: Looks | None
    metrics: list[PlannedMetric]


def plan(
    source: Source,
    metrics: Sequence[Declared],
    lifts: Sequence[float],
    *,
    units: int | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
    share: float = 0.5,
    looks: int = 1,
    spending: str = OBRIEN_FLEMING,
) -> Plan:
    """Plan an experiment from past users, whatever their arms.

    Args:
        source: Source of the past users.
        metrics: The metrics.
        lifts: Lifts to detect.
        units: Units of both arms that are available; None means as many as the source has.
        alpha: Level of the tests.
        power: Probability of detecting a lift.
        share: Share of the units in the treatment.
        looks: Number of equally spaced looks.
        spending: Name of the spending function (`sequential.spending_named`).

    Raises:
        ArgumentError: An argument is out of range.
        DataError: The history has no value or no variance.
        MetricError: A metric is a quantile, which has no formula.
        SourceError: The source cannot be read.
    """
    for metric in metrics:
        if not isinstance(metric, Metric):
            raise MetricError(f"There is no formula to plan {metric.name!r}, a {type(metric).__name__}. Simulate it.")
    check_share(share, "share")
    check_alpha(alpha)
    design = _design(check_count(looks, "looks"), spending, alpha, power)
    collected = source.collect(merged_needs(metrics))
    history = collected.aggregates.moments()
    total = history.n if units is None else check_count(units, "units", ge=4)
    weeks = _weeks(collected.aggregates)
    options = {"alpha": alpha, "power_wanted": power, "inflation": design.inflation if design else 1.0}
    return Plan(
        source=collected.facts.source,
        history=history.n,
        units=total,
        alpha=alpha,
        power=power,
        share=share,
        design=design,
        metrics=[
            _planned_metric(metric, history, weeks, lifts, total, share, options)
            for metric in metrics
            if isinstance(metric, Metric)
        ],
    )


def _planned_metric(
    metric: Metric,
    history: Moments,
    weeks: Mapping[int, Moments],
    lifts: Sequence[float],
    units: int,
    share: float,
    options: dict[str, float],
) -> PlannedMetric:
    baseline = Baseline.of(metric, history)
    plain = Baseline.of(metric.without_covariates, history)
    return PlannedMetric(
        name=metric.name,
        value=baseline.value,
        deviation=baseline.variance**0.5,
        variance_reduction=1 - baseline.variance / plain.variance if metric.adjusters else None,
        needed=[_needed(baseline, lift, share, options) for lift in lifts],
        smallest=minimum_detectable_lift(baseline, units * (1 - share), units * share, **options),
        durations=[
            PlannedDuration(days=d.days, units=d.units, smallest=d.mde)
            for d in durations(metric, weeks, treatment_share=share, **options)
        ],
    )


def _weeks(history: Aggregates) -> dict[int, Moments]:
    """Return the moments of the units first seen in the first 7, 14, .. days. An incomplete last week is left out."""
    days = history.days
    length = (days[-1] - days[0]) // DAY + 1 if days else 0
    return {end: history.moments(until=days[0] + (end - 1) * DAY) for end in range(WEEK, length + 1, WEEK)}


def _needed(baseline: Baseline, lift: float, share: float, options: dict[str, float]) -> Needed:
    if baseline.largest_lift is not None and lift > baseline.largest_lift:
        return Needed(lift=lift, control=None, treatment=None)
    size = sample_size(baseline, lift, treatment_share=share, **options)
    return Needed(lift=lift, control=size.control, treatment=size.treatment)


def _design(number: int, spending: str, alpha: float, power: float) -> Looks | None:
    if number == 1:
        return None
    planned = planned_looks(number, spending, alpha, power)
    return Looks(
        spending=spending,
        inflation=planned.inflation,
        looks=[
            PlannedLook(
                share=look.share,
                spent=look.spent,
                critical=look.critical if isfinite(look.critical) else None,
                nominal=look.nominal,
            )
            for look in planned.looks
        ],
    )
