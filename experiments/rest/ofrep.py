"""The two endpoints of the OpenFeature Remote Evaluation Protocol, for the OpenFeature client of any language.

A flag is an experiment; its value and its variant are the arm's key. https://github.com/open-feature/protocol

This is the hot path of the interface: msgspec reads and writes the JSON, and nothing waits for the database.
"""

import hashlib
from functools import lru_cache
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from experiments.assigner import Assigner
from experiments.assignment import Assignment, Reason
from experiments.rest.auth import Auth

_NO_UNIT: Final = frozenset(
    {
        Reason.UNIT_MISSING,
        Reason.UNIT_NOT_TEXT,
        Reason.UNIT_NOT_UNICODE,
        Reason.UNIT_HAS_NUL,
        Reason.UNIT_TOO_LONG,
    }
)
# OpenFeature's reasons; the exact reason is in the metadata.
_REASONS: Final[dict[Reason, str]] = {
    Reason.ASSIGNED: "SPLIT",
    Reason.PAUSED: "SPLIT",
    Reason.OVERRIDE: "TARGETING_MATCH",
    Reason.STOPPED: "DISABLED",
}


class _Metadata(msgspec.Struct, frozen=True):
    enrolled: bool
    reason: str
    configVersion: int


class _Flag(msgspec.Struct, frozen=True):
    key: str
    reason: str
    variant: str | None
    value: str | None
    metadata: _Metadata


class _Context(msgspec.Struct, frozen=True):
    context: dict[str, Any]


class _Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    errorCode: str
    errorDetails: str
    key: str | None = None


_decoder: Final = msgspec.json.Decoder(_Context)
_encoder: Final = msgspec.json.Encoder()


def router(assigner: Assigner, auth: Auth) -> APIRouter:
    """Return the routes of the protocol; both need the right `assign`.

    Args:
        assigner: The configs in memory.
        auth: Checks the API keys.
    """
    routes = APIRouter(prefix="/ofrep/v1", tags=["OFREP"])

    @routes.post("/evaluate/flags/{key}", **_described(_FLAG, single=True))
    async def evaluate(key: str, request: Request) -> Response:
        """Evaluate one flag."""
        auth.check(request, "assign")
        context = await _context(request, key)
        if isinstance(context, Response):
            return context
        unit, attributes = context
        assignment = assigner.assign(unit, key, attributes)
        if assignment.reason is Reason.UNKNOWN_EXPERIMENT:
            return _failure(404, "FLAG_NOT_FOUND", f"no experiment {key!r} is served", key)
        if assignment.reason in _NO_UNIT:
            return _no_unit(assignment, key)
        return Response(_flag(assignment), media_type="application/json")

    @routes.post(
        "/evaluate/flags", **_described({"type": "object", "properties": {"flags": {"type": "array", "items": _FLAG}}})
    )
    async def evaluate_all(request: Request) -> Response:
        """Evaluate every flag. With `If-None-Match`, answer 304 while nothing changes for this context."""
        auth.check(request, "assign")
        context = await _context(request, None)
        if isinstance(context, Response):
            return context
        unit, attributes = context
        assignments = assigner.assign_all(unit, attributes).values()
        for assignment in assignments:
            if assignment.reason in _NO_UNIT:  # the same for every experiment that is not stopped
                return _no_unit(assignment, None)
        body = b'{"flags":[' + b",".join([_flag(assignment) for assignment in assignments]) + b"]}"
        etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        if _matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers={"ETag": etag})
        return Response(body, headers={"ETag": etag}, media_type="application/json")

    return routes


async def _context(request: Request, key: str | None) -> tuple[str, dict[str, Any]] | Response:
    """Return the unit and its attributes, or the protocol's answer to an invalid request."""
    try:
        attributes = _decoder.decode(await request.body()).context
    except msgspec.ValidationError as error:
        return _failure(400, "INVALID_CONTEXT", f'{error}; send {{"context": {{"targetingKey": ...}}}}', key)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _failure(400, "PARSE_ERROR", f"not JSON in UTF-8: {error}", key)
    unit = attributes.pop("targetingKey", None)
    if unit is None or unit == "":
        return _failure(400, "TARGETING_KEY_MISSING", "context.targetingKey is missing; send the unit's id", key)
    if not isinstance(unit, str):
        return _failure(400, "INVALID_CONTEXT", f"context.targetingKey is {unit!r}; send the unit's id as text", key)
    return unit, attributes


def _flag(assignment: Assignment) -> bytes:
    return _encoded(
        assignment.experiment, assignment.arm, assignment.enrolled, assignment.reason, assignment.config_version
    )


@lru_cache(maxsize=10_000)
def _encoded(key: str, arm: str | None, enrolled: bool, reason: Reason, version: int) -> bytes:
    """Return a flag's JSON. The cache is small: few arms, versions and reasons are in force at a time."""
    metadata = _Metadata(enrolled, reason.value, version)
    return _encoder.encode(_Flag(key, _REASONS.get(reason, "DEFAULT"), arm, arm, metadata))


def _no_unit(assignment: Assignment, key: str | None) -> Response:
    return _failure(400, "INVALID_CONTEXT", f"context.targetingKey: {assignment.reason.value}; send another id", key)


def _failure(status: int, code: str, details: str, key: str | None) -> Response:
    return Response(_encoder.encode(_Failure(code, details, key)), status, media_type="application/json")


def _matches(header: str | None, etag: str) -> bool:
    """Compare an If-None-Match header by weak comparison (RFC 9110)."""
    if header is None:
        return False
    given = [each.strip().removeprefix("W/") for each in header.split(",")]
    return etag in given or "*" in given


_FLAG: Final = {
    "type": "object",
    "required": ["key", "reason", "variant", "value", "metadata"],
    "properties": {
        "key": {"type": "string"},
        "reason": {"enum": ["SPLIT", "TARGETING_MATCH", "DISABLED", "DEFAULT"]},
        "variant": {"type": "string"},
        "value": {"type": "string"},
        "metadata": {
            "type": "object",
            "properties": {
                "enrolled": {"type": "boolean"},
                "reason": {"type": "string"},
                "configVersion": {"type": "integer"},
            },
        },
    },
}
_FAILURE: Final = {
    "type": "object",
    "required": ["errorCode", "errorDetails"],
    "properties": {
        "key": {"type": "string"},
        "errorCode": {"enum": ["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "FLAG_NOT_FOUND"]},
        "errorDetails": {"type": "string"},
    },
}
_REQUEST: Final = {
    "type": "object",
    "required": ["context"],
    "properties": {
        "context": {
            "type": "object",
            "required": ["targetingKey"],
            "properties": {"targetingKey": {"type": "string", "minLength": 1}},
            "additionalProperties": True,
        }
    },
}


def _described(answered: dict[str, Any], *, single: bool = False) -> dict[str, Any]:
    """Return the arguments of a route that describe it in OpenAPI, in the protocol's own terms."""

    def content(schema: dict[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": schema}}

    responses: dict[int, dict[str, Any]] = {
        200: {"description": "Evaluated.", "content": content(answered)},
        400: {"description": "The context cannot be used.", "content": content(_FAILURE)},
    }
    if single:
        responses[404] = {"description": "No such flag.", "content": content(_FAILURE)}
    else:
        etag = {"ETag": {"schema": {"type": "string"}, "description": "Send it back as If-None-Match."}}
        responses[200]["headers"] = etag
        responses[304] = {"description": "Nothing changed.", "headers": etag}
    return {
        "response_class": Response,
        "responses": responses,
        "openapi_extra": {"requestBody": {"required": True, "content": content(_REQUEST)}},
    }
