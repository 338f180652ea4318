"""NIST's Statistical Reference Datasets, univariate: values on which naive sums of squares lose all digits."""

from collections.abc import Callable
from fractions import Fraction
from math import sqrt

import pandas as pd
import pytest

from analysis.aggregates import Moments
from analysis.metrics import Mean
from analysis.sample_moments import sample_moments
from analysis.sources import UserTable

MEAN = Mean(name="y", column="y")
(Y,) = MEAN.inputs


def alternating(base: str) -> list[str]:
    """base.2, then 500 times base.1 and base.3"""
    return [f"{base}.2", *[f"{base}.1", f"{base}.3"] * 500]


# NIST StRD, univariate summary statistics: values as printed, certified mean and standard deviation.
NIST = {
    "NumAcc1": (["10000001", "10000003", "10000002"], 10000002.0, 1.0),
    "NumAcc2": (alternating("1"), 1.2, 0.1),
    "NumAcc3": (alternating("1000000"), 1000000.2, 0.1),
    "NumAcc4": (alternating("10000000"), 10000000.2, 0.1),
}


def exact_moments(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of the doubles as they are stored, in rational arithmetic."""
    parts = [Fraction(value) for value in values]
    mean = sum(parts) / len(parts)
    return float(mean), sqrt(sum((part - mean) ** 2 for part in parts) / (len(parts) - 1))


def of_an_array(values: list[float]) -> Moments:
    return sample_moments(MEAN.needs, {"y": values})


def of_a_table(values: list[float]) -> Moments:
    """Through DuckDB, whose first query has no shifts."""
    users = pd.DataFrame({"variant": ["a"] * len(values) + ["b"] * len(values), "y": values * 2})
    return UserTable(users).collect(MEAN.needs).aggregates.moments("a")


@pytest.mark.parametrize("moments", [of_an_array, of_a_table])
@pytest.mark.parametrize("name", NIST)
def test_mean_and_deviation_keep_ten_digits(name: str, moments: Callable[[list[float]], Moments]) -> None:
    """To 1e-10 of the values as they are stored. The decimal values of NumAcc3 and NumAcc4 cannot be stored to that:
    their doubles have a deviation 3e-10 and 6e-9 beside the certified one, and no computation can do better."""
    text, mean, deviation = NIST[name]
    values = [float(value) for value in text]
    arms = moments(values)
    assert arms.means[Y] == pytest.approx(mean, rel=1e-10)
    assert (arms.means[Y], sqrt(arms.variance(Y))) == pytest.approx(exact_moments(values), rel=1e-10)
    representable = {"NumAcc3": 4e-10, "NumAcc4": 6e-9}.get(name, 1e-10)
    assert sqrt(arms.variance(Y)) == pytest.approx(deviation, rel=representable)
