"""Moments of arrays: NumPy's numbers, and clusters as units."""

from math import sqrt

import numpy as np
import pytest
import statsmodels.api as sm

from analysis.aggregates import Column
from analysis.errors import DataError, MetricError, MissingColumnError
from analysis.inference import Effect, compare, estimate
from analysis.metrics import Cap, Mean, Proportion, Ratio
from analysis.sample_moments import sample_moments

MEAN = Mean(name="y", column="y")
Y = Column("y")


def test_moments_are_numpys() -> None:
    rng = np.random.default_rng(1)
    columns = {"y": rng.lognormal(0, 1, 500), "x": rng.poisson(1, 500).astype(float)}
    ratio = Ratio(name="r", numerator="y", denominator="x")
    moments = sample_moments(ratio.needs | MEAN.needs, columns)
    assert moments.n == 500
    assert moments.means[Y] == pytest.approx(columns["y"].mean(), rel=1e-14)
    assert moments.covariance(Column("x"), Y) == pytest.approx(np.cov(columns["x"], columns["y"])[0, 1], rel=1e-12)
    assert moments.tails[Y].nonzero == 500
    assert moments.tails[Y].largest == columns["y"].max()


def test_a_proportion_takes_the_sign() -> None:
    metric = Proportion(name="p", column="y")
    moments = sample_moments(metric.needs, {"y": [0.0, 3.0, 5.0, 0.0]})
    assert metric.value(moments.means) == 0.5


def test_a_constant_column_does_not_vary_at_all() -> None:
    assert sample_moments(MEAN.needs, {"y": [0.1] * 7}).variance(Y) == 0.0
    assert sample_moments(MEAN.needs, {"y": [1e15 / 3] * 1001}).variance(Y) == 0.0


def test_the_order_of_the_rows_changes_no_mean() -> None:
    values = np.random.default_rng(2).lognormal(0, 3, 1000)
    forward, back = (sample_moments(MEAN.needs, {"y": v}) for v in (values, values[::-1]))
    assert forward.means == back.means
    assert forward.variance(Y) == pytest.approx(back.variance(Y), rel=1e-14)


def test_clustered_units_are_least_squares_with_clustered_errors() -> None:
    """GMV per user where shops were randomised: the ratio of sums over shops (statsmodels, but for n / (n - 1))."""
    rng = np.random.default_rng(3)
    arms = []
    for lift in (0.0, 0.5):
        shop = np.repeat(np.arange(40), rng.integers(3, 30, 40))
        arms.append((rng.normal(0, 1, 40)[shop] + rng.normal(5 + lift, 1, shop.size), shop))
    metric = Ratio(name="gmv_per_user", numerator="gmv", denominator="users", unit="money")
    ours = compare(
        metric,
        *(sample_moments(metric.needs, {"gmv": y, "users": np.ones(y.size)}, clusters=shop) for y, shop in arms),
    )
    assert isinstance(ours, Effect)
    y, arm = (
        np.concatenate(parts) for parts in ([a[0] for a in arms], [np.full(len(a[0]), i) for i, a in enumerate(arms)])
    )
    groups = np.r_[arms[0][1], 1000 + arms[1][1]]
    fit = sm.OLS(y, sm.add_constant(arm.astype(float))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    assert ours.control.n == 40
    assert ours.difference.value == pytest.approx(fit.params[1], rel=1e-9)
    assert ours.difference.standard_error * sqrt(39 / 40) == pytest.approx(fit.bse[1], rel=1e-9)


def test_a_binomial_over_impressions_errs_where_the_ratio_over_users_does_not() -> None:
    """A/A tests of a click-through rate with different users: impressions as units give too many false positives."""
    rng = np.random.default_rng(4)
    metric = Ratio(name="ctr", numerator="clicks", denominator="views")
    naive, ours = [], []
    for _ in range(600):
        views = rng.integers(1, 60, (2, 300))
        clicks = rng.binomial(views, rng.beta(1, 9, (2, 300)))
        arms = [
            sample_moments(metric.needs, {"clicks": c.astype(float), "views": v.astype(float)})
            for c, v in zip(clicks, views, strict=True)
        ]
        comparison = compare(metric, *arms)
        assert isinstance(comparison, Effect)
        ours.append(comparison.difference.p <= 0.05)
        (p, q), (n, m) = clicks.sum(axis=1) / views.sum(axis=1), views.sum(axis=1)
        naive.append(abs(q - p) / sqrt(p * (1 - p) / n + q * (1 - q) / m) > 1.96)
    assert np.mean(naive) > 0.2
    assert np.mean(ours) == pytest.approx(0.05, abs=0.03)


def test_clusters_are_summed_whatever_their_labels() -> None:
    moments = sample_moments(MEAN.needs, {"y": [1.0, 2.0, 4.0, 8.0]}, clusters=["b", "a", "b", "a"])
    assert (moments.n, moments.means[Y], moments.variance(Y)) == (2, 7.5, 12.5)


def test_one_unit_has_a_mean_and_no_variance_and_none_has_neither() -> None:
    one = sample_moments(MEAN.needs, {"y": [3.0]})
    assert one.means[Y] == 3.0
    with pytest.raises(DataError, match="A variance needs two units"):
        one.variance(Y)
    assert sample_moments(MEAN.needs, {"y": []}).n == 0
    assert estimate(MEAN, sample_moments(MEAN.needs, {"y": [1.0, 3.0]})).variance == 1.0


def test_arrays_that_do_not_fit_are_refused() -> None:
    ratio = Ratio(name="r", numerator="clicks", denominator="views")
    with pytest.raises(DataError, match="different lengths"):
        sample_moments(ratio.needs, {"clicks": [1.0], "views": [1.0, 2.0]})
    with pytest.raises(DataError, match="different lengths"):
        sample_moments(MEAN.needs, {"y": [1.0, 2.0]}, clusters=["a"])
    with pytest.raises(DataError, match="'y' holds 1 NaN"):
        sample_moments(MEAN.needs, {"y": [1.0, float("nan")]})
    with pytest.raises(MissingColumnError, match=r"no column 'clicks'\. Did you mean 'clik'"):
        sample_moments(ratio.needs, {"clik": [1.0], "views": [1.0]})
    with pytest.raises(MetricError, match="Apply cap, filters and window"):
        sample_moments(Mean(name="y", column="y", cap=Cap(upper=5)).needs, {"y": [1.0, 9.0]})
