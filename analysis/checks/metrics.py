"""Checks of the metrics in two arms: variance, heavy tails, automated traffic, and the covariates before exposure."""

from collections.abc import Sequence

from analysis.aggregates import FEW_NONZERO, ONE_UNIT, Moments
from analysis.checks.check import Check, check_each, joined, label_of
from analysis.inference import Effect, compare
from analysis.metrics import Count, Mean, Metric, Proportion
from analysis.sources.base import Facts

ONE_SOURCE = 0.01  # share of an arm's events that a single unit may have: no person clicks that much
IMBALANCE_P = 0.001  # as strict as the check of the sample ratio, and for the same reason
COPY = 0.999  # correlation of a metric with its covariate above which both seem to be measured in the same time


def variance(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check:
    """Check for metrics that do not vary in either arm: there is nothing to test, and tracking may be broken.

    A goal without variance fails; any other metric warns.
    """
    flat = [m for m in metrics if not any(_varies(m, arm) for arm in (control, treatment))]
    if not flat:
        return Check(name="variance", status="ok", sentence="Every metric varies between units.")
    goals = any(m.role == "goal" for m in flat)
    return Check(
        name="variance",
        status="fail" if goals else "warn",
        sentence=f"{joined([label_of(m) for m in flat])}: every unit has the same value, so there is nothing to test. "
        "Check that the event is tracked.",
        value=float(len(flat)),
        threshold=0.0,
    )


def few_buyers(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """Check for means that rest on few units with a value other than 0 (buyers, for GMV) in the smaller arm."""
    smallest = {
        label_of(m): min(_nonzero(m, control), _nonzero(m, treatment))
        for m in metrics
        if isinstance(m, Mean | Proportion)
    }
    return check_each(
        "few_buyers",
        smallest,
        FEW_NONZERO,
        low_is_bad=True,
        finding=f"{{names}}: fewer than {FEW_NONZERO} units have a value other than 0 in one arm "
        "(smallest: {worst:,}). The intervals may miss the true lift more often than stated.",
        ok="Every metric has at least {worst:,} units with a value other than 0 in each arm.",
    )


def heavy_tail(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """Check the share of an arm's variance that comes from its single largest unit."""
    shares: dict[str, float] = {}
    for metric in metrics:
        column = metric.inputs[0]
        for arm in (control, treatment):
            if isinstance(metric, Mean) and arm.variance(column) > 0:
                share = arm.tails[column].heaviest(arm.means[column], arm.variance(column), arm.n)
                shares[label_of(metric)] = max(shares.get(label_of(metric), 0.0), share)
    return check_each(
        "heavy_tail",
        shares,
        ONE_UNIT,
        finding="{names}: a single unit makes up as much as {worst:.0%} of an arm's variance. "
        "One order could reverse the result.",
        ok="No single unit makes up more than {worst:.2%} of an arm's variance.",
    )


def automated_traffic(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """Check for units with a large share of their arm's events: no person does that. Small samples are not checked."""
    shares: dict[str, float] = {}
    for metric in metrics:
        if not isinstance(metric, Count):
            continue
        (column,) = metric.inputs
        for arm in (control, treatment):
            total = arm.means[column] * arm.n
            if total > 0 and arm.tails[column].nonzero >= 10 / ONE_SOURCE:
                share = min(arm.tails[column].largest / total, 1.0)
                shares[label_of(metric)] = max(shares.get(label_of(metric), 0.0), share)
    return check_each(
        "automated_traffic",
        shares,
        ONE_SOURCE,
        finding="{names}: a single unit has up to {worst:.1%} of all events of its arm and may be a bot. "
        "Leave such units out.",
        ok="No single unit has more than {worst:.2%} of all events of its arm.",
    )


def balance_before_exposure(metrics: Sequence[Metric], control: Moments, treatment: Moments) -> Check | None:
    """Check that the covariates do not differ between the arms: they are measured before exposure."""
    p_values: dict[str, float] = {}
    adjusters = {adjuster.name: adjuster for m in metrics for adjuster in m.adjusters}
    for name in sorted(adjusters):
        effect = compare(adjusters[name], control, treatment)
        if isinstance(effect, Effect):
            p_values[name] = effect.difference.p
    return check_each(
        "balance_before_exposure",
        p_values,
        IMBALANCE_P,
        low_is_bad=True,
        finding="{names}: the arms differed before exposure already ({p}). Check that the split is random.",
        ok="The arms did not differ before exposure (smallest {p}).",
    )


def covariates_before_exposure(
    facts: Facts, metrics: Sequence[Metric], control: Moments, treatment: Moments
) -> Check | None:
    """Check that covariates end before first exposure; otherwise they would hide the effect.

    Where the data has the end of the covariates' time, it is compared with first exposure. A covariate that is almost
    equal to the metric was probably measured in the same time and warns.
    """
    adjusted = [m for m in metrics if m.adjusters]
    if not adjusted:
        return None
    name, threshold = "covariates_before_exposure", COPY
    if facts.late_covariates:
        return Check(
            name=name,
            status="fail",
            sentence=f"The covariates of {facts.late_covariates:,} units extend beyond their first exposure. "
            "They would hide the effect. Measure them strictly before exposure.",
            value=float(facts.late_covariates),
            threshold=0.0,
        )
    correlations = {label_of(m): _correlation(m, (control, treatment)) for m in adjusted}
    copies = [label for label, r in correlations.items() if r > COPY]
    most = max(correlations.values())
    if copies:
        sentence = (
            f"{joined(copies)}: the covariate almost equals the metric. Check that it was measured before exposure."
        )
    elif facts.late_covariates == 0:
        sentence = "All covariates end before first exposure."
    else:
        sentence = f"No covariate equals its metric (largest correlation {most:.3g})."
    return Check(name=name, status="warn" if copies else "ok", sentence=sentence, value=most, threshold=threshold)


def _correlation(metric: Metric, arms: Sequence[Moments]) -> float:
    """Return the largest correlation, within an arm, of a column of the metric with one of its covariates."""
    most = 0.0
    for arm in arms:
        for a in metric.inputs:
            for b in (column for adjuster in metric.adjusters for column in adjuster.inputs):
                scale = arm.variance(a) * arm.variance(b)
                if scale > 0:
                    most = max(most, abs(arm.covariance(a, b)) / scale**0.5)
    return min(most, 1.0)


def _nonzero(metric: Mean | Proportion, arm: Moments) -> int:
    (column,) = metric.inputs
    return arm.tails[column].nonzero if isinstance(metric, Mean) else round(arm.means[column] * arm.n)


def _varies(metric: Metric, arm: Moments) -> bool:
    return arm.variance(metric.inputs[0]) > 0
