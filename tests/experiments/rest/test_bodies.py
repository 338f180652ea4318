"""Request bodies are decoded as their type, or refused with the place, the value and the rule."""

import asyncio
from typing import Any

import pytest
from fastapi import Request

from experiments.config import ExperimentConfig
from experiments.errors import ConfigError
from experiments.rest.bodies import answer, read
from experiments.rest.documents import AssignmentRequest
from experiments.rest.problems import Problem


def sent(kind: type[Any], content: bytes) -> Any:
    """Read a request with this body."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content}

    return asyncio.run(read(kind)(Request({"type": "http", "method": "POST", "headers": []}, receive)))  # type: ignore[arg-type]


def test_a_body_becomes_a_value_of_its_type() -> None:
    request = sent(AssignmentRequest, b'{"unit": "u", "attributes": {"age": 30}}')
    assert (request.unit, request.attributes) == ("u", {"age": 30})


@pytest.mark.parametrize(
    ("content", "status", "rule"),
    [
        (b"", 400, "this request needs a JSON body, and it is empty"),
        (b"{", 400, "a request is JSON in UTF-8"),
        (b'{"unit": "\xff"}', 400, "a request is JSON in UTF-8"),
        (b"[", 400, "a request is JSON in UTF-8"),
        (b"[" * 100_000, 400, "a request is JSON in UTF-8"),
        (b'{"unit": "u", "attributes": {"a": ' + b"[" * 100_000, 400, "a request is JSON in UTF-8"),
        (b'{"unit": "u", "attributes": 7}', 422, "attributes: Expected `object`, got `int`"),
        (b'{"unit": "u", "colour": "red"}', 422, "Object contains unknown field `colour`"),
    ],
)
def test_a_body_that_is_not_of_its_type_is_a_problem(content: bytes, status: int, rule: str) -> None:
    with pytest.raises(Problem) as caught:
        sent(AssignmentRequest, content)
    assert caught.value.status == status
    assert rule in str(caught.value.rule)


def test_an_invalid_config_is_an_error_of_the_config() -> None:
    with pytest.raises(ConfigError, match="salt is empty"):
        sent(ExperimentConfig, b'{"key": "k", "salt": "", "coverage": 1, "arms": [], "control": "a"}')


def test_an_answer_is_json_with_its_status() -> None:
    response = answer({"a": [1, None]}, 201, {"ETag": '"1"'})
    assert (response.status_code, response.body, response.media_type) == (201, b'{"a":[1,null]}', "application/json")
    assert response.headers["etag"] == '"1"'
