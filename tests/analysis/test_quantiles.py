"""Order-statistic intervals equal SciPy's and have the stated coverage; quantile effects agree with simulation."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.aggregates import Ranked
from analysis.equivalence import non_inferiority
from analysis.errors import ArgumentError, DataError
from analysis.inference import Effect, Undefined
from analysis.quantiles import compare_quantiles, order_statistic_ranks, quantile_estimate, quantile_interval, ranked
from analysis.sequential import monitor


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [20, 101, 1000])
def test_the_interval_is_scipys(q: float, n: int) -> None:
    values = np.random.default_rng(n).lognormal(0, 1, n)
    ours = quantile_interval(values, q)
    theirs = stats.quantile_test(values, q=0.0, p=q).confidence_interval(0.95)
    expected = (None if np.isinf(theirs.low) or np.isnan(theirs.low) else theirs.low,
                None if np.isinf(theirs.high) or np.isnan(theirs.high) else theirs.high)  # fmt: skip
    assert (ours.low, ours.high) == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.floats(0.01, 0.99), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_ranks_are_the_closest_that_keep_each_tail(n: int, q: float, alpha: float) -> None:
    low, high = order_statistic_ranks(n, q, alpha)
    below = stats.binom(n, q)
    if low is not None:
        assert below.cdf(low - 1) <= alpha / 2 * (1 + 1e-9)
    assert below.cdf(low or 0) > alpha / 2 * (1 - 1e-9)
    if high is not None:
        assert below.sf(high - 1) <= alpha / 2 * (1 + 1e-9)
    assert below.sf((high or n + 1) - 2) > alpha / 2 * (1 - 1e-9)


def test_a_tail_of_exactly_half_alpha_is_enough() -> None:
    """Of two values the median lies below both with chance 1/4, and above both with chance 1/4."""
    assert order_statistic_ranks(2, 0.5, alpha=0.5) == (1, 2)


def test_the_interval_covers_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = float(np.exp(stats.norm.ppf(0.9)))
    result = [quantile_interval(rng.lognormal(0, 1, 200), 0.9) for _ in range(4000)]
    hits = np.mean([(f.low or -np.inf) <= truth <= (f.high or np.inf) for f in result])
    assert hits == pytest.approx(result[0].coverage, abs=0.012)
    assert result[0].coverage >= 0.95


def test_few_units_leave_a_side_open() -> None:
    interval = quantile_interval([3.0, 1.0, 2.0], 0.9)
    assert (interval.value, interval.low, interval.high) == (3.0, 1.0, None)
    assert interval.coverage == pytest.approx(1 - 0.1**3)


def test_the_standard_errors_of_a_quantile_are_those_over_many_samples() -> None:
    rng = np.random.default_rng(2)
    samples = rng.lognormal(0, 1, (2000, 1000))
    estimates = [quantile_estimate(ranked(sample, 0.75)) for sample in samples[:300]]
    truth = np.quantile(samples, 0.75, axis=1, method="inverted_cdf").std()
    assert np.mean([sqrt(e.variance) for e in estimates]) == pytest.approx(truth, rel=0.08)
    down, up = (np.mean([sqrt(e.side(sign).variance) for e in estimates]) for sign in (-1, 1))
    assert down < truth < up  # values thin out upwards
    assert estimates[0].raw == np.quantile(samples[0], 0.75, method="inverted_cdf")


@pytest.mark.parametrize("name", ["counts", "prices", "tens", "an atom", "smooth"])
@pytest.mark.parametrize("lift", [0.0, 0.1])
def test_no_column_however_discrete_misses_more_often_than_it_says(name: str, lift: float) -> None:
    """Where several values lie within the interval and many users share them, a variance from spacings misses 7.6 %."""
    rng = np.random.default_rng(7)
    draw = {
        "counts": lambda: rng.poisson(100, 400) + 1.0,
        "prices": lambda: np.ceil(rng.lognormal(3, 0.6, 400)) - 0.01,
        "tens": lambda: np.maximum(np.round(rng.lognormal(5, 0.8, 400), -1), 10),
        "an atom": lambda: np.where(rng.random(400) < 0.03, 1.0, rng.lognormal(0, 1, 400)),
        "smooth": lambda: rng.lognormal(0, 1, 400),
    }[name]
    missed = 0
    for _ in range(1500):
        effect = compare_quantiles(ranked(draw(), 0.5), ranked(draw() * (1 + lift), 0.5), 0.5)
        assert isinstance(effect, Effect)
        assert effect.interval is not None
        assert effect.interval.contains(0.0) == (effect.difference.p > 0.05)
        assert effect.interval.contains(0.0) == (effect.difference.low <= 0 <= effect.difference.high)
        missed += not effect.interval.low - 1e-9 <= lift <= effect.interval.high + 1e-9
    assert missed / 1500 <= 0.06  # 5 % and 1.8 standard errors
    assert name != "smooth" or missed / 1500 >= 0.025


def test_the_effect_on_a_median_misses_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(1500):
        effect = compare_quantiles(ranked(rng.lognormal(1, 1, 400), 0.5), ranked(rng.lognormal(1.2, 1, 600), 0.5), 0.5)
        assert isinstance(effect, Effect)
        assert effect.interval is not None
        assert effect.interval.contains(0.0) == (effect.difference.p > 0.05)
        missed += not effect.interval.contains(np.exp(0.2) - 1)
    assert 0.035 <= missed / 1500 <= 0.07


def test_a_quantile_at_which_most_users_agree_is_undefined() -> None:
    zeros = ranked(np.r_[np.zeros(97), np.ones(3)], 0.5)
    result = compare_quantiles(zeros, zeros, 0.5)
    assert isinstance(result, Undefined)
    assert "exactly the quantile's value (0 and 0)" in result.reason
    stepped = compare_quantiles(ranked(np.ones(100), 0.5), ranked(np.full(100, 2.0), 0.5), 0.5)
    assert isinstance(stepped, Undefined)
    assert "(1 and 2), so it only changes in jumps" in stepped.reason
    one = Ranked(1, (1, 1, 1), (2.0, 2.0, 2.0))
    assert compare_quantiles(zeros, one, 0.5) == Undefined("the treatment has 1 unit(s), and a variance needs two")


def test_too_few_units_beyond_a_quantile_are_said_to_be_too_few() -> None:
    many, few = (ranked(np.random.default_rng(n).lognormal(0, 1, n), 0.99) for n in (5000, 200))
    result = compare_quantiles(many, few, 0.99)
    assert isinstance(result, Undefined)
    assert result.reason == "the treatment has 200 units, and too few of them lie beyond the quantile"


def test_margins_and_confidence_sequences_take_the_side_that_they_test() -> None:
    """An arm with a small variance downwards and a large one upwards: from below, only the former counts."""
    control = Ranked(1000, (469, 500, 532), (9.0, 10.0, 14.0))
    treatment = Ranked(1000, (469, 500, 532), (10.0, 11.0, 15.0))
    effect = compare_quantiles(control, treatment, 0.5)
    assert isinstance(effect, Effect)
    assert effect.interval is not None
    d = effect.difference
    assert (d.value - d.low, d.high - d.value) == pytest.approx((sqrt(1 + 16), sqrt(16 + 1)), rel=2e-3)
    for margin in (0.2, 0.4):
        shown = non_inferiority(effect, margin, alpha=0.025)
        assert shown.holds == (effect.interval.low > -margin)
        assert shown.bounds.low == pytest.approx(effect.interval.low, rel=1e-9)
    seen = monitor(effect, 2000)
    assert seen.rejects == (seen.p < 0.05)
    assert seen.low < d.low
    assert seen.high > d.high


def test_bad_input_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"q is 1\.5"):
        quantile_interval([1.0, 2.0], 1.5)
    with pytest.raises(DataError, match="1 NaN or infinite"):
        quantile_interval([1.0, np.inf], 0.5)
    with pytest.raises(DataError, match="has 0 unit"):
        quantile_interval([], 0.5)
