"""The integration over paths agrees with independent computations."""

from math import inf, sqrt

import numpy as np
import pytest
from scipy import stats

from analysis.sequential import (
    SpendingDesign,
    crossing,
)


@pytest.mark.parametrize("share", [0.37, 0.02, 0.995])
def test_two_looks_are_a_bivariate_normal_integral(share: float) -> None:
    """An independent computation: Z_1 and Z_2 have the correlation sqrt(I_1 / I_2)."""
    a, b = 2.3, 2.0
    joint = stats.multivariate_normal([0, 0], [[1, sqrt(share)], [sqrt(share), 1]])
    both_inside = sum(s * t * joint.cdf([s * a, t * b]) for s in (1, -1) for t in (1, -1))
    assert 1 - sum(crossing([a, b], [share, 1.0])) == pytest.approx(both_inside, abs=1e-8)


@pytest.mark.parametrize("effect", [0.0, 3.0, -12.0])
def test_looks_that_cannot_reject_change_nothing(effect: float) -> None:
    information = [0.1, 0.5, 0.502, 1.0]
    *none, result = crossing([inf, inf, inf, 2.0], information, effect)
    assert none == [0.0, 0.0, 0.0]
    assert result == pytest.approx(stats.norm.sf(2 - effect) + stats.norm.cdf(-2 - effect), rel=1e-9)


def test_the_error_and_the_power_are_those_of_a_simulation() -> None:
    rng = np.random.default_rng(1)
    shares = np.array([0.2, 0.5, 0.6, 1.0])
    critical = np.array([look.critical for look in SpendingDesign(1.0).looks(list(shares))])
    noise = rng.normal(size=(200_000, 4)) * np.sqrt(np.diff(shares, prepend=0))
    for effect in (0.0, 2.8):
        z = (np.cumsum(noise, axis=1) + effect * shares) / np.sqrt(shares)
        expected = sum(crossing(list(critical), list(shares), effect))
        assert (np.abs(z) >= critical).any(axis=1).mean() == pytest.approx(expected, abs=4 * 0.0012)
