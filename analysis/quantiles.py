"""Quantiles over units: an interval from order statistics, and the effect between two arms.

The number of values at or below the true quantile is binomial, whatever their distribution, so that two order
statistics enclose it with a known chance; no bootstrap is needed. The effect between two arms is made of these
intervals, not of a normal approximation to the quantile: with (x_low, x_high) the 95 % interval of an arm,

    s_down = (x - x_low) / 1.96,   s_up = (x_high - x) / 1.96

are its standard errors down and up, and the difference is bounded from below by the treatment's way down and the
control's way up, from above the other way round (MOVER: Zou, Donner 2008); the lift by Fieller's equation with the same
variances. This needs no density at the quantile: where many units share a value, as with counts or prices, the
intervals reach to the next one, and the effect's interval misses less often than it says. The textbook's variance from
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
from analysis.validation import check_count, check_sample, check_share


@dataclass(frozen=True)
class QuantileInterval:
    """value: the smallest value with at least a share q of the units at or below it. low, high: order statistics; None
    where no order statistic is far enough out (too few units). coverage: exact, and at least what was asked for."""

    q: float
    n: int
    value: float
    low: float | None
    high: float | None
    coverage: float


def order_statistic_ranks(n: int, q: float, alpha: float = 0.05) -> tuple[int | None, int | None]:
    """Ranks, from 1, of the order statistics that enclose the q quantile, each tail missing at most alpha / 2."""
    from scipy.special import bdtr

    check_count(n, "n")
    check_share(q, "q")
    check_share(alpha, "alpha")
    below = bdtr(np.arange(n + 1), n, q)  # below[k] = P(at most k values lie at or below the quantile)
    low = int(np.searchsorted(below, alpha / 2, side="right"))  # largest rank with below[rank - 1] <= alpha / 2
    high = int(np.searchsorted(below, 1 - alpha / 2, side="left")) + 1  # smallest with below[rank - 1] >= 1 - alpha / 2
    return low or None, high if high <= n else None


def quantile_interval(values: ArrayLike, q: float, *, alpha: float = 0.05) -> QuantileInterval:
    """The q quantile of one arm's units, shape (n,), with its order-statistic interval. Errors: DataError."""
    from scipy.special import bdtr

    from analysis.query import quantile_rank

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
    """Effect on the q quantile, from three order statistics of each arm, `RANK_REACH` deviations of the rank apart.

    Undefined where too few units lie beyond the quantile; where the values around it are all the same in both arms, as
    those around the median of GMV are where most users buy nothing; and where they are so in each arm on the side of
    the other, so that nothing says how sure the step between them is.
    """
    check_share(q, "q")
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n < 2:
            return Undefined(f"the {name} has {arm.n} unit(s), and a variance needs two")
        if not _enclosed(arm.n, q):
            return Undefined(f"{arm.n:,} units of the {name} are too few to have enough of them beyond the quantile")
    effect = effect_of(*(quantile_estimate(arm) for arm in (control, treatment)), alpha=alpha, method=method)
    if isinstance(effect, Undefined):
        values = " and ".join(f"{arm.values[1]:g}" for arm in (control, treatment))
        return Undefined(
            f"many units have the very value of the quantile ({values}), which moves in jumps; "
            "compare the share of units above a value instead"
        )
    return effect


def _enclosed(n: int, q: float) -> bool:
    """Whether there are order statistics as far out as an interval needs; about six units beyond the quantile."""
    reach = RANK_REACH * sqrt(n * q * (1 - q))
    return floor(q * n - reach) >= 1 and ceil(q * n + reach) + 1 <= n


def quantile_estimate(arm: Ranked) -> ArmEstimate:
    """Quantile of one arm with its variances down and up, from the order statistics around it."""
    low, value, high = arm.values
    down, up = ((value - low) / RANK_REACH) ** 2, ((high - value) / RANK_REACH) ** 2
    both = (down + up) / 2
    return ArmEstimate(arm.n, value, value, both, both, both, sides=(down, up))


def ranked(values: ArrayLike, q: float) -> Ranked:
    """The order statistics that `compare_quantiles` needs, of values in memory, shape (n,)."""
    from analysis.query import rank_bounds

    sample = check_sample(values, "values")
    ranks = rank_bounds(Rank(Column("values"), check_share(q, "q"), RANK_REACH), sample.size)
    picked = np.partition(sample, [rank - 1 for rank in ranks])
    low, middle, high = (float(picked[rank - 1]) for rank in ranks)
    return Ranked(sample.size, ranks, (low, middle, high))
