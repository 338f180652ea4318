"""The OpenAPI document: FastAPI's, with the JSON Schemas of our types, the keys, and a problem for each operation."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response

from experiments.config import ExperimentConfig
from experiments.json_schemas import describe_properties
from experiments.records import Scheduled, Transition, Version
from experiments.rest import documents
from experiments.rest.problems import MEDIA_TYPE, ProblemDetails

_REF: Final = "#/components/schemas/{name}"


def described(sent: type | None, answered: type, status: int = 200) -> dict[str, Any]:
    """Return the arguments of a route that describe its bodies in OpenAPI.

    Args:
        sent: Type of the request body; None without a body.
        answered: Type of the answer.
        status: HTTP status of the answer.
    """
    arguments: dict[str, Any] = {
        "status_code": status,
        "response_class": Response,
        "responses": {status: {"description": _first_line(answered), "content": _content(answered)}},
    }
    if sent is not None:
        arguments["openapi_extra"] = {"requestBody": {"required": True, "content": _content(sent)}}
    return arguments


def components() -> dict[str, Any]:
    """Return the JSON Schemas of all requests and answers, by name."""
    _, schemas = msgspec.json.schema_components(_DOCUMENTS, ref_template=_REF)
    describe_properties(schemas)
    return schemas


def describe(app: FastAPI, description: str) -> Callable[[], dict[str, Any]]:
    """Return a function that makes the OpenAPI document of an application, once.

    Args:
        app: The application, with its title, version and routes.
        description: Text for people.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, description)
        return app.openapi_schema

    return openapi


def _document(app: FastAPI, description: str) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=description)
    document["components"] = {
        "schemas": components(),
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        },
    }
    problem = {"description": "The request failed.", "content": _content(ProblemDetails, MEDIA_TYPE)}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own error format, which we do not use
            operation["responses"]["default"] = problem
            operation["security"] = [] if path in ("/health", "/ready") else [{"bearer": []}, {"apiKey": []}]
    return document


def _content(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _REF.format(name=kind.__name__)}}}


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


_DOCUMENTS: Final = (
    *(
        kind
        for name, kind in vars(documents).items()
        if isinstance(kind, type) and kind.__module__ == documents.__name__ and not name.startswith("_")
    ),
    *(ProblemDetails, Transition, Version, Scheduled, ExperimentConfig),
)
