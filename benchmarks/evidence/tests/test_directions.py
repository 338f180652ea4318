"""A direction holds only if its interval over the seeds says so."""

import pytest

from benchmarks.evidence.directions import Interval, finding, interval


def test_the_interval_is_students_over_the_seeds() -> None:
    """Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), t with two degrees of freedom 4.303."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.3027 / 3**0.5), rel=1e-4)


@pytest.mark.parametrize(
    ("mean", "half", "tie", "expected"),
    [
        (0.05, 0.01, False, "holds"),
        (-0.05, 0.01, False, "does not hold"),
        (0.05, 0.06, False, "undecided"),
        (0.05, 0.01, True, "does not hold"),
        (0.00, 0.01, True, "holds"),
        (-0.05, 0.01, True, "holds"),
        (0.00, 0.06, True, "undecided"),
    ],
)
def test_a_direction_holds_only_if_its_interval_says_so(mean: float, half: float, tie: bool, expected: str) -> None:
    assert finding(Interval(mean, half), tie) == expected
