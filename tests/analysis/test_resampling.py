"""Bootstrap, permutation and rank tests against SciPy, with the same numbers in any block size and row order."""

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.distinct_rows import DistinctRows
from analysis.errors import ArgumentError, DataError
from analysis.resampling import acceleration, bootstrap, mann_whitney, mean, permutation_test, ratio

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


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstrap_interval_is_scipys_up_to_the_random_draws(method: str) -> None:
    rng = np.random.default_rng(1)
    c, t = rng.lognormal(0, 1.2, 60), rng.lognormal(0.3, 1.7, 80)

    def lift(treatment: Array, control: Array, axis: int) -> Array:
        return np.asarray(treatment.mean(axis=axis) / control.mean(axis=axis) - 1)

    theirs = stats.bootstrap((t, c), lift, n_resamples=40_000, method=method, rng=np.random.default_rng(2))
    ours = bootstrap(c, t, generator(), resamples=40_000, method=method)  # type: ignore[arg-type]
    assert ours.estimate == pytest.approx(t.mean() / c.mean() - 1, rel=1e-12)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.02)
    expected = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=0.2 * theirs.standard_error)


def test_the_correction_of_bca_is_scipys() -> None:
    """Percentile and BCa differ here by far more than the random draws do, so the agreement above is meaningful."""
    rng = np.random.default_rng(1)
    c, t = rng.lognormal(0, 1.2, 60), rng.lognormal(0.3, 1.7, 80)
    plain, corrected = (bootstrap(c, t, generator(), method=m) for m in ("percentile", "bca"))  # type: ignore[arg-type]
    assert corrected.high - plain.high > 0.8 * plain.standard_error


def test_the_acceleration_is_that_of_leaving_out_unit_by_unit() -> None:
    rng = np.random.default_rng(2)
    c, t = gmv(rng, 30, 0.5), gmv(rng, 40, 0.5)
    influence = []
    for arm in (0, 1):
        left_out = [
            (np.delete(t, i) if arm else t).mean() / (c if arm else np.delete(c, i)).mean() - 1
            for i in range((c, t)[arm].size)
        ]
        influence.append((np.mean(left_out) - left_out) * (len(left_out) - 1) / len(left_out))
    cubes, squares = (sum(float(np.sum(u**power)) for u in influence) for power in (3, 2))
    rows = [DistinctRows.of(values, "arm") for values in (c, t)]
    assert acceleration(rows, mean, "lift") == pytest.approx(cubes / 6 / squares**1.5, rel=1e-9)


def test_the_bootstrap_of_a_ratio_agrees_with_the_delta_method_in_large_samples() -> None:
    rng = np.random.default_rng(5)
    c, t = clicks(rng, 20_000), clicks(rng, 20_000)
    result = bootstrap(c, t, generator(), statistic=ratio, scale="difference", resamples=4000)
    variance = sum(
        np.var(x[:, 0] - x[:, 0].sum() / x[:, 1].sum() * x[:, 1], ddof=1) / len(x) / x[:, 1].mean() ** 2 for x in (c, t)
    )
    assert result.standard_error == pytest.approx(variance**0.5, rel=0.05)


@pytest.mark.parametrize("columns", ["amounts", "counts"])
def test_neither_blocks_nor_the_order_of_rows_change_a_result(columns: str) -> None:
    rng = np.random.default_rng(6)
    c, t = (gmv(rng, 500, 0.1)[:, None] if columns == "amounts" else clicks(rng, 500)[:, :1] for _ in range(2))
    first = bootstrap(c, t, generator(), resamples=300), permutation_test(c, t, generator(), resamples=300)
    again = bootstrap(c[::-1], t[::-1], generator(), resamples=300, block=97)
    assert again == first[0]
    assert permutation_test(c[::-1], t[::-1], generator(), resamples=300, block=97) == first[1]


def test_memory_is_bounded_for_many_users() -> None:
    """A million users and a thousand resamples: 1e9 draws, of which no more than a few megabytes are held."""
    rng = np.random.default_rng(7)
    c, t = gmv(rng, 500_000), gmv(rng, 500_000)
    tracemalloc.start()
    bootstrap(c, t, generator(), resamples=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


def test_the_bootstrap_covers_the_lift_of_heavy_tailed_values() -> None:
    rng = np.random.default_rng(8)
    missed = 0
    for _ in range(400):
        result = bootstrap(gmv(rng, 4000, 0.1), gmv(rng, 4000, 0.1), rng, resamples=400)
        missed += not result.low <= 0 <= result.high
    assert 0.02 <= missed / 400 <= 0.09


def test_resamples_without_a_value_are_left_out_and_counted() -> None:
    c, t = np.zeros(30), np.ones(30)
    c[:2] = 5.0
    result = bootstrap(c, t, generator(), resamples=2000, method="percentile")
    assert result.undefined == pytest.approx(2000 * (28 / 30) ** 30, rel=0.2)
    assert np.isfinite([result.low, result.high, result.standard_error]).all()


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(DataError, match="control holds NaN"):
        bootstrap([1.0, np.nan], [1.0, 2.0], generator())
    with pytest.raises(DataError, match="the denominator is 0"):
        bootstrap([0.0, 0.0], [1.0, 2.0], generator())
    with pytest.raises(DataError, match="treatment has shape"):
        bootstrap([1.0], [], generator())
    with pytest.raises(DataError, match="Without one single unit"):
        bootstrap([0.0, 0.0, 3.0], [1.0, 2.0], generator())
    with pytest.raises(ArgumentError, match="resamples is 10"):
        bootstrap([1.0], [1.0], generator(), resamples=10)


def test_a_small_permutation_test_goes_through_all_divisions_like_scipys() -> None:
    rng = np.random.default_rng(9)
    c, t = rng.normal(0, 1, 5), rng.normal(1, 2, 6)

    def welch(x: Array, y: Array, axis: int) -> Array:
        return np.asarray(stats.ttest_ind(y, x, axis=axis, equal_var=False).statistic)

    theirs = stats.permutation_test((c, t), welch, vectorized=True, n_resamples=np.inf)
    ours = permutation_test(c, t, generator())
    assert ours.exact
    assert ours.resamples == len(list(combinations(range(11), 5)))
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-9)
    both_sides = np.mean(np.abs(theirs.null_distribution) >= abs(theirs.statistic) * (1 - 1e-12))
    assert ours.p == pytest.approx(both_sides, rel=1e-9)


@pytest.mark.parametrize("columns", ["amounts", "counts", "far from zero"])
def test_a_large_permutation_test_agrees_with_welch(columns: str) -> None:
    rng = np.random.default_rng(10)
    if columns == "amounts":
        c, t = gmv(rng, 3000, 0.3), gmv(rng, 4000, 0.3, 1.15)
    elif columns == "counts":
        c, t = rng.poisson(2.0, 3000).astype(float), rng.poisson(2.08, 4000).astype(float)
    else:
        c, t = rng.normal(1e8, 1.0, 3000), rng.normal(1e8 + 0.05, 1.0, 4000)
    welch = stats.ttest_ind(t, c, equal_var=False)
    result = permutation_test(c, t, generator(), resamples=20_000)
    assert not result.exact
    assert result.statistic == pytest.approx(welch.statistic, rel=2e-3)
    assert result.p == pytest.approx(welch.pvalue, abs=0.015)


def test_the_permutation_test_keeps_its_level_at_an_unequal_split_with_unequal_variances() -> None:
    """Nine to one, the smaller arm five times as spread: a test of the plain difference errs far above 5 %."""
    rng = np.random.default_rng(11)
    p = [permutation_test(rng.normal(0, 1, 360), rng.normal(0, 5, 40), rng, resamples=199).p for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.085


def test_the_permutation_test_of_a_ratio_agrees_with_the_delta_method() -> None:
    rng = np.random.default_rng(12)
    c, t = clicks(rng, 3000), clicks(rng, 3000)
    t[:, 0] = rng.binomial(t[:, 1].astype(int), 0.215)
    result = permutation_test(c, t, generator(), kind="ratio", resamples=10_000)
    assert result.p == pytest.approx(2 * stats.norm.sf(abs(result.statistic)), abs=0.02)
    values = [x[:, 0].sum() / x[:, 1].sum() for x in (c, t)]
    assert np.sign(result.statistic) == np.sign(values[1] - values[0])


def test_a_permutation_p_is_never_zero_and_equal_arms_are_no_evidence() -> None:
    far = permutation_test(np.arange(100.0), np.arange(100.0) + 1000, generator(), resamples=999)
    assert far.p == pytest.approx(1 / 1000)
    flat = permutation_test(np.ones(50), np.ones(50), generator(), resamples=100)
    assert (flat.statistic, flat.p) == (0.0, 1.0)


def test_columns_that_do_not_fit_the_test_are_refused() -> None:
    rng = np.random.default_rng(13)
    with pytest.raises(DataError, match=r"of a mean takes 1 column\(s\), and there are 2"):
        permutation_test(clicks(rng, 9), clicks(rng, 9), rng)
    with pytest.raises(DataError, match="2 and 1 columns"):
        permutation_test(clicks(rng, 9), np.ones(9), rng)
    with pytest.raises(DataError, match="1 and 2 units"):
        permutation_test([1.0], [1.0, 2.0], rng)


@pytest.mark.parametrize("seed", range(4))
def test_mann_whitney_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, t = (gmv(rng, 300, 0.3), gmv(rng, 200, 0.4)) if seed else (rng.normal(0, 1, 300), rng.normal(0.2, 1, 200))
    ours, theirs = mann_whitney(c, t), stats.mannwhitneyu(t, c, method="asymptotic")
    assert ours.u == theirs.statistic
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    above = np.mean(t[:, None] > c[None, :]) + 0.5 * np.mean(t[:, None] == c[None, :])
    assert ours.superiority == pytest.approx(above, rel=1e-12)


def test_swapping_the_arms_turns_superiority_around() -> None:
    rng = np.random.default_rng(14)
    c, t = gmv(rng, 100, 0.5), gmv(rng, 150, 0.5)
    forward, back = mann_whitney(c, t), mann_whitney(t, c)
    assert forward.superiority + back.superiority == pytest.approx(1)
    assert forward.p == back.p


def test_ranks_of_equal_values_are_no_evidence() -> None:
    flat = mann_whitney(np.zeros(10), np.zeros(12))
    assert (flat.superiority, flat.p) == (0.5, 1.0)
