"""Confidence sequences: the paper's formula, the error rate over many looks, and agreement of interval and p-value."""

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from analysis.errors import ArgumentError
from analysis.inference import ArmEstimate, Effect, effect_of
from analysis.sequential import (
    anytime_critical,
    anytime_p,
    monitor,
)

Array = NDArray[np.float64]


def an_effect(n: int = 1000, lift: float = 0.1, variance: float = 0.001, control: float = 1.0) -> Effect:
    arms = [ArmEstimate(n, v, v, variance, variance, variance) for v in (control, control * (1 + lift))]
    result = effect_of(*arms)
    assert isinstance(result, Effect)
    return result


def test_the_critical_value_is_the_formula_of_the_paper() -> None:
    """Waudby-Smith et al. 2024, eq. (9): sqrt(2 (t rho^2 + 1) / (t^2 rho^2) log(sqrt(t rho^2 + 1) / alpha)) sigma."""
    t, n_star, alpha = 700.0, 2000.0, 0.05
    best = min(np.linspace(1e-4, 0.2, 20_000), key=lambda rho: _width(n_star, rho, alpha))
    assert anytime_critical(n_star, n_star, alpha) / sqrt(n_star) == pytest.approx(
        _width(n_star, best, alpha), rel=1e-8
    )
    assert anytime_critical(t, n_star, alpha) / sqrt(t) == pytest.approx(_width(t, best, alpha), rel=1e-4)


def _width(t: float, rho: float, alpha: float) -> float:
    x = t * rho**2
    return sqrt(2 * (x + 1) / (t * x) * log(sqrt(x + 1) / alpha))


@settings(max_examples=200, deadline=None)
@given(st.floats(1, 1e9), st.floats(1, 1e9), st.floats(-30, 30), st.sampled_from([0.01, 0.05, 0.1]))
def test_p_is_below_alpha_exactly_where_the_sequence_excludes_zero(
    n: float, n_star: float, z: float, alpha: float
) -> None:
    critical = anytime_critical(n, n_star, alpha)
    if abs(abs(z) - critical) > 1e-9 * critical:
        assert (anytime_p(z, n, n_star, alpha) < alpha) == (abs(z) > critical)


def test_at_most_one_in_twenty_experiments_without_effect_is_ever_rejected_over_a_hundred_looks() -> None:
    """GMV with 3 % buyers and lognormal values; a look whenever 500 users have joined each arm."""
    rng = np.random.default_rng(2)
    paths, looks, users = 4000, 100, 500
    z = _paths_of_z(rng, paths, looks, users)
    critical = np.array([anytime_critical(2 * users * k, looks * users) for k in range(1, looks + 1)])
    ever = (np.abs(z) > critical).any(axis=1).mean()
    assert ever <= 0.05
    assert ever > 0.002  # and the sequence is not so wide that it can never reject
    assert (np.abs(z) > 1.96).any(axis=1).mean() > 0.25  # whereas the plain test often does


def _paths_of_z(rng: np.random.Generator, paths: int, looks: int, users: int) -> Array:
    """Welch's statistic at each look of many A/A tests, from running sums; shape (paths, looks)."""
    means, variances = [], []
    n = users * np.arange(1, looks + 1)
    for _ in range(2):
        buyers = rng.binomial(users, 0.03, size=(paths, looks))
        values = rng.lognormal(3.5, 1.0, size=int(buyers.sum()))
        starts = np.r_[0, np.cumsum(buyers.ravel())]
        totals = [np.r_[0, np.cumsum(v)] for v in (values, values**2)]
        sums, squares = (np.diff(total[starts]).reshape(paths, looks).cumsum(axis=1) for total in totals)
        means.append(sums / n)
        variances.append((squares / n - (sums / n) ** 2) / (n - 1))
    difference: Array = (means[1] - means[0]) / np.sqrt(variances[0] + variances[1])
    return difference


def test_the_monitor_agrees_with_itself() -> None:
    for lift in (0.0, 0.05, 0.1, 0.2, 0.4):
        effect = an_effect(lift=lift)
        seen = monitor(effect, n_star=2000)
        assert seen.lift is not None
        assert seen.rejects == (seen.p < 0.05) == (not seen.lift.contains(0.0))
        assert seen.low < effect.difference.low < effect.difference.high < seen.high
        assert seen.lift.low < lift < seen.lift.high


def test_the_monitor_is_sharpest_for_the_size_it_was_planned_for() -> None:
    effect = an_effect(n=1000)
    widths = [monitor(effect, n_star).critical for n_star in (200, 2000, 20_000)]
    assert min(widths) == widths[1]


def test_a_monitor_of_a_control_that_is_not_positive_has_no_lift() -> None:
    assert monitor(an_effect(control=-1.0), 2000).lift is None


def test_a_size_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ArgumentError, match="n_star is 0"):
        monitor(an_effect(), 0)
    with pytest.raises(ArgumentError, match="n is -3"):
        anytime_p(1.0, -3, 10)
    with pytest.raises(ArgumentError, match=r"alpha is 1\.0"):
        anytime_critical(10, 10, 1.0)
