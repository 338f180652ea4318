"""The wording that all checks share."""

import pytest

from analysis.checks.check import joined, label_of, p_text
from analysis.metrics import Mean


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0312, "p = 0.031"), (1.0, "p = 1"), (1e-4, "p = 0.0001"), (9.9e-5, "p < 0.0001"), (0, "p < 0.0001")],
)
def test_a_tiny_p_value_is_a_bound(p: float, text: str) -> None:
    assert p_text(p) == text


def test_a_metric_is_named_by_its_label_or_its_name() -> None:
    assert label_of(Mean(name="gmv", column="gmv")) == "gmv"
    assert label_of(Mean(name="gmv", label="GMV per user", column="gmv")) == "GMV per user"
    assert joined(["a", "b"]) == "a, b"
