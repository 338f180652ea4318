"""From two arms' moments to a difference, a relative lift, their intervals and a p-value.

Everything follows from two estimates, the difference D and the control's value C, with their variances and covariance.
Welch's test uses D alone. Fieller's interval contains every lift L for which D - L*C is compatible with 0:

    (D - L C)^2 <= t^2 (Var D - 2 L Cov(D, C) + L^2 Var C)

At L = 0 this is the acceptance region of the Welch test with the same t. So the interval excludes 0 exactly when the
test rejects, which intervals by the delta method or by logarithms do not guarantee. Where C is not clearly above 0, the
interval is unbounded, and rightly so. See docs/analysts/which-interval.md.

References: Welch 1947; Fieller 1954; Deng, Xu, Kohavi, Walker 2013 (CUPED); Deng, Knoblich, Lu 2018 (delta method);
Zou, Donner 2008 (intervals from those of the arms, where they are not symmetric); Newcombe 1998 (few events).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp, inf, log, sqrt
from typing import Literal

from analysis.adjustment import Adjustment, bilinear, cuped, lost_digits
from analysis.aggregates import Moments, exact_sum
from analysis.columns import Column
from analysis.metrics import Metric, Proportion
from analysis.small_counts import is_few, score_variances

IntervalMethod = Literal["fieller", "delta", "log"]
Shape = Literal["bounded", "outside", "everything"]
Scale = Literal["lift", "difference"]

CANCELLED = 1e-12  # share of its largest terms below which the variance of a ratio or an adjusted mean is rounding


@dataclass(frozen=True)
class ArmEstimate:
    """A metric in one arm.

    Attributes:
        n: Number of units.
        raw: Value without CUPED.
        adjusted: Value with CUPED.
        variance: Variance of the adjusted value.
        raw_variance: Variance of the raw value.
        covariance: Covariance of the adjusted with the raw value.
        sides: Variances downwards and upwards where they differ (quantiles, small counts); None where they are equal.
        rest: What the rounding to a double lost of the adjusted value.
    """

    n: int
    raw: float
    adjusted: float
    variance: float
    raw_variance: float
    covariance: float
    sides: tuple[float, float] | None = None
    rest: float = 0.0

    def minus(self, other: "ArmEstimate") -> float:
        """Return the difference of the adjusted values, with the digits that each value alone has no room for."""
        return (self.adjusted - other.adjusted) + (self.rest - other.rest)

    def side(self, sign: int) -> "ArmEstimate":
        """Return the arm with the variance of one side: -1 for downwards, +1 for upwards."""
        if self.sides is None:
            return self
        variance = self.sides[sign > 0]
        return replace(self, variance=variance, raw_variance=variance, covariance=variance, sides=None)


@dataclass(frozen=True)
class Difference:
    """Treatment minus control, in the metric's unit.

    Attributes:
        value: The difference.
        low: Lower bound.
        high: Upper bound.
        standard_error: Standard error.
        df: Degrees of freedom (Welch-Satterthwaite).
        p: Two-sided p-value.
    """

    value: float
    low: float
    high: float
    standard_error: float
    df: float
    p: float


@dataclass(frozen=True)
class LiftInterval:
    """The set of lifts (0.1 is +10 %) that the data do not reject.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        shape: `bounded` is everything from low to high. `outside` is everything except the open gap from low to high:
            it is unbounded although some lifts are excluded. `everything` excludes no lift; low and high are infinite.
        method: Method of the interval.
    """

    low: float
    high: float
    shape: Shape
    method: IntervalMethod

    def contains(self, lift: float) -> bool:
        """Say whether the data do not reject a lift."""
        if self.shape == "outside":
            return lift <= self.low or lift >= self.high
        return self.low <= lift <= self.high


@dataclass(frozen=True)
class Effect:
    """The effect of the treatment on one metric.

    Attributes:
        control: Estimate in the control.
        treatment: Estimate in the treatment.
        difference: Treatment minus control.
        lift: D / C with the *raw* control value as denominator, also with CUPED; None where that is not above 0.
        interval: Interval of the lift; None where the lift is None.
        theta: CUPED coefficients, pooled over the arms, one per covariate that varies; None without CUPED.
        variance_reduction: 1 - Var(adjusted D) / Var(raw D); None without CUPED.
    """

    control: ArmEstimate
    treatment: ArmEstimate
    difference: Difference
    lift: float | None
    interval: LiftInterval | None
    theta: tuple[float, ...] | None
    variance_reduction: float | None


@dataclass(frozen=True)
class Undefined:
    """The effect is undefined.

    Attributes:
        reason: Why, as part of a sentence.
    """

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
    """Compute the effect of the treatment on a metric.

    A share with few events gets score intervals, without CUPED, which could not reduce their variance.

    Args:
        metric: The metric.
        control: Moments of the control; they may be post-stratified (`adjustment.post_stratify`).
        treatment: Moments of the treatment.
        alpha: 1 - coverage of the intervals.
        method: Method of the lift's interval.
        adjust: Whether to use the metric's covariates (CUPED).
    """
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n < 2:
            return Undefined(f"the {name} has {arm.n} unit(s), and a variance needs two")
        if metric.value(arm.means) is None:
            return Undefined(f"the denominator is 0 in the {name}")
    if isinstance(metric, Proportion) and any(
        is_few(metric.value(arm.means) or 0.0, arm.n) for arm in (control, treatment)
    ):
        arms = (scored(estimate(metric, arm), alpha) for arm in (control, treatment))
        return effect_of(*arms, alpha=alpha, method=method)
    adjustment = cuped(metric, control, treatment) if adjust else None
    return effect_of(
        estimate(metric, control, adjustment),
        estimate(metric, treatment, adjustment),
        alpha=alpha,
        method=method,
        theta=adjustment.theta if adjustment else None,
    )


def effect_of(
    control: ArmEstimate,
    treatment: ArmEstimate,
    *,
    alpha: float = 0.05,
    method: IntervalMethod = "fieller",
    theta: tuple[float, ...] | None = None,
) -> Effect | Undefined:
    """Compute the effect from the estimates of two arms.

    Args:
        control: Estimate in the control.
        treatment: Estimate in the treatment.
        alpha: 1 - coverage of the intervals.
        method: Method of the lift's interval.
        theta: CUPED coefficients of the estimates; None without CUPED.
    """
    if control.variance + treatment.variance <= 0:
        return Undefined("the metric does not vary in either arm")
    against = facing(control, treatment, _sign(control, treatment))
    if against[0].variance + against[1].variance <= 0:
        return Undefined("each arm has a single value, so the uncertainty of the difference is unknown")
    difference = welch(control, treatment, alpha=alpha)
    raw_variance = control.raw_variance + treatment.raw_variance
    positive = control.raw > 0
    return Effect(
        control=control,
        treatment=treatment,
        difference=difference,
        lift=difference.value / control.raw if positive else None,
        interval=lift_interval(control, treatment, alpha=alpha, method=method) if positive else None,
        theta=theta,
        variance_reduction=1 - (control.variance + treatment.variance) / raw_variance
        if theta is not None and raw_variance > 0
        else None,
    )


def estimate(metric: Metric, arm: Moments, adjustment: Adjustment | None = None) -> ArmEstimate:
    """Return value and variance in one arm: f(means) - theta' (h(means) - centre), Var = g' S g / n.

    Args:
        metric: The metric; its value must be defined.
        arm: Moments of the arm, of at least two units.
        adjustment: Adjustment by covariates; None for none.
    """
    raw = metric.value(arm.means)
    assert raw is not None, "the caller checks the denominator"
    gradient = metric.gradient(arm.means)
    raw_variance, rest = _variance(gradient, arm), lost_digits(metric, arm)
    if adjustment is None:
        return ArmEstimate(arm.n, raw, raw, raw_variance, raw_variance, raw_variance, rest=rest)
    adjusted_gradient = dict(gradient)
    for column, slope in adjustment.gradient(arm).items():
        adjusted_gradient[column] = adjusted_gradient.get(column, 0.0) - slope
    adjusted, lost = exact_sum(raw, -adjustment.shift(arm))
    return ArmEstimate(
        arm.n,
        raw,
        adjusted,
        _variance(adjusted_gradient, arm),
        raw_variance,
        bilinear(adjusted_gradient, gradient, arm) / arm.n,
        rest=rest + lost,
    )


def scored(arm: ArmEstimate, alpha: float) -> ArmEstimate:
    """Return the estimate of a share with the distances of its score interval to either side."""
    return replace(arm, sides=score_variances(min(max(arm.raw, 0.0), 1.0), arm.n, alpha))


def _variance(gradient: Mapping[Column, float], arm: Moments) -> float:
    """Return g' S g / n; 0 where its terms cancel up to rounding: each unit then has the same value."""
    variance = bilinear(gradient, gradient, arm)
    scale = sum(slope**2 * arm.variance(column) for column, slope in gradient.items())
    return 0.0 if variance <= CANCELLED * scale else variance / arm.n


def facing(control: ArmEstimate, treatment: ArmEstimate, sign: int) -> tuple[ArmEstimate, ArmEstimate]:
    """Return the arms with the variances that bound the effect from below (sign +1) or from above (-1).

    Seen from below, the treatment may be lower and the control higher. Arms with one variance for both sides stay as
    they are. This recovers the variance from each arm's own interval (MOVER: Zou, Donner 2008).
    """
    return control.side(sign), treatment.side(-sign)


def _sign(control: ArmEstimate, treatment: ArmEstimate) -> int:
    """Return the side of 0 on which the effect lies: +1 above, -1 below. At 0, return the side that has a variance."""
    value = treatment.minus(control)
    if value == 0:
        return max((1, -1), key=lambda sign: sum(arm.variance for arm in facing(control, treatment, sign)))
    return 1 if value > 0 else -1


def standard_error(control: ArmEstimate, treatment: ArmEstimate, sign: int) -> float:
    """Return the standard error of the difference for its bound from below (sign +1) or from above (-1)."""
    return sqrt(sum(arm.variance for arm in facing(control, treatment, sign)))


def welch(control: ArmEstimate, treatment: ArmEstimate, *, alpha: float = 0.05) -> Difference:
    """Apply Welch's t-test for unequal variances. At least one arm needs a variance.

    The standard error is the one towards 0, so that test and interval agree.

    Args:
        control: Estimate in the control.
        treatment: Estimate in the treatment.
        alpha: 1 - coverage of the interval.
    """
    from scipy.special import stdtr

    value, sign = treatment.minus(control), _sign(control, treatment)
    error, df = standard_error(control, treatment, sign), degrees_of_freedom(*facing(control, treatment, sign))
    low, high = (_reach(control, treatment, side, alpha) for side in (1, -1))
    p = float(2 * stdtr(df, -abs(value / error)))
    return Difference(value, value - low, value + high, error, df, p)


def _reach(control: ArmEstimate, treatment: ArmEstimate, sign: int, alpha: float) -> float:
    error = standard_error(control, treatment, sign)
    return t_quantile(degrees_of_freedom(*facing(control, treatment, sign)), alpha) * error if error > 0 else 0.0


def degrees_of_freedom(control: ArmEstimate, treatment: ArmEstimate) -> float:
    """Return the Welch-Satterthwaite degrees of freedom, from shares of the variance to avoid underflow."""
    total = control.variance + treatment.variance
    if total <= 0:
        return float(control.n + treatment.n - 2)
    shares = (control.variance / total, treatment.variance / total)
    return 1 / (shares[0] ** 2 / (control.n - 1) + shares[1] ** 2 / (treatment.n - 1))


def lift_interval(
    control: ArmEstimate,
    treatment: ArmEstimate,
    *,
    alpha: float = 0.05,
    method: IntervalMethod = "fieller",
    critical: float | None = None,
) -> LiftInterval:
    """Compute the interval of the relative lift D / C.

    Args:
        control: Estimate in the control; its raw value must be above 0 for `delta` and `log`.
        treatment: Estimate in the treatment.
        alpha: 1 - coverage of the interval.
        method: Method of the interval.
        critical: Critical value in standard errors, for sequential tests; None means Welch's t quantile.
    """
    if control.sides or treatment.sides:
        below, above = (
            lift_interval(*facing(control, treatment, sign), alpha=alpha, method=method, critical=critical)
            for sign in (1, -1)
        )
        if below.shape == above.shape == "bounded":
            return replace(below, high=above.high)
        if above.shape == "bounded" and (low := _lower_bound(below, treatment)) is not None:
            return replace(above, low=low)
        return below if _sign(control, treatment) > 0 else above
    d, c = treatment.minus(control), control.raw
    var_d, var_c = control.variance + treatment.variance, control.raw_variance
    cov = -control.covariance
    t = t_quantile(degrees_of_freedom(control, treatment), alpha) if critical is None else critical
    if method == "fieller":
        return _fieller(d, c, var_d, var_c, cov, t)
    lift = d / c
    error = lift_error(control, treatment)
    if method == "delta":
        return LiftInterval(lift - t * error, lift + t * error, "bounded", "delta")
    ratio = 1 + lift
    if ratio <= 0:
        return LiftInterval(-inf, inf, "everything", "log")
    half = t * error / ratio
    return LiftInterval(exp(log(ratio) - half) - 1, exp(log(ratio) + half) - 1, "bounded", "log")


def _lower_bound(below: LiftInterval, treatment: ArmEstimate) -> float | None:
    """Return the lower bound from an unbounded set of lifts that excludes a treatment of 0 or, at 0, all below it."""
    if below.shape == "outside" and below.low <= -1 <= below.high:
        return below.high
    return -1.0 if treatment.adjusted == 0 and treatment.side(-1).variance == 0 else None


def lift_error(control: ArmEstimate, treatment: ArmEstimate) -> float:
    """Return the standard error of the lift D / C towards 0, by the delta method. C must be above 0."""
    control, treatment = facing(control, treatment, _sign(control, treatment))
    lift = treatment.minus(control) / control.raw
    variance = control.variance + treatment.variance + 2 * lift * control.covariance + lift**2 * control.raw_variance
    return sqrt(max(variance, 0.0)) / control.raw


def _fieller(d: float, c: float, var_d: float, var_c: float, cov: float, t: float) -> LiftInterval:
    """Solve (D - L C)^2 = t^2 Var(D - L C) for L: a L^2 - 2 b L + k = 0."""
    a = c * c - t * t * var_c
    b = d * c - t * t * cov
    k = d * d - t * t * var_d
    discriminant = b * b - a * k
    if a <= 0 and (discriminant <= 0 or a == 0):
        return LiftInterval(-inf, inf, "everything", "fieller")
    # Compute the root of larger magnitude first and the other from their product k / a: neither loses digits.
    root = sqrt(max(discriminant, 0.0))
    q = b + root if b >= 0 else b - root
    first, second = (q / a, k / q if q else 0.0)
    low, high = min(first, second), max(first, second)
    return LiftInterval(low, high, "bounded" if a > 0 else "outside", "fieller")


def t_quantile(df: float, alpha: float) -> float:
    """Return the two-sided critical value of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - alpha / 2))
