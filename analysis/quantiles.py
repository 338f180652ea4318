"""Quantiles over units: an interval from order statistics, and the effect between two arms.

The number of values at or below the true quantile is binomial, whatever their distribution. So two order statistics
enclose the quantile with a known probability, without a bootstrap. The effect between two arms uses these intervals,
not a normal approximation to the quantile. With (x_low, x_high) the 95 % interval of an arm,

    s_down = (x - x_low) / 1.96,   s_up = (x_high - x) / 1.96

are its standard errors downwards and upwards. The lower bound of the difference uses the treatment's s_down and the
control's s_up, the upper bound the reverse (MOVER: Zou, Donner 2008); the lift uses Fieller's equation with the same
variances. This needs no density at the quantile. Where many units share a value, as with counts or prices, the
intervals extend to the next value, and the effect's interval misses less often than stated. The textbook variance from
the spacing x_high - x_low misses up to 7.6 % there (measured; docs/analysts/which-interval.md).

References: David, Nagaraja, Order Statistics, 2003, section 7.1; Zou, Donner 2008; Bonett, Price 2002.
"""

from dataclasses import dataclass
from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import ArrayLike

from analysis.aggregates import Rank, Ranked
from analysis.columns import Column
from analysis.inference import ArmEstimate, Effect, IntervalMethod, Undefined, effect_of
from analysis.metrics import RANK_REACH
from analysis.ranks import quantile_rank, rank_bounds
from analysis.validation import check_count, check_sample, check_share


@dataclass(frozen=True)
class QuantileInterval:
    """A quantile with its interval from order statistics.

    Attributes:
        q: The quantile.
        n: Number of units.
        value: The smallest value with at least a share q of the units at or below it.
        low: Lower bound; None where there are too few units for one.
        high: Upper bound; None where there are too few units for one.
        coverage: Exact coverage, at least 1 - alpha unless a bound is None.
    """

    q: float
    n: int
    value: float
    low: float | None
    high: float | None
    coverage: float


def order_statistic_ranks(n: int, q: float, alpha: float = 0.05) -> tuple[int | None, int | None]:
    """Return the ranks, from 1, of two order statistics that enclose a quantile, each missing at most alpha / 2.

    Args:
        n: Number of units.
        q: The quantile.
        alpha: 1 - coverage.

    Returns:
        Lower and upper rank; None where there are too few units for one.

    Raises:
        ArgumentError: An argument is out of range.
    """
    from scipy.special import bdtr

    check_count(n, "n")
    check_share(q, "q")
    check_share(alpha, "alpha")
    below = bdtr(np.arange(n + 1), n, q)  # below[k] = P(at most k values lie at or below the quantile)
    low = int(np.searchsorted(below, alpha / 2, side="right"))  # largest rank with below[rank - 1] <= alpha / 2
    high = int(np.searchsorted(below, 1 - alpha / 2, side="left")) + 1  # smallest with below[rank - 1] >= 1 - alpha / 2
    return low or None, high if high <= n else None


def quantile_interval(values: ArrayLike, q: float, *, alpha: float = 0.05) -> QuantileInterval:
    """Return a quantile of one arm's units with its interval.

    Args:
        values: One value per unit, shape (n,).
        q: The quantile.
        alpha: 1 - coverage.

    Raises:
        ArgumentError: `q` or `alpha` is out of range.
        DataError: The values are not finite.
    """
    from scipy.special import bdtr

    sample = np.sort(check_sample(values, "values", least=1))
    n = sample.size
    low, high = order_statistic_ranks(n, q, alpha)
    missed = 0.0 if low is None else float(bdtr(low - 1, n, q))
    covered = 1.0 if high is None else float(bdtr(high - 1, n, q))
    return QuantileInterval(
        q=q,
        n=n,
        value=float(sample[quantile_rank(q, n) - 1]),
        low=None if low is None else float(sample[low - 1]),
        high=None if high is None else float(sample[high - 1]),
        coverage=covered - missed,
    )


def compare_quantiles(
    control: Ranked, treatment: Ranked, q: float, *, alpha: float = 0.05, method: IntervalMethod = "fieller"
) -> Effect | Undefined:
    """Compute the effect on a quantile.

    The effect is undefined where too few units lie beyond the quantile, and where the values around the quantile are
    all equal on the sides that matter, as around the median GMV if most users buy nothing: the uncertainty is then
    unknown.

    Args:
        control: Three order statistics of the control, `RANK_REACH` deviations of the rank apart.
        treatment: Three order statistics of the treatment.
        q: The quantile.
        alpha: 1 - coverage of the intervals.
        method: Method of the lift's interval.

    Raises:
        ArgumentError: `q` is out of range.
    """
    check_share(q, "q")
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n < 2:
            return Undefined(f"the {name} has {arm.n} unit(s), and a variance needs two")
        if not _enclosed(arm.n, q):
            return Undefined(f"the {name} has {arm.n:,} units, and too few of them lie beyond the quantile")
    effect = effect_of(*(quantile_estimate(arm) for arm in (control, treatment)), alpha=alpha, method=method)
    if isinstance(effect, Undefined):
        values = " and ".join(f"{arm.values[1]:g}" for arm in (control, treatment))
        return Undefined(
            f"many units have exactly the quantile's value ({values}), so it only changes in jumps; "
            "compare the share of units above a value instead"
        )
    return effect


def _enclosed(n: int, q: float) -> bool:
    """Say whether order statistics exist as far out as an interval needs: about six units beyond the quantile."""
    reach = RANK_REACH * sqrt(n * q * (1 - q))
    return floor(q * n - reach) >= 1 and ceil(q * n + reach) + 1 <= n


def quantile_estimate(arm: Ranked) -> ArmEstimate:
    """Return the quantile of one arm with its variances downwards and upwards, from the order statistics around it."""
    low, value, high = arm.values
    down, up = ((value - low) / RANK_REACH) ** 2, ((high - value) / RANK_REACH) ** 2
    both = (down + up) / 2
    return ArmEstimate(arm.n, value, value, both, both, both, sides=(down, up))


def ranked(values: ArrayLike, q: float) -> Ranked:
    """Return the order statistics that `compare_quantiles` needs, from values in memory, shape (n,).

    Raises:
        ArgumentError: `q` is out of range.
        DataError: The values are not finite, or fewer than two.
    """
    sample = check_sample(values, "values")
    ranks = rank_bounds(Rank(Column("values"), check_share(q, "q"), RANK_REACH), sample.size)
    picked = np.partition(sample, [rank - 1 for rank in ranks])
    low, middle, high = (float(picked[rank - 1]) for rank in ranks)
    return Ranked(sample.size, ranks, (low, middle, high))
