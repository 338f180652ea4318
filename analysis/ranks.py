"""Ranks of quantiles among n values, counted from 1."""

from math import ceil, floor, sqrt

from analysis.aggregates import Rank


def quantile_rank(q: float, n: int) -> int:
    """Return the rank, from 1, of the quantile q of n values: ceil(q n), allowing for rounding of the product."""
    return min(max(ceil(q * n - 1e-9), 1), n)


def rank_bounds(rank: Rank, n: int) -> tuple[int, int, int]:
    """Return the ranks of the order statistics below, at and above a quantile of n values."""
    reach = rank.reach * sqrt(n * rank.q * (1 - rank.q))
    return max(floor(rank.q * n - reach), 1), quantile_rank(rank.q, n), min(ceil(rank.q * n + reach) + 1, n)
