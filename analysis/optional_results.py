"""What a report adds to a metric when its options ask for it.

Margin of a guardrail, look of a group-sequential design, confidence sequence, equivalence, posterior, resampling: one
function each, from the effect to the part of the result.
"""

from math import isfinite

from analysis.bayes import posterior
from analysis.comparison import ArmPair, bounds_of
from analysis.equivalence import equivalence, non_inferiority
from analysis.errors import DataError
from analysis.inference import Effect, Undefined
from analysis.metrics import Declared, Metric, Ratio
from analysis.request import ReportOptions
from analysis.results import (
    Anytime,
    EquivalenceResult,
    LookResult,
    MarginResult,
    PosteriorResult,
    ResamplingResult,
)
from analysis.sequential import analyze_interim, monitor


def look_result(metric: Declared, effect: Effect | Undefined, options: ReportOptions) -> LookResult | None:
    """Compare the effect with the boundary of the design's look; None for a secondary metric or without a design.

    The goals share alpha (Bonferroni); each guardrail has all of it.
    """
    if options.design is None or isinstance(effect, Undefined) or metric.role == "secondary":
        return None
    alpha = options.alpha / options.goals if metric.role == "goal" else options.alpha
    interim = analyze_interim(options.design, effect, alpha, options.interval)
    low, high = bounds_of(interim.lift)
    return LookResult(
        alpha=alpha,
        share=interim.look.share,
        spent=interim.look.spent,
        nominal=interim.look.nominal,
        critical=interim.critical,
        crossed=interim.crossed,
        low=low,
        high=high,
    )


def anytime_result(effect: Effect | Undefined, options: ReportOptions) -> Anytime | None:
    """Evaluate the confidence sequence of the lift; None without planned units."""
    if options.planned_units is None or isinstance(effect, Undefined):
        return None
    monitored = monitor(effect, options.planned_units, alpha=options.alpha, method=options.interval)
    low, high = bounds_of(monitored.lift)
    return Anytime(low=low, high=high, p=monitored.p)


def margin_result(
    metric: Declared, effect: Effect | Undefined, look: LookResult | None, options: ReportOptions
) -> MarginResult | None:
    """Test a guardrail against its margin (non-inferiority); None without a margin.

    The test is one-sided at alpha / 2, so that it agrees with the two-sided interval of the report.
    """
    if metric.margin is None:
        return None
    if isinstance(effect, Undefined) or effect.lift is None:
        return MarginResult(margin=metric.margin, p=1.0, holds=False)
    result = non_inferiority(effect, metric.margin, direction=metric.direction, alpha=options.alpha / 2)
    holds = result.holds if look is None else result.test.p <= look.nominal / 2
    return MarginResult(margin=metric.margin, p=result.test.p, holds=holds)


def equivalence_result(effect: Effect | Undefined, options: ReportOptions) -> EquivalenceResult | None:
    """Test whether the lift lies within the margin of equivalence; None without a margin.

    Each side is tested at alpha / 2, so that the test agrees with the two-sided interval of the report.
    """
    margin = options.equivalence
    if margin is None:
        return None
    if isinstance(effect, Undefined) or effect.lift is None:
        return EquivalenceResult(margin=margin, p=1.0, holds=False, low=None, high=None)
    result = equivalence(effect, -margin, margin, alpha=options.alpha / 2)
    low, high = bounds_of(result.bounds)
    return EquivalenceResult(margin=margin, p=result.p, holds=result.holds, low=low, high=high)


def posterior_result(metric: Declared, effect: Effect | Undefined, options: ReportOptions) -> PosteriorResult | None:
    """Compute the posterior of the lift; None without a prior or where the lift's interval is unbounded."""
    prior = options.prior
    if prior is None or isinstance(effect, Undefined):
        return None
    result = posterior(effect, prior, direction=metric.direction, alpha=options.alpha)
    if isinstance(result, Undefined):
        return None
    return PosteriorResult(
        prior_mean=prior.mean,
        prior_sd=prior.sd if isfinite(prior.sd) else None,
        lift=result.mean,
        low=result.low,
        high=result.high,
        chance_to_win=result.chance_to_win,
        loss_if_shipped=result.loss_if_shipped,
        loss_if_not=result.loss_if_not,
    )


def resampling_result(metric: Declared, pair: ArmPair, options: ReportOptions) -> ResamplingResult | None:
    """Bootstrap and permute the metric's values; None without resamples, for a quantile, and with too little data."""
    if not options.resamples or not isinstance(metric, Metric):
        return None
    import numpy as np

    from analysis.resampling import bootstrap, mann_whitney, mean, permutation_test, ratio

    tables = [pair.aggregates.tables.get((arm, metric.inputs)) for arm in pair.arms]
    control, treatment = (table.values() if table else None for table in tables)
    if control is None or treatment is None or min(len(control), len(treatment)) < 2:
        return None
    is_ratio = isinstance(metric, Ratio)
    rng = np.random.default_rng(options.seed)  # one per metric: a metric's numbers do not depend on the other metrics
    try:
        interval = bootstrap(
            control,
            treatment,
            rng,
            statistic=ratio if is_ratio else mean,
            resamples=options.resamples,
            alpha=options.alpha,
        )
    except DataError:
        return None
    test = permutation_test(control, treatment, rng, kind="ratio" if is_ratio else "mean", resamples=options.resamples)
    ranks = None if is_ratio else mann_whitney(control[:, 0], treatment[:, 0])
    return ResamplingResult(
        resamples=options.resamples,
        seed=options.seed,
        low=interval.low,
        high=interval.high,
        standard_error=interval.standard_error,
        p=test.p,
        superiority=ranks.superiority if ranks else None,
        superiority_p=ranks.p if ranks else None,
    )
