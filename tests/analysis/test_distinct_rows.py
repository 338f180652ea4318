"""Draws from distinct rows have the distribution of drawing units one by one."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.distinct_rows import DistinctRows

Array = NDArray[np.float64]


def gmv(rng: np.random.Generator, n: int, share: float = 0.03, scale: float = 1.0) -> Array:
    """Few buyers, lognormal values."""
    return np.where(rng.random(n) < share, scale * rng.lognormal(3.5, 1.0, n), 0.0)


def clicks(rng: np.random.Generator, n: int) -> Array:
    """Clicks and impressions per user: few distinct rows."""
    views = rng.integers(1, 6, n)
    return np.column_stack([rng.binomial(views, 0.2), views]).astype(float)


def generator() -> np.random.Generator:
    return np.random.default_rng(123)


@pytest.mark.parametrize("columns", ["amounts", "counts"])
def test_resampled_means_have_the_distribution_of_drawing_users_one_by_one(columns: str) -> None:
    """Both short cuts (zeros by a binomial, few distinct rows by a multinomial) against plain drawing."""
    rng = np.random.default_rng(3)
    values = gmv(rng, 400, share=0.2)[:, None] if columns == "amounts" else clicks(rng, 400)
    short = DistinctRows.of(values, "arm").resampled_means(20_000, generator())
    plain = values[np.random.default_rng(4).integers(0, 400, (20_000, 400))].mean(axis=1)
    for column in range(values.shape[1]):
        assert stats.ks_2samp(short[:, column], plain[:, column]).pvalue > 1e-4
    assert np.cov(short.T) == pytest.approx(np.cov(plain.T), rel=0.05)
