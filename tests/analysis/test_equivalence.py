"""Margin tests equal those of statsmodels, and test and interval never disagree."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind

from analysis.equivalence import equivalence, non_inferiority
from analysis.errors import ArgumentError
from analysis.inference import ArmEstimate, Effect, effect_of

arm = st.builds(
    lambda n, mean, deviation: ArmEstimate(n, mean, mean, deviation**2, deviation**2, deviation**2),
    st.integers(3, 10_000),
    st.floats(1, 10),
    st.floats(0.01, 1),
)


def effect(c: ArmEstimate, t: ArmEstimate) -> Effect:
    result = effect_of(c, t)
    assert isinstance(result, Effect)
    return result


def of(values: np.ndarray) -> ArmEstimate:  # type: ignore[type-arg]
    variance = values.var(ddof=1) / values.size
    return ArmEstimate(values.size, values.mean(), values.mean(), variance, variance, variance)


def test_tost_on_the_difference_is_statsmodels() -> None:
    rng = np.random.default_rng(1)
    c, t = rng.normal(10, 2, 80), rng.normal(10.1, 3, 120)
    p, first, second = ttost_ind(t, c, -0.8, 1.1, usevar="unequal")
    ours = equivalence(effect(of(c), of(t)), -0.8, 1.1, scale="difference")
    assert (ours.p, ours.above.p, ours.below.p) == pytest.approx((p, first[1], second[1]), rel=1e-9)
    assert (ours.above.t, ours.below.df) == pytest.approx((first[0], second[2]), rel=1e-9)


def test_a_margin_on_the_lift_is_a_test_of_a_linear_combination() -> None:
    """Losing 3 % or more is the hypothesis mean_t <= 0.97 mean_c."""
    rng = np.random.default_rng(2)
    c, t = rng.gamma(2, 3, 500), rng.gamma(2, 3, 400)
    ours = non_inferiority(effect(of(c), of(t)), 0.03)
    statistic = (t.mean() - 0.97 * c.mean()) / np.sqrt(t.var(ddof=1) / t.size + 0.97**2 * c.var(ddof=1) / c.size)
    assert ours.test.t == pytest.approx(statistic, rel=1e-9)
    assert ours.test.p == pytest.approx(stats.t.sf(statistic, ours.test.df), rel=1e-9)


@settings(max_examples=300, deadline=None)
@given(arm, arm, st.floats(0.001, 0.5), st.sampled_from([0.025, 0.05, 0.1]), st.sampled_from(["increase", "decrease"]))
def test_the_interval_is_on_the_good_side_of_the_margin_exactly_when_the_test_rejects(
    c: ArmEstimate, t: ArmEstimate, margin: float, alpha: float, direction: str
) -> None:
    test = non_inferiority(effect(c, t), margin, alpha=alpha, direction=direction)  # type: ignore[arg-type]
    assume(test.bounds.shape == "bounded")
    assume(abs(test.test.p - alpha) > 1e-6)
    good = test.bounds.low > -margin if direction == "increase" else test.bounds.high < margin
    assert good == test.holds


@settings(max_examples=300, deadline=None)
@given(arm, arm, st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_equivalence_holds_exactly_when_the_interval_lies_between_the_margins(
    c: ArmEstimate, t: ArmEstimate, low: float, high: float
) -> None:
    result = equivalence(effect(c, t), -low, high)
    assume(result.bounds.shape == "bounded")
    assume(min(abs(result.above.p - 0.05), abs(result.below.p - 0.05)) > 1e-6)
    assert result.holds == (-low < result.bounds.low and result.bounds.high < high)


def test_a_loss_of_just_the_margin_passes_as_often_as_alpha_says() -> None:
    rng = np.random.default_rng(3)
    held = [
        non_inferiority(effect(of(rng.gamma(2, 1, 400)), of(0.95 * rng.gamma(2, 1, 400))), 0.05).holds
        for _ in range(3000)
    ]
    assert np.mean(held) == pytest.approx(0.05, abs=0.015)


def test_a_small_test_shows_no_harmlessness() -> None:
    """Not significantly worse, and yet not shown to be within the margin."""
    c, t = ArmEstimate(50, 10.0, 10.0, 1.0, 1.0, 1.0), ArmEstimate(50, 9.9, 9.9, 1.0, 1.0, 1.0)
    assert effect(c, t).difference.p > 0.5
    assert not non_inferiority(effect(c, t), 0.02).holds


def test_margins_that_make_no_sense_are_refused() -> None:
    result = effect(ArmEstimate(50, 10.0, 10.0, 1.0, 1.0, 1.0), ArmEstimate(50, 9.9, 9.9, 1.0, 1.0, 1.0))
    with pytest.raises(ArgumentError, match="margin is 0"):
        non_inferiority(result, 0)
    with pytest.raises(ArgumentError, match=r"low is 0\.1"):
        equivalence(result, 0.1, 0.2)
    below = effect(ArmEstimate(50, -1.0, -1.0, 1.0, 1.0, 1.0), ArmEstimate(50, 9.9, 9.9, 1.0, 1.0, 1.0))
    with pytest.raises(ArgumentError, match="scale='difference'"):
        non_inferiority(below, 0.1)
    assert non_inferiority(below, 0.1, scale="difference").holds
