"""An error names the place, the value and the rule."""

from typing import Any

import msgspec
import pytest

from experiments.config import ExperimentConfig
from experiments.validation_errors import locate_invalid_value

GOOD: dict[str, Any] = {
    "key": "ranking",
    "salt": "ranking-1",
    "coverage": 1,
    "control": "a",
    "arms": [{"key": "a", "weight": 5_000}, {"key": "b", "weight": 5_000}],
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"coverage": "all"}, ("coverage", "all", "Expected `int`, got `str`")),
        ({"arms": [{"key": "a", "weight": 0.5}]}, ("arms[0].weight", 0.5, "Expected `int`, got `float`")),
        ({"arms": [{"key": "a"}]}, ("arms[0]", None, "Object missing required field `weight`")),
        ({"colour": "red"}, ("", None, "Object contains unknown field `colour`")),
        ({"control": None}, ("control", None, "Expected `str`, got `null`")),
        ({"control": ["x" * 99]}, ("control", "['" + "x" * 78 + "...", "Expected `str`, got `array`")),
    ],
)
def test_an_error_of_msgspec_has_its_place_value_and_rule(
    change: dict[str, Any], expected: tuple[str, Any, str]
) -> None:
    document = GOOD | change
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(document, ExperimentConfig)
    assert locate_invalid_value(document, str(raised.value)) == expected


@pytest.mark.parametrize("document", [None, 3, "text", [], {"arms": "x"}, {"arms": []}])
def test_a_place_that_is_not_in_the_document_has_no_value(document: Any) -> None:
    assert locate_invalid_value(document, "Expected `int` - at `$.arms[0].weight`") == (
        "arms[0].weight",
        None,
        "Expected `int`",
    )
