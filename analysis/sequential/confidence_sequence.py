"""Confidence sequences: intervals and p-values that hold at any number of looks, at any time.

With n units so far, a standard error s and the number of units N* at which the sequence is narrowest,

    estimate +- s sqrt((x + 1) / x (log(x + 1) - 2 log alpha)),   x = n / N* (-W(-alpha^2 / e) - 1),

where W is the lower branch of Lambert's function. The sequence is asymptotic: early looks with few buyers are as
unreliable as any interval over few buyers. Start when each arm has about a hundred.

Reference: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, theorem 2.2.
"""

from dataclasses import dataclass
from math import e, exp, log, log1p, sqrt

from analysis.inference import Effect, IntervalMethod
from analysis.sequential.repeated_interval import RepeatedInterval, repeated_interval
from analysis.validation import check_scalar, check_share


@dataclass(frozen=True)
class Monitored(RepeatedInterval):
    """One look at a confidence sequence.

    Attributes:
        p: Always-valid p-value: without an effect, it ever falls below alpha with probability alpha at most.
    """

    p: float


def anytime_critical(n: float, n_star: float, alpha: float = 0.05) -> float:
    """Return the two-sided critical value of the sequence, in standard errors.

    Args:
        n: Units of both arms so far.
        n_star: Units of both arms at which the sequence is narrowest, relative to 1 / sqrt(n).
        alpha: Probability that the sequence ever misses the true value.

    Raises:
        ArgumentError: An argument is out of range.
    """
    x = _mixture(n, n_star, check_share(alpha, "alpha"))
    return sqrt((x + 1) / x * (log1p(x) - 2 * log(alpha)))


def anytime_p(z: float, n: float, n_star: float, alpha: float = 0.05) -> float:
    """Return the always-valid p-value of a z statistic; it is below alpha exactly when |z| > `anytime_critical`.

    Args:
        z: Estimate divided by its standard error.
        n: Units of both arms so far.
        n_star: Units of both arms at which the sequence is narrowest.
        alpha: Level for which the sequence is narrowest at `n_star`; p is valid at every level.

    Raises:
        ArgumentError: An argument is out of range.
    """
    check_scalar(z, "z")
    x = _mixture(n, n_star, check_share(alpha, "alpha"))
    return min(1.0, exp(0.5 * (log1p(x) - z * z * x / (x + 1))))


def _mixture(n: float, n_star: float, alpha: float) -> float:
    from scipy.special import lambertw

    check_scalar(n, "n", gt=0)
    check_scalar(n_star, "n_star", gt=0)
    at_narrowest = -float(lambertw(-(alpha**2) / e, -1).real) - 1
    return n / n_star * at_narrowest


def monitor(effect: Effect, n_star: float, *, alpha: float = 0.05, method: IntervalMethod = "fieller") -> Monitored:
    """Evaluate the confidence sequence for an effect. This may be repeated after every single unit.

    Args:
        effect: The effect so far.
        n_star: Units of both arms at which the sequence is narrowest: normally the planned size, fixed before the
            first look.
        alpha: Probability that the sequence ever misses the true effect.
        method: Method of the lift's interval.

    Raises:
        ArgumentError: `n_star` or `alpha` is out of range.
    """
    n = effect.control.n + effect.treatment.n
    z = effect.difference.value / effect.difference.standard_error
    interval = repeated_interval(effect, anytime_critical(n, n_star, alpha), method=method)
    p = anytime_p(z, n, n_star, alpha)
    return Monitored(interval.critical, interval.low, interval.high, interval.lift, p)
