"""Shares with few events have score intervals that cover the truth as often as they say."""

import numpy as np
import pytest
from scipy.stats import binom

from analysis.aggregates import Moments
from analysis.inference import Effect, compare
from analysis.metrics import Proportion
from analysis.sample_moments import sample_moments

ORDERS = Proportion(name="buyers", column="orders")


def arm(events: int, n: int) -> Moments:
    return sample_moments(ORDERS.needs, {"orders": np.repeat([1.0, 0.0], [events, n - events])})


def effect(control: tuple[int, int], treatment: tuple[int, int], alpha: float = 0.05) -> Effect:
    result = compare(ORDERS, arm(*control), arm(*treatment), alpha=alpha)
    assert isinstance(result, Effect)
    return result


def test_no_event_in_the_treatment_leaves_an_upper_bound() -> None:
    """30 of 1,000 against 0 of 1,000: once -100 % to -100 %."""
    found = effect((30, 1000), (0, 1000))
    assert found.interval is not None
    assert found.interval.shape == "bounded"
    assert found.interval.low == -1
    assert found.interval.high == pytest.approx(-0.866, abs=1e-3)
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.0425, -0.0203), abs=1e-4)
    assert found.difference.p < 1e-6


def test_no_event_in_the_control_leaves_the_difference() -> None:
    found = effect((0, 1000), (30, 1000))
    assert found.lift is None
    assert (found.difference.low, found.difference.high) == pytest.approx((0.0203, 0.0425), abs=1e-4)


def test_the_difference_has_the_published_interval() -> None:
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 and 5/56 - 0/29; here with Student's t."""
    assert effect((48, 80), (56, 70)).difference.low == pytest.approx(0.0524, abs=2e-3)
    found = effect((0, 29), (5, 56)).difference
    assert (found.low, found.high) == pytest.approx((-0.0381, 0.1926), abs=5e-3)


@pytest.mark.parametrize("control", [1, 2, 5, 19])
@pytest.mark.parametrize("treatment", [0, 1, 4, 15])
def test_interval_and_test_agree(control: int, treatment: int) -> None:
    found = effect((control, 1000), (treatment, 1000))
    assert found.interval is not None
    assert found.interval.contains(0) == (found.difference.p > 0.05)
    assert (found.difference.low <= 0 <= found.difference.high) == (found.difference.p > 0.05)


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ((1000, 1000), (0.03, 0.001)),
        ((1000, 1000), (0.03, 0.0005)),
        ((1000, 1000), (0.005, 0.005)),
        ((1000, 100), (0.02, 0.02)),
    ],
)
def test_the_exact_coverage_is_at_least_the_stated_one(sizes: tuple[int, int], shares: tuple[float, float]) -> None:
    """Over all pairs of counts, weighted by their probability: no random numbers."""
    counts = [binom(n, p) for n, p in zip(sizes, shares, strict=True)]
    ranges = [range(int(c.ppf(1e-5)), int(c.ppf(1 - 1e-5)) + 1) for c in counts]
    arms = [{x: arm(x, n) for x in events} for n, events in zip(sizes, ranges, strict=True)]
    covered = lifted = defined = 0.0
    for a in ranges[0]:
        for b in ranges[1]:
            weight = float(counts[0].pmf(a) * counts[1].pmf(b))
            found = compare(ORDERS, arms[0][a], arms[1][b])
            if not isinstance(found, Effect):
                continue  # no event at all: the report says so, and gives no interval
            covered += weight * (found.difference.low <= shares[1] - shares[0] <= found.difference.high)
            defined += weight
            lifted += weight * (found.interval is None or found.interval.contains(shares[1] / shares[0] - 1))
    assert covered / defined >= 0.95
    assert lifted / defined >= 0.95
