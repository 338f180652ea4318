"""The result of one metric in one report, put together from its parts."""

import msgspec

from analysis.breakdowns import age_results, cumulative_points, novelty_result, segment_results, units_per_day
from analysis.comparison import ArmPair, bounds_of, comparison_of, effect_on
from analysis.inference import Effect, Undefined
from analysis.metrics import Declared, Metric, Proportion, Quantile
from analysis.optional_results import (
    anytime_result,
    equivalence_result,
    look_result,
    margin_result,
    posterior_result,
    resampling_result,
)
from analysis.power import remaining
from analysis.request import ReportOptions
from analysis.results import CapUsed, Comparison, MetricResult, Remaining
from analysis.small_counts import FEW_EVENTS


def metric_result(metric: Declared, pair: ArmPair, options: ReportOptions) -> MetricResult:
    """Compute everything that a report says about one metric. Its p-value is not adjusted for other tests yet."""
    control, treatment = pair.moments()
    effect = effect_on(metric, pair, control, treatment, alpha=options.alpha, interval=options.interval)
    look = look_result(metric, effect, options)
    segments, heterogeneity_p = segment_results(metric, pair, options)
    values = _values(metric, pair)
    return MetricResult(
        name=metric.name,
        label=metric.label or metric.name,
        description=metric.description,
        owner=metric.owner,
        unit=metric.unit,
        direction=metric.direction,
        role=metric.role,
        control=values[0],
        treatment=values[1],
        n_control=control.n,
        n_treatment=treatment.n,
        p_adjusted=None,
        note=_note(metric, effect),
        variance_reduction=effect.variance_reduction if isinstance(effect, Effect) else None,
        unadjusted=_unadjusted(metric, pair, effect, options),
        uncapped=_uncapped(metric, pair, options),
        cap=_cap(metric, pair),
        margin=margin_result(metric, effect, look, options),
        look=look,
        equivalence=equivalence_result(effect, options),
        posterior=posterior_result(metric, effect, options),
        resampled=resampling_result(metric, pair, options),
        anytime=anytime_result(effect, options),
        remaining=_remaining(pair, effect, options),
        cumulative=cumulative_points(metric, pair, options),
        ages=age_results(metric, pair, options),
        novelty=novelty_result(metric, pair, options),
        segments=segments,
        heterogeneity_p=heterogeneity_p,
        **msgspec.structs.asdict(comparison_of(metric, effect, options.interval)),
    )


def _note(metric: Declared, effect: Effect | Undefined) -> str:
    """Return what a reader must know about the row, in one sentence; empty if nothing."""
    if isinstance(effect, Undefined):
        return f"No effect: {effect.reason}."
    if effect.interval is None:
        return "The control's value is not above 0, so the relative lift is undefined; read the difference."
    if effect.interval.shape != "bounded":
        return "The control's value is not clearly above 0, so the lift's interval is unbounded; read the difference."
    if isinstance(metric, Proportion) and effect.control.sides is not None:
        few = f"fewer than {FEW_EVENTS} units of an arm have an event, or lack one"
        return f"Score intervals{' without covariates' if metric.adjusters else ''}: {few}."
    if isinstance(metric, Metric) and metric.adjusters and effect.theta is None:
        names = ", ".join(adjuster.name for adjuster in metric.adjusters)
        return f"Not adjusted: the covariate {names} does not vary."
    return ""


def _values(metric: Declared, pair: ArmPair) -> tuple[float | None, float | None]:
    """Return the metric's values in control and treatment, without CUPED."""
    if isinstance(metric, Metric):
        control, treatment = pair.moments()
        return (
            metric.value(control.means) if control.n else None,
            metric.value(treatment.means) if treatment.n else None,
        )
    assert isinstance(metric, Quantile)
    first, second = (statistics.values[1] if statistics else None for statistics in pair.ranked(metric.rank))
    return first, second


def _unadjusted(
    metric: Declared, pair: ArmPair, effect: Effect | Undefined, options: ReportOptions
) -> Comparison | None:
    """Return the comparison without CUPED, where the headline uses CUPED."""
    if isinstance(effect, Undefined) or effect.theta is None:
        return None
    return _without_covariates(metric, pair, options)


def _uncapped(metric: Declared, pair: ArmPair, options: ReportOptions) -> Comparison | None:
    """Return the comparison without cap and CUPED, where the metric is capped."""
    if not isinstance(metric, Metric) or metric.uncapped is metric:
        return None
    return _without_covariates(metric.uncapped, pair, options)


def _without_covariates(metric: Declared, pair: ArmPair, options: ReportOptions) -> Comparison:
    control, treatment = pair.moments()
    effect = effect_on(metric, pair, control, treatment, alpha=options.alpha, interval=options.interval, adjust=False)
    return comparison_of(metric, effect, options.interval)


def _cap(metric: Declared, pair: ArmPair) -> CapUsed | None:
    """Return the limits of the metric's cap, and the share of each arm's units that it changed."""
    if not isinstance(metric, Metric) or metric.inputs[0].cap is None:
        return None
    column = metric.inputs[0]
    limits = pair.aggregates.limits[column]
    control, treatment = (
        pair.aggregates.capped(column, arm) / moments.n if moments.n else 0.0
        for arm, moments in zip(pair.arms, pair.moments(), strict=True)
    )
    return CapUsed(
        rule=str(column.cap), lower=limits.lower, upper=limits.upper, share_control=control, share_treatment=treatment
    )


def _remaining(pair: ArmPair, effect: Effect | Undefined, options: ReportOptions) -> Remaining | None:
    """Estimate the units and days until the lift is precise enough; None if it is, or if the rate is unknown."""
    per_day = units_per_day(pair.aggregates, pair.arms)
    if isinstance(effect, Undefined) or not per_day or bounds_of(effect.interval) == (None, None):
        return None
    needed = remaining(effect, options.precision, per_day)
    if needed.units == 0:
        return None
    return Remaining(precision=options.precision, units=needed.units, days=needed.days)
