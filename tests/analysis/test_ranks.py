"""Ranks of quantiles are those of NumPy's inverse distribution function, and their bounds stay among the values."""

import numpy as np
import pytest

from analysis.aggregates import Rank
from analysis.columns import Column
from analysis.ranks import quantile_rank, rank_bounds


@pytest.mark.parametrize("n", [1, 2, 7, 10, 99, 100])
@pytest.mark.parametrize("q", [0.01, 0.3, 0.5, 0.7, 0.99])
def test_the_rank_of_a_quantile_is_numpys(n: int, q: float) -> None:
    values = np.arange(1, n + 1)
    assert quantile_rank(q, n) == np.quantile(values, q, method="inverted_cdf")


def test_the_bounds_enclose_the_rank_and_never_leave_the_values() -> None:
    for n in (2, 10, 1000):
        for q in (0.01, 0.5, 0.99):
            low, at, high = rank_bounds(Rank(Column("x"), q, 1.96), n)
            assert 1 <= low <= at <= high <= n
