"""Arguments out of range are refused with name, value and rule; valid ones are returned."""

from math import inf, nan

import numpy as np
import pytest

from analysis.errors import AnalysisError, ArgumentError, DataError
from analysis.validation import check_count, check_sample, check_scalar, check_share


def test_what_is_within_its_bounds_comes_back_as_a_float() -> None:
    assert check_scalar(3, "x", gt=2, le=3) == 3.0
    assert isinstance(check_scalar(np.int64(3), "x"), float)
    assert check_count(np.int64(3), "n") == 3
    assert check_share(0.5, "alpha") == 0.5


@pytest.mark.parametrize("value", [nan, inf, "3", None, True, 1j])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(ArgumentError, match=r"^x is .*, and must be a finite number\.$"):
        check_scalar(value, "x")


@pytest.mark.parametrize(
    ("bounds", "rule"),
    [
        ({"gt": 3}, "above 3"),
        ({"ge": 4}, "at least 4"),
        ({"lt": 3}, "below 3"),
        ({"le": 2}, "at most 2"),
        ({"gt": 0, "lt": 1}, "above 0 and below 1"),
    ],
)
def test_the_message_names_value_and_rule(bounds: dict[str, float], rule: str) -> None:
    with pytest.raises(ArgumentError, match=f"^x is 3, and must be a finite number {rule}\\.$"):
        check_scalar(3, "x", **bounds)


@pytest.mark.parametrize("value", [0, 1.0, "1", True])
def test_a_count_is_a_whole_number(value: object) -> None:
    with pytest.raises(ArgumentError, match="whole number of at least 1"):
        check_count(value, "n")


def test_a_sample_is_one_dimensional_finite_and_large_enough() -> None:
    assert check_sample([1, 2], "y").dtype == np.float64
    with pytest.raises(DataError, match=r"y has shape \(1, 2\)"):
        check_sample([[1, 2]], "y")
    with pytest.raises(DataError, match=r"y has 1 unit\(s\), and needs at least 2"):
        check_sample([1], "y")
    with pytest.raises(DataError, match="y holds 2 NaN or infinite"):
        check_sample([1, nan, inf], "y")


def test_the_errors_derive_from_builtin_ones() -> None:
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(ArgumentError, AnalysisError)
