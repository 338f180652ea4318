"""From two arms' moments to a difference, a relative lift, their intervals and a p-value.

Everything rests on one pair of estimates, the difference D and the control's value C, with their variances and
covariance. Welch's test judges D alone. Fieller's interval holds every lift L for which D - L*C is compatible with 0:

    (D - L C)^2 <= t^2 (Var D - 2 L Cov(D, C) + L^2 Var C)

At L = 0 this is the acceptance region of the Welch test with the same t. So the interval excludes 0 exactly when the
test rejects, which no interval by the delta method or by logarithms can promise; and when C is not clearly above 0 the
interval is unbounded, which is the truth. See docs/analysis/which-interval.md.

References: Welch 1947; Fieller 1954; Deng, Xu, Kohavi, Walker 2013 (CUPED); Deng, Knoblich, Lu 2018 (delta method).
"""

from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Literal

from analysis.aggregates import Column, Moments
from analysis.metrics import Metric

IntervalMethod = Literal["fieller", "delta", "log"]
Shape = Literal["bounded", "outside", "everything"]


@dataclass(frozen=True)
class ArmEstimate:
    """A metric in one arm. `variance` is of the adjusted estimate, `covariance` of the adjusted with the raw one."""

    n: int
    raw: float
    adjusted: float
    variance: float
    raw_variance: float
    covariance: float


@dataclass(frozen=True)
class Difference:
    """Treatment minus control in the metric's unit. df: Welch-Satterthwaite. p: two-sided."""

    value: float
    low: float
    high: float
    standard_error: float
    df: float
    p: float


@dataclass(frozen=True)
class LiftInterval:
    """Set of lifts (0.1 is +10 %) that the data do not reject.

    shape `bounded`: from low to high. `outside`: everything except the open gap from low to high, that is, unbounded
    although some lifts are excluded. `everything`: no lift is excluded; low and high are infinite.
    """

    low: float
    high: float
    shape: Shape
    method: IntervalMethod

    def contains(self, lift: float) -> bool:
        if self.shape == "outside":
            return lift <= self.low or lift >= self.high
        return self.low <= lift <= self.high


@dataclass(frozen=True)
class Effect:
    """The comparison of two arms in one metric.

    lift: D / C with the *raw* control value below the line, also under CUPED; None where that is not above 0.
    theta: the CUPED coefficient, pooled over the arms, None without covariate.
    variance_reduction: 1 - Var(adjusted D) / Var(raw D).
    """

    control: ArmEstimate
    treatment: ArmEstimate
    difference: Difference
    lift: float | None
    interval: LiftInterval | None
    theta: float | None
    variance_reduction: float | None


@dataclass(frozen=True)
class Undefined:
    """There is no effect to speak of, and why."""

    reason: str


def compare(
    metric: Metric,
    control: Moments,
    treatment: Moments,
    *,
    alpha: float = 0.05,
    method: IntervalMethod = "fieller",
    adjust: bool = True,
) -> Effect | Undefined:
    """Effect of the treatment on a metric, with CUPED if the metric has a covariate (and `adjust`)."""
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n < 2:
            return Undefined(f"the {name} has {arm.n} unit(s), and a variance needs two")
        if metric.value(arm.means) is None:
            return Undefined(f"the denominator is 0 in the {name}")
    theta = _theta(metric, (control, treatment)) if adjust else None
    centre = _pooled_mean(metric.covariate_column, control, treatment) if theta is not None else 0.0
    c = estimate(metric, control, theta=theta or 0.0, centre=centre)
    t = estimate(metric, treatment, theta=theta or 0.0, centre=centre)
    if c.variance + t.variance <= 0:
        return Undefined("the metric does not vary in either arm")
    difference = welch(c, t, alpha=alpha)
    raw_variance = c.raw_variance + t.raw_variance
    return Effect(
        control=c,
        treatment=t,
        difference=difference,
        lift=difference.value / c.raw if c.raw > 0 else None,
        interval=lift_interval(c, t, alpha=alpha, method=method) if c.raw > 0 else None,
        theta=theta,
        variance_reduction=1 - (c.variance + t.variance) / raw_variance
        if theta is not None and raw_variance > 0
        else None,
    )


def estimate(metric: Metric, arm: Moments, *, theta: float = 0.0, centre: float = 0.0) -> ArmEstimate:
    """Value and variance in one arm: f(means) - theta (mean of covariate - centre), Var = g' S g / n."""
    raw = metric.value(arm.means)
    assert raw is not None, "the caller has checked the denominator"
    gradient = metric.gradient(arm.means)
    raw_variance = _bilinear(gradient, gradient, arm) / arm.n
    covariate = metric.covariate_column
    if covariate is None or theta == 0.0:
        return ArmEstimate(arm.n, raw, raw, raw_variance, raw_variance, raw_variance)
    adjusted = raw - theta * (arm.means[covariate] - centre)
    adjusted_gradient = {**gradient, covariate: -theta}
    return ArmEstimate(
        arm.n,
        raw,
        adjusted,
        max(_bilinear(adjusted_gradient, adjusted_gradient, arm), 0.0) / arm.n,
        raw_variance,
        _bilinear(adjusted_gradient, gradient, arm) / arm.n,
    )


def welch(control: ArmEstimate, treatment: ArmEstimate, *, alpha: float = 0.05) -> Difference:
    """Welch's unequal-variances t-test and interval. Needs variance in at least one arm."""
    from scipy.special import stdtr

    value = treatment.adjusted - control.adjusted
    error = sqrt(control.variance + treatment.variance)
    df = degrees_of_freedom(control, treatment)
    half = _quantile(df, alpha) * error
    p = float(2 * stdtr(df, -abs(value / error)))
    return Difference(value, value - half, value + half, error, df, p)


def degrees_of_freedom(control: ArmEstimate, treatment: ArmEstimate) -> float:
    """Welch-Satterthwaite, written with shares of the variance so that tiny variances do not underflow."""
    total = control.variance + treatment.variance
    shares = (control.variance / total, treatment.variance / total)
    return 1 / (shares[0] ** 2 / (control.n - 1) + shares[1] ** 2 / (treatment.n - 1))


def lift_interval(
    control: ArmEstimate, treatment: ArmEstimate, *, alpha: float = 0.05, method: IntervalMethod = "fieller"
) -> LiftInterval:
    """Interval of the relative lift D / C by name. C must be above 0 for `delta` and `log`."""
    d, c = treatment.adjusted - control.adjusted, control.raw
    var_d, var_c = control.variance + treatment.variance, control.raw_variance
    cov = -control.covariance
    t = _quantile(degrees_of_freedom(control, treatment), alpha)
    if method == "fieller":
        return _fieller(d, c, var_d, var_c, cov, t)
    lift = d / c
    error = sqrt(max(var_d - 2 * lift * cov + lift**2 * var_c, 0.0)) / c
    if method == "delta":
        return LiftInterval(lift - t * error, lift + t * error, "bounded", "delta")
    ratio = 1 + lift
    if ratio <= 0:
        return LiftInterval(-inf, inf, "everything", "log")
    half = t * error / ratio
    return LiftInterval(exp(log(ratio) - half) - 1, exp(log(ratio) + half) - 1, "bounded", "log")


def _fieller(d: float, c: float, var_d: float, var_c: float, cov: float, t: float) -> LiftInterval:
    """Roots of (D - L C)^2 = t^2 Var(D - L C) in L: a L^2 - 2 b L + k = 0."""
    a = c * c - t * t * var_c
    b = d * c - t * t * cov
    k = d * d - t * t * var_d
    discriminant = b * b - a * k
    if a <= 0 and (discriminant <= 0 or a == 0):
        return LiftInterval(-inf, inf, "everything", "fieller")
    # The root with the larger magnitude first, the other by the product k / a: neither suffers from cancellation.
    root = sqrt(max(discriminant, 0.0))
    q = b + root if b >= 0 else b - root
    first, second = (q / a, k / q if q else 0.0)
    low, high = min(first, second), max(first, second)
    return LiftInterval(low, high, "bounded" if a > 0 else "outside", "fieller")


def _theta(metric: Metric, arms: tuple[Moments, Moments]) -> float | None:
    """CUPED coefficient pooled over the arms: sum of within-arm cov(metric, covariate) over that of its variance."""
    covariate = metric.covariate_column
    if covariate is None:
        return None
    weight = [arm.n - 1 for arm in arms]
    variance = sum(w * arm.variance(covariate) for w, arm in zip(weight, arms, strict=True))
    if variance <= 0:
        return None
    return (
        sum(
            w * _bilinear(metric.gradient(arm.means), {covariate: 1.0}, arm)
            for w, arm in zip(weight, arms, strict=True)
        )
        / variance
    )


def _pooled_mean(column: Column | None, control: Moments, treatment: Moments) -> float:
    if column is None:
        return 0.0
    total = control.n + treatment.n
    return (control.n * control.means[column] + treatment.n * treatment.means[column]) / total


def _bilinear(left: dict[Column, float], right: dict[Column, float], arm: Moments) -> float:
    return sum(g * h * arm.covariance(a, b) for a, g in left.items() for b, h in right.items())


def _quantile(df: float, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - alpha / 2))
