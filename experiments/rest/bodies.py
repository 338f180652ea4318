"""Reads request bodies and writes answers: JSON to and from the types of `documents`."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from fastapi.responses import Response

from experiments.errors import ConfigError
from experiments.rest.problems import Problem
from experiments.validation_errors import locate_invalid_value

T = TypeVar("T")

_SEE_OPENAPI = "send what /openapi.json describes"
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a value as a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def read(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """Return a FastAPI dependency that reads the body of a request.

    Args:
        kind: Type of the body. The dependency raises Problem when the body is not JSON of this type, and ConfigError
            when it has an invalid config.
    """
    decoder = msgspec.json.Decoder(kind)

    async def body(request: Request) -> T:
        content = await request.body()
        if not content:
            raise Problem(400, "Not JSON", rule="this request needs a JSON body, and it is empty", remedy=_SEE_OPENAPI)
        try:
            return decoder.decode(content)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, ConfigError):
                raise error.__cause__ from None
            raise _wrong_type(content, error) from None
        except _NOT_JSON as error:
            raise _not_json(error) from None

    return body


def _wrong_type(content: bytes, error: msgspec.ValidationError) -> Problem:
    try:
        document = msgspec.json.decode(content)
    except _NOT_JSON as fault:  # the text after the first value of a wrong type was not read before
        return _not_json(fault)
    place, value, rule = locate_invalid_value(document, str(error))
    rule = f"{place}: {rule}" if place else rule
    return Problem(422, "Request refused", value=value, rule=rule, remedy=_SEE_OPENAPI)


def _not_json(error: Exception) -> Problem:
    return Problem(400, "Not JSON", rule=f"a request is JSON in UTF-8 ({error})", remedy="send JSON")
