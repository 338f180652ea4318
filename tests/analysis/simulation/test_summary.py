"""Shares over the runs have SciPy's exact intervals and p-values."""

import pytest
from scipy import stats

from analysis.simulation import share_interval
from analysis.simulation.summary import excess_p


@pytest.mark.parametrize(("count", "runs"), [(0, 50), (3, 50), (20, 400), (50, 50)])
def test_what_the_number_of_runs_leaves_open_is_scipys_exact_interval(count: int, runs: int) -> None:
    theirs = stats.binomtest(count, runs, 0.05).proportion_ci(0.95, method="exact")
    assert share_interval(count, runs) == pytest.approx((theirs.low, theirs.high))
    assert excess_p(count, runs, 0.05) == pytest.approx(
        stats.binomtest(count, runs, 0.05, alternative="greater").pvalue
    )
