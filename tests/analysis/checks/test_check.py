"""The wording and the comparison that all checks share."""

import pytest

from analysis.checks.check import Check, check_each, joined, label_of, p_text
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


SENTENCES = {"finding": "{names} at {worst:.0%}", "ok": "at most {worst:.0%}"}


def test_values_beyond_the_threshold_are_named_and_the_threshold_itself_passes() -> None:
    assert check_each("tail", {"a": 0.2, "b": 0.3, "c": 0.4}, 0.2, **SENTENCES) == Check(
        name="tail", status="warn", sentence="b, c at 40%", value=0.4, threshold=0.2
    )
    assert check_each("tail", {"a": 0.2, "b": 0.1}, 0.2, **SENTENCES) == Check(
        name="tail", status="ok", sentence="at most 20%", value=0.2, threshold=0.2
    )


def test_the_smallest_value_is_the_worst_where_low_is_bad() -> None:
    values = {"a": 0.5, "b": 0.00001, "c": 0.001}
    check = check_each("p", values, 0.001, low_is_bad=True, status="fail", finding="{names}: {p}", ok="")
    assert check == Check(name="p", status="fail", sentence="b: p < 0.0001", value=0.00001, threshold=0.001)


def test_a_name_may_contain_braces() -> None:
    check = check_each("p", {"{x}": 1.0}, 0.5, finding="{names}", ok="")
    assert check is not None
    assert check.sentence == "{x}"


@pytest.mark.parametrize("low_is_bad", [False, True])
def test_without_values_no_check_is_made(low_is_bad: bool) -> None:
    assert check_each("p", {}, 0.5, finding="", ok="", low_is_bad=low_is_bad) is None
