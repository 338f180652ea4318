"""Conditions in CEL never raise, and are refused if they cannot evaluate to true or false."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.assignment import Reason
from experiments.config import Arm, ExperimentConfig
from experiments.errors import ConfigError
from experiments.targeting import Condition, problem

ADULT = 'country in ["DE", "AT"] && age >= 18'


@pytest.mark.parametrize(
    ("condition", "attributes", "expected"),
    [
        (ADULT, {"country": "DE", "age": 18}, None),
        (ADULT, {"country": "DE", "age": 18, "unread": object()}, None),
        (ADULT, {"country": "DE", "age": 17.9}, Reason.NOT_TARGETED),
        (ADULT, {"country": "FR"}, Reason.NOT_TARGETED),  # decided without the age
        (ADULT, {"country": "DE"}, Reason.ATTRIBUTE_MISSING),
        (ADULT, {}, Reason.ATTRIBUTE_MISSING),
        (ADULT, None, Reason.ATTRIBUTE_MISSING),
        (ADULT, {"country": "DE", "age": "18"}, Reason.TARGETING_FAILED),
        (ADULT, {"country": "DE", "age": 2**70}, Reason.TARGETING_FAILED),
        (ADULT, {"country": "\ud800", "age": 20}, Reason.TARGETING_FAILED),
        (ADULT, {"country": object(), "age": 20}, Reason.TARGETING_FAILED),
        ('country == "DE" || age > 3', {"age": 5}, None),
        ("has(attributes.plan)", {}, Reason.NOT_TARGETED),
        ("has(attributes.plan)", None, Reason.NOT_TARGETED),
        ("has(attributes.plan)", {"plan": None}, None),
        ('device.os == "ios"', {"device": {"os": "ios"}}, None),
        ('device.os == "ios"', {"device": {}}, Reason.ATTRIBUTE_MISSING),
        ('tags.exists(tag, tag == "new")', {"tags": ["old", "new"]}, None),
        ('tags.exists(tag, tag == "new")', {"tags": ("old",)}, Reason.NOT_TARGETED),
        ('tags.exists(tag, tag == "new")', {}, Reason.ATTRIBUTE_MISSING),
        ("age / zero == 1", {"age": 1, "zero": 0}, Reason.TARGETING_FAILED),
        ("age + age > 1", {"age": 2**62}, Reason.TARGETING_FAILED),
        ("age", {"age": 1}, Reason.TARGETING_FAILED),
        ("name.matches(pattern)", {"name": "a", "pattern": "("}, Reason.TARGETING_FAILED),
        ('since < timestamp("2026-01-01T00:00:00Z")', {"since": datetime(2025, 1, 1, tzinfo=UTC)}, None),
        ("n > 1", {"n": np.int64(2)}, Reason.TARGETING_FAILED),
        ("true", None, None),
    ],
)
def test_a_condition_targets_or_says_why_not(
    condition: str, attributes: dict[str, Any] | None, expected: Reason | None
) -> None:
    assert Condition(condition).judge(attributes) is expected


class Hostile(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no")

    def __contains__(self, key: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        return 1


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize("condition", [ADULT, "size(attributes) > 0"])
def test_attributes_of_any_kind_raise_nothing(condition: str) -> None:
    """One of them contains itself, so that the library's own conversion would recurse without end."""
    itself: list[Any] = []
    itself.append(itself)
    for attributes in (Hostile(), [1], 7, "text", {"country": itself}, {"country": nested(40)}, {1: 2}):
        judged = Condition(condition).judge(attributes)  # type: ignore[arg-type]
        assert judged is None or judged in (Reason.ATTRIBUTE_MISSING, Reason.TARGETING_FAILED)
    assert Condition('country == "DE"').judge({"country": itself}) is Reason.TARGETING_FAILED
    assert Condition("size(country) == 1").judge({"country": nested(15)}) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={"country": values, "age": values}))
def test_any_attributes_are_judged(attributes: dict[str, Any]) -> None:
    judged = Condition(ADULT).judge(attributes)
    country, age = attributes.get("country"), attributes.get("age")
    is_adult = type(age) in (int, float) and age >= 18 and not (type(age) is int and age >= 2**63)
    assert (judged is None) == (country in ("DE", "AT") and is_adult)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("country ==", "targeting is not CEL"),
        ("country.lower() == 'de'", "targeting calls lower, which CEL does not have"),
        ("1 + 1", "targeting returns 2; a condition must return true or false"),
        ("1 / 0 == 1", "targeting always fails"),
        ("[1, 2].all(x, x)", "targeting"),
        ("a" * 5_000, "targeting has 5000 characters; it may have at most 4096"),
        ("a.all(x, a.all(y, a.all(z, a.all(w, x == w))))", "targeting has 4 of all, exists, map, filter"),
        ("(" * 2_000 + "a" + ")" * 2_000, "targeting is not CEL"),
    ],
)
def test_a_condition_that_could_never_decide_is_refused_with_the_config(condition: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExperimentConfig(
            key="e", salt="s", coverage=1, arms=(Arm("a", 5_000), Arm("b", 5_000)), control="a", targeting=condition
        )
    assert str(caught.value).startswith("experiment 'e': ")
    assert message in str(caught.value)


def test_a_macro_in_a_text_is_no_macro() -> None:
    assert problem(" || ".join(['note == "x.all(y, z)"'] * 5)) is None
