"""Quantiles over units: an interval from order statistics, and the effect between two arms.

The number of values at or below the true quantile is binomial, whatever their distribution, so that two order
statistics enclose it with a known chance; no bootstrap is needed. For the effect between two arms, the spacing of two
order statistics around the quantile gives its variance,

    Var(x_q) = n q (1 - q) ((x_high - x_low) / (rank_high - rank_low))^2,

and from there difference, lift and intervals are those of any other metric.

References: David, Nagaraja, Order Statistics, 2003, section 7.1; Deng, Knoblich, Lu 2018, section 4.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.aggregates import Rank, Ranked
from analysis.arguments import check_count, check_sample, check_share
from analysis.columns import Column
from analysis.inference import ArmEstimate, Effect, IntervalMethod, Undefined, effect_of


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
    """Effect on the q quantile, from three order statistics of each arm.

    Undefined where all three agree in both arms, as the median of GMV does where most users buy nothing.
    """
    check_share(q, "q")
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n < 2:
            return Undefined(f"the {name} has {arm.n} unit(s), and a variance needs two")
    c, t = (quantile_estimate(arm, q) for arm in (control, treatment))
    if c.variance + t.variance <= 0:
        return Undefined("so many units have the same value that the quantile does not vary in either arm")
    return effect_of(c, t, alpha=alpha, method=method)


def quantile_estimate(arm: Ranked, q: float) -> ArmEstimate:
    """Quantile of one arm with its variance by the spacing of the order statistics."""
    low, _, high = arm.ranks
    spacing = (arm.values[2] - arm.values[0]) / (high - low) if high > low else 0.0
    variance = arm.n * q * (1 - q) * spacing**2
    value = arm.values[1]
    return ArmEstimate(arm.n, value, value, variance, variance, variance)


def ranked(values: ArrayLike, q: float, *, reach: float = 1.96) -> Ranked:
    """The order statistics that `compare_quantiles` needs, of values in memory, shape (n,)."""
    from analysis.query import rank_bounds

    sample = check_sample(values, "values")
    ranks = rank_bounds(Rank(Column("values"), check_share(q, "q"), reach), sample.size)
    picked = np.partition(sample, [rank - 1 for rank in ranks])
    low, middle, high = (float(picked[rank - 1]) for rank in ranks)
    return Ranked(sample.size, ranks, (low, middle, high))
