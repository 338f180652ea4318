"""Power: how many units an experiment needs, how long it takes, and which lift it can detect.

Everything follows from a baseline: the metric's value and its variance per unit, Var(estimate) = variance / n. For a
mean this is the sample variance, for a proportion p (1 - p), for a ratio that of the delta method; with CUPED it is the
variance that the covariates leave. Power is that of the two-sided Welch test, by the noncentral t distribution.

References: Cohen 1988; Kohavi, Tang, Xu 2020, chapter 17.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isnan, sqrt

from analysis.adjustment import cuped
from analysis.aggregates import Moments
from analysis.errors import ArgumentError, DataError
from analysis.inference import Effect, estimate, t_quantile
from analysis.metrics import Metric, Proportion
from analysis.validation import check_alpha, check_count, check_scalar, check_share

WEEK = 7  # days over which the rate of new units is averaged, so that weekends do not distort it
FARTHEST = 730  # largest number of days ahead that is reported


@dataclass(frozen=True)
class Baseline:
    """A metric without treatment.

    Attributes:
        value: The metric's value, above 0.
        variance: Variance per unit of the (adjusted) estimate.
        share: Whether the metric is a share of units, whose variance changes with its value.

    Raises:
        ArgumentError: A value is out of range.
    """

    value: float
    variance: float
    share: bool = False

    def __post_init__(self) -> None:
        check_scalar(self.value, "The baseline's value", gt=0)
        check_scalar(self.variance, "The baseline's variance", gt=0)
        if self.share:
            check_scalar(self.value, "The baseline share", lt=1)

    @classmethod
    def proportion(cls, value: float) -> "Baseline":
        """Return the baseline of a share of units, such as the buyers.

        Raises:
            ArgumentError: The share is not between 0 and 1.
        """
        check_share(value, "The baseline share")
        return cls(value, value * (1 - value), share=True)

    @classmethod
    def of(cls, metric: Metric, history: Moments) -> "Baseline":
        """Return the baseline of past units, with the variance that CUPED by the metric's covariates leaves.

        Args:
            metric: The metric.
            history: Moments of past units.

        Raises:
            DataError: The history has too few units, no value, or no variance.
        """
        if history.n < 2 or metric.value(history.means) is None:
            raise DataError(f"The history of {metric.name!r} has {history.n} units and no value. Use a longer one.")
        past = estimate(metric, history, cuped(metric, history, history))
        if past.variance <= 0 or past.raw <= 0:
            raise DataError(
                f"In the history {metric.name!r} is {past.raw:g} with variance {past.variance:g}; "
                "planning a lift needs both above 0."
            )
        return cls(past.raw, past.variance * past.n, share=isinstance(metric, Proportion))

    def treated(self, lift: float) -> float:
        """Return the variance per unit in the treatment. Only the variance of a share changes with the lift."""
        if not self.share:
            return self.variance
        before, after = self.value * (1 - self.value), self.value * (1 + lift)
        return self.variance * after * (1 - after) / before

    @property
    def largest_lift(self) -> float | None:
        """The lift at which a share is 1; None for other metrics."""
        return 1 / self.value - 1 if self.share else None


@dataclass(frozen=True)
class SampleSize:
    """Units that an experiment needs.

    Attributes:
        units: Units of both arms, not rounded.
        control: Units of the control, rounded up.
        treatment: Units of the treatment, rounded up.
    """

    units: float
    control: int
    treatment: int


@dataclass(frozen=True)
class Duration:
    """What an experiment of some days can detect.

    Attributes:
        days: Length of the experiment.
        units: Units of both arms.
        baseline: Baseline over these days.
        mde: Minimum detectable effect: the smallest lift detected with the given power; None if no lift is.
    """

    days: int
    units: int
    baseline: Baseline
    mde: float | None


@dataclass(frozen=True)
class Remaining:
    """What an experiment still needs.

    Attributes:
        units: Additional units of both arms.
        days: Additional days until then; None if that many units will not come.
    """

    units: int
    days: int | None


def power(baseline: Baseline, lift: float, control: float, treatment: float, *, alpha: float = 0.05) -> float:
    """Return the probability that the Welch test detects a true lift.

    Args:
        baseline: The metric without treatment.
        lift: The true lift.
        control: Units of the control; may be fractional.
        treatment: Units of the treatment; may be fractional.
        alpha: Level of the test.

    Raises:
        ArgumentError: An argument is out of range.
    """
    from scipy.special import nctdtr

    check_scalar(lift, "lift", gt=-1)
    check_scalar(control, "control units", ge=2)
    check_scalar(treatment, "treatment units", ge=2)
    check_alpha(alpha)
    if baseline.largest_lift is not None:
        check_scalar(lift, "lift of a share", le=baseline.largest_lift)
    parts = (baseline.variance / control, baseline.treated(lift) / treatment)
    error = sqrt(sum(parts))
    df = error**4 / (parts[0] ** 2 / (control - 1) + parts[1] ** 2 / (treatment - 1))
    shift = abs(baseline.value * lift) / error
    t = t_quantile(df, alpha)
    missed, wrong_sign = nctdtr(df, shift, t), nctdtr(df, shift, -t)
    # SciPy returns NaN for a probability that is too small to compute.
    return float(1 - (0.0 if isnan(missed) else missed) + (0.0 if isnan(wrong_sign) else wrong_sign))


def sample_size(
    baseline: Baseline,
    lift: float,
    *,
    alpha: float = 0.05,
    power_wanted: float = 0.8,
    treatment_share: float = 0.5,
    inflation: float = 1.0,
) -> SampleSize:
    """Return the units needed to detect a lift of either sign.

    Args:
        baseline: The metric without treatment.
        lift: The true lift.
        alpha: Level of the test.
        power_wanted: Probability of detecting the lift.
        treatment_share: Share of the units in the treatment.
        inflation: Inflation of a sequential design (`sequential.inflation`).

    Raises:
        ArgumentError: An argument is out of range.
    """
    from scipy.optimize import brentq

    check_scalar(lift, "lift", gt=-1)
    check_alpha(alpha)
    check_share(treatment_share, "treatment_share")
    check_scalar(inflation, "inflation", ge=1)
    if lift == 0:
        raise ArgumentError("lift is 0, and no number of units can detect that. Give a lift above or below 0.")
    target = check_scalar(power_wanted, "power_wanted", gt=alpha, lt=1)
    shares = (1 - treatment_share, treatment_share)
    low = 2 / min(shares)

    def lack(units: float) -> float:
        # 2 / share * share can be slightly below 2 by rounding.
        arms = (max(units * share, 2.0) for share in shares)
        return power(baseline, lift, *arms, alpha=alpha) - target

    high = low
    while lack(high) < 0:
        high *= 4
    units = inflation * (float(brentq(lack, low, high, rtol=1e-12)) if lack(low) < 0 else low)
    return SampleSize(units, *(ceil(units * share - 1e-9) for share in shares))


def minimum_detectable_lift(
    baseline: Baseline,
    control: float,
    treatment: float,
    *,
    alpha: float = 0.05,
    power_wanted: float = 0.8,
    inflation: float = 1.0,
) -> float | None:
    """Return the smallest lift above 0 that is detected; None if even a share of 1 is not.

    Args:
        baseline: The metric without treatment.
        control: Units of the control; may be fractional.
        treatment: Units of the treatment; may be fractional.
        alpha: Level of the test.
        power_wanted: Probability of detecting the lift.
        inflation: Inflation of a sequential design.

    Raises:
        ArgumentError: An argument is out of range.
    """
    from scipy.optimize import brentq

    check_alpha(alpha)
    check_scalar(inflation, "inflation", ge=1)
    target = check_scalar(power_wanted, "power_wanted", gt=alpha, lt=1)

    def lack(lift: float) -> float:
        return power(baseline, lift, control / inflation, treatment / inflation, alpha=alpha) - target

    high = baseline.largest_lift
    if high is None:
        high = sqrt(baseline.variance * (1 / control + 1 / treatment)) / baseline.value
        while lack(high) < 0:
            high *= 2
    elif lack(high) < 0:
        return None
    return float(brentq(lack, 0.0, high, xtol=1e-14, rtol=1e-12))


def durations(
    metric: Metric,
    history: Mapping[int, Moments],
    *,
    traffic: float = 1.0,
    treatment_share: float = 0.5,
    alpha: float = 0.05,
    power_wanted: float = 0.8,
    inflation: float = 1.0,
) -> tuple[Duration, ...]:
    """Compute from past traffic what experiments of different lengths can detect.

    Args:
        metric: The metric.
        history: By number of days, the moments of the units first seen in that many days, as the metric would count
            them. So the result includes that longer experiments have more units and other values per unit.
        traffic: Share of the units that the experiment takes.
        treatment_share: Share of these units in the treatment.
        alpha: Level of the test.
        power_wanted: Probability of detecting the lift.
        inflation: Inflation of a sequential design.

    Raises:
        ArgumentError: An argument is out of range.
        DataError: A history has no value or no variance.
    """
    check_scalar(traffic, "traffic", gt=0, le=1)
    check_share(treatment_share, "treatment_share")
    results = []
    for days in sorted(history):
        baseline = Baseline.of(metric, history[days])
        units = history[days].n * traffic
        mde = minimum_detectable_lift(
            baseline,
            units * (1 - treatment_share),
            units * treatment_share,
            alpha=alpha,
            power_wanted=power_wanted,
            inflation=inflation,
        )
        results.append(Duration(check_count(days, "days"), round(units), baseline, mde))
    return tuple(results)


def days_until(units: float, new_units: Sequence[int]) -> int | None:
    """Estimate the days until the experiment has a number of units.

    Most users of a shop return, so each day brings fewer new ones. The total is assumed to grow like days^b, with b
    from the rate of the last week; if that rate is above the average so far (b >= 1), it is assumed to stay.

    Args:
        units: Number of units in total.
        new_units: New units of each day so far.

    Returns:
        Days from now; None if the number will not be reached, or not within `FARTHEST` days: so far ahead, a trend of a
        few weeks says nothing.

    Raises:
        ArgumentError: A number is below 0.
    """
    check_scalar(units, "units", ge=0)
    counts = [check_count(count, f"new units of day {day + 1}", ge=0) for day, count in enumerate(new_units)]
    total, days = sum(counts), len(counts)
    if units <= total:
        return 0
    recent = counts[-WEEK:]
    rate = sum(recent) / len(recent) if recent else 0.0
    if rate <= 0:
        return None
    exponent = rate * days / total
    if exponent >= 1:
        more = (units - total) / rate
    else:
        try:
            more = days * ((units / total) ** (1 / exponent) - 1)
        except OverflowError:  # almost no new units join
            return None
    return ceil(more - 1e-9) if more <= FARTHEST else None


def remaining(effect: Effect, half_width: float, new_units: Sequence[int]) -> Remaining:
    """Estimate what is still needed until the lift is precise enough.

    Args:
        effect: The effect so far.
        half_width: Half-width of the lift's interval to reach; 0.02 is two percentage points.
        new_units: New units of both arms on each day so far.

    Raises:
        ArgumentError: An argument is out of range, or the lift's interval is unbounded.
    """
    check_scalar(half_width, "half_width", gt=0)
    if effect.interval is None or effect.interval.shape != "bounded":
        raise ArgumentError("The lift's interval is unbounded, so its width says nothing about the days needed.")
    now = effect.control.n + effect.treatment.n
    width = (effect.interval.high - effect.interval.low) / 2
    needed = max(now * (width / half_width) ** 2, now)
    more = ceil(needed - now - 1e-9)
    # The new units of a day include units that left the analysis (seen in several arms), so only the growth counts.
    days = days_until(needed / now * sum(new_units), new_units) if sum(new_units) else None
    return Remaining(more, days if more else 0)
