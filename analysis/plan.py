"""How many units an experiment needs, from the users of a time before it: one query, and the formulas of `planning`.

With several looks, also the boundary of each, and the units that looking costs.
"""

from collections.abc import Sequence
from math import isfinite

import msgspec

from analysis.aggregates import Aggregates, Moments
from analysis.errors import MetricError
from analysis.metrics import Declared, Metric, merged_needs
from analysis.power import WEEK, Baseline, durations, minimum_detectable_lift, sample_size
from analysis.sequential import OBRIEN_FLEMING, planned_looks
from analysis.sources.base import Source
from analysis.times import DAY
from analysis.validation import check_count, check_share


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """Units of each arm, to find a lift with the power asked for; None for a share that cannot rise so far."""

    lift: float
    control: int | None
    treatment: int | None


class PlannedDuration(msgspec.Struct, frozen=True, kw_only=True):
    """units: that were first seen in so many days of the history. smallest: the smallest lift that they find."""

    days: int
    units: int
    smallest: float | None


class PlannedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """value: in the history. deviation: standard deviation per unit, after CUPED. variance_reduction: by CUPED.
    smallest: the smallest lift that is found with the plan's `units`; None if none is. durations: by whole weeks, where
    the history says when each unit was first seen."""

    name: str
    value: float
    deviation: float
    variance_reduction: float | None
    needed: list[Needed]
    smallest: float | None
    durations: list[PlannedDuration]


class PlannedLook(msgspec.Struct, frozen=True, kw_only=True):
    """One look, at a share of the units. spent: of alpha until then. A metric is decided there if |z| >= critical, that
    is, p <= nominal; critical is None where nothing may be spent yet."""

    share: float
    spent: float
    critical: float | None
    nominal: float


class Looks(msgspec.Struct, frozen=True, kw_only=True):
    """A group-sequential design with equally spaced looks. inflation: of the units, over those of a single look; it is
    in the plan's figures already."""

    spending: str
    inflation: float
    looks: list[PlannedLook]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """history: units that the figures are from. units: of both arms, for which `smallest` is said. design: None for one
    look at the end."""

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
    """Plan on the users of `source`, whatever their arms. units: that could be had; None means as many as there are.

    share: of the treatment. looks: how often the experiment is to be decided on, equally spaced; spending: how alpha is
    spent over them (`designs.spending_named`).
    Errors: MetricError for a quantile; ArgumentError; those of `planning` and of the source.
    """
    for metric in metrics:
        if not isinstance(metric, Metric):
            raise MetricError(f"No formula plans {metric.name!r}: {type(metric).__name__}. Simulate it instead.")
    check_share(share, "share")
    design = _design(check_count(looks, "looks"), spending, alpha, power)
    collected = source.collect(merged_needs(metrics))
    history = collected.aggregates.moments()
    total = history.n if units is None else check_count(units, "units", ge=4)
    weeks = _weeks(collected.aggregates)
    planned = []
    for metric in metrics:
        assert isinstance(metric, Metric)
        baseline = Baseline.of(metric, history)
        plain = Baseline.of(metric.without_covariates, history)
        options = {"alpha": alpha, "power_wanted": power, "inflation": design.inflation if design else 1.0}
        planned.append(
            PlannedMetric(
                name=metric.name,
                value=baseline.value,
                deviation=baseline.variance**0.5,
                variance_reduction=1 - baseline.variance / plain.variance if metric.adjusters else None,
                needed=[_needed(baseline, lift, share, options) for lift in lifts],
                smallest=minimum_detectable_lift(baseline, total * (1 - share), total * share, **options),
                durations=[
                    PlannedDuration(days=d.days, units=d.units, smallest=d.mde)
                    for d in durations(metric, weeks, treatment_share=share, **options)
                ],
            )
        )
    return Plan(
        source=collected.facts.source,
        history=history.n,
        units=total,
        alpha=alpha,
        power=power,
        share=share,
        design=design,
        metrics=planned,
    )


def _weeks(history: Aggregates) -> dict[int, Moments]:
    """Moments of the units first seen in the first 7, 14, .. days; a last part of a week is left out."""
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
    found = planned_looks(number, spending, alpha, power)
    return Looks(
        spending=spending,
        inflation=found.inflation,
        looks=[
            PlannedLook(
                share=look.share,
                spent=look.spent,
                critical=look.critical if isfinite(look.critical) else None,
                nominal=look.nominal,
            )
            for look in found.looks
        ],
    )
