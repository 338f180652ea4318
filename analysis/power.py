"""How many users, how long, and what could be seen: before an experiment and while it runs.

Everything rests on a baseline: the metric's value and its variance per unit, Var(estimate) = variance / n. For a mean
that is the sample variance, for a proportion p (1 - p), for a ratio the delta method's; with CUPED it is what the
covariates leave. Power is that of the two-sided Welch test, by the noncentral t distribution.

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
from analysis.validation import check_count, check_scalar, check_share

WEEK = 7  # days over which the current rate of new units is taken, so that weekends do not bend it
FARTHEST = 730  # days ahead that are still told


@dataclass(frozen=True)
class Baseline:
    """A metric as it is without treatment. value: above 0. variance: per unit, of the (adjusted) estimate.

    share: the metric is a share of units, whose variance moves with its value.
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
        """A share of units, such as the buyers."""
        check_share(value, "The baseline share")
        return cls(value, value * (1 - value), share=True)

    @classmethod
    def of(cls, metric: Metric, history: Moments) -> "Baseline":
        """From past units, with the variance that CUPED by the metric's covariates would leave. Errors: DataError."""
        if history.n < 2 or metric.value(history.means) is None:
            raise DataError(f"The history of {metric.name!r} has {history.n} units and no value. Take a longer one.")
        past = estimate(metric, history, cuped(metric, history, history))
        if past.variance <= 0 or past.raw <= 0:
            raise DataError(
                f"In the history {metric.name!r} is {past.raw:g} with variance {past.variance:g}; "
                "planning a lift needs both above 0."
            )
        return cls(past.raw, past.variance * past.n, share=isinstance(metric, Proportion))

    def treated(self, lift: float) -> float:
        """Variance per unit in the treatment. Only a share's is known to move with the lift."""
        if not self.share:
            return self.variance
        before, after = self.value * (1 - self.value), self.value * (1 + lift)
        return self.variance * after * (1 - after) / before

    @property
    def largest_lift(self) -> float | None:
        """The lift at which a share is 1; None where there is no such limit."""
        return 1 / self.value - 1 if self.share else None


@dataclass(frozen=True)
class SampleSize:
    """units: of both arms, before rounding. control, treatment: rounded up."""

    units: float
    control: int
    treatment: int


@dataclass(frozen=True)
class Duration:
    """What a number of days could show. mde: smallest lift that is found with the chance asked for; None if none is."""

    days: int
    units: int
    baseline: Baseline
    mde: float | None


@dataclass(frozen=True)
class Remaining:
    """units: more units of both arms. days: more days until then; None if they will not come at all."""

    units: int
    days: int | None


def power(baseline: Baseline, lift: float, control: float, treatment: float, *, alpha: float = 0.05) -> float:
    """Chance that the Welch test finds a true lift, with so many units per arm (they may be fractions)."""
    from scipy.special import nctdtr

    check_scalar(lift, "lift", gt=-1)
    check_scalar(control, "control units", ge=2)
    check_scalar(treatment, "treatment units", ge=2)
    check_share(alpha, "alpha")
    if baseline.largest_lift is not None:
        check_scalar(lift, "lift of a share", le=baseline.largest_lift)
    parts = (baseline.variance / control, baseline.treated(lift) / treatment)
    error = sqrt(sum(parts))
    df = error**4 / (parts[0] ** 2 / (control - 1) + parts[1] ** 2 / (treatment - 1))
    shift = abs(baseline.value * lift) / error
    t = t_quantile(df, alpha)
    missed, wrong_sign = nctdtr(df, shift, t), nctdtr(df, shift, -t)
    # SciPy gives NaN for a chance that is too small to be computed.
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
    """Units needed to find a lift (either sign) with a given chance.

    treatment_share: of the units of both arms. inflation: of a sequential design (`sequential.inflation`).
    """
    from scipy.optimize import brentq

    check_scalar(lift, "lift", gt=-1)
    check_share(alpha, "alpha")
    check_share(treatment_share, "treatment_share")
    check_scalar(inflation, "inflation", ge=1)
    if lift == 0:
        raise ArgumentError("lift is 0, and no number of units shows an effect that is not there.")
    wanted = check_scalar(power_wanted, "power_wanted", gt=alpha, lt=1)
    shares = (1 - treatment_share, treatment_share)
    low = 2 / min(shares)

    def lack(units: float) -> float:
        return power(baseline, lift, units * shares[0], units * shares[1], alpha=alpha) - wanted

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
    """Smallest lift above 0 that is found with the chance asked for; None if not even the largest share is."""
    from scipy.optimize import brentq

    check_share(alpha, "alpha")
    check_scalar(inflation, "inflation", ge=1)
    wanted = check_scalar(power_wanted, "power_wanted", gt=alpha, lt=1)

    def lack(lift: float) -> float:
        return power(baseline, lift, control / inflation, treatment / inflation, alpha=alpha) - wanted

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
    """What an experiment of so many days could show, from past traffic.

    history: by number of days, the moments of the units first seen in that many days, as the metric would have counted
    them. Longer experiments have more units and, per unit, other values: both are in there. traffic: share of the units
    that the experiment takes. inflation: of a sequential design.
    """
    check_scalar(traffic, "traffic", gt=0, le=1)
    check_share(treatment_share, "treatment_share")
    found = []
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
        found.append(Duration(check_count(days, "days"), round(units), baseline, mde))
    return tuple(found)


def days_until(units: float, new_units: Sequence[int]) -> int | None:
    """Days from now until so many units have joined in all, from the new units of each day so far.

    None if never, or not within FARTHEST days: so far ahead a trend of a few weeks says nothing.

    Most users of a shop come back, so fewer of each day's are new. Cumulative units are taken to grow like days^b, with
    b from the rate of the last week, and at that same rate where it is above the average so far (b >= 1).
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
        except OverflowError:  # hardly anyone new joins any more
            return None
    return ceil(more - 1e-9) if more <= FARTHEST else None


def remaining(effect: Effect, half_width: float, new_units: Sequence[int]) -> Remaining:
    """What is still needed until the lift is known to +- half_width (0.02 is two points), instead of "not significant".

    new_units: of both arms, each day so far. Errors: ArgumentError where the lift's interval is unbounded.
    """
    check_scalar(half_width, "half_width", gt=0)
    if effect.interval is None or effect.interval.shape != "bounded":
        raise ArgumentError("The lift's interval is unbounded, so its width says nothing about the days needed.")
    now = effect.control.n + effect.treatment.n
    width = (effect.interval.high - effect.interval.low) / 2
    needed = max(now * (width / half_width) ** 2, now)
    more = ceil(needed - now - 1e-9)
    # Units that left the analysis (seen in two arms) are among the new ones of a day: what counts is the growth.
    days = days_until(needed / now * sum(new_units), new_units) if sum(new_units) else None
    return Remaining(more, days if more else 0)
