"""The application: made from its parts, with no state outside of them."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from experiments.api_keys import KeyRing
from experiments.assigner import Assigner
from experiments.privacy import Tokens
from experiments.rest import assignments, documents, management, ofrep, problems, units
from experiments.rest.auth import Auth
from experiments.rest.limits import BodyLimit, Limits, RateLimiter
from experiments.store import ExperimentStore

_TITLE = "Sagelift experiments"
_VERSION = "1"


def create_app(
    store: ExperimentStore,
    assigner: Assigner,
    ring: KeyRing,
    *,
    tokens: Tokens | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """An ASGI application over a store, an assigner that holds the configs in memory, and the keys that are good;
    `tokens` where unit ids are tokens.

    Whoever calls this keeps `assigner`, `ring` and `tokens` fresh; an act over this interface refreshes the assigner at
    once.
    """
    limits = limits or Limits()
    auth = Auth(ring, RateLimiter(limits.rate, limits.burst))
    app = FastAPI(title=_TITLE, version=_VERSION, docs_url=None, redoc_url=None, redirect_slashes=False)
    problems.install(app)
    app.add_middleware(BodyLimit, limit=limits.body)
    # A path is looked for in this order, one route after the other: the hot ones stand first.
    app.include_router(ofrep.router(assigner, auth))
    app.include_router(assignments.router(assigner, auth, limits.batch))
    app.include_router(assignments.health_router(assigner))
    app.include_router(units.router(tokens, auth, limits.batch))
    app.include_router(management.router(store, auth, assigner.refresh))
    app.openapi = _described(app)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    return openapi


def _document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with our types, the keys, and problems wherever something can be refused."""
    document = get_openapi(
        title=_TITLE, version=_VERSION, routes=app.routes, description="See docs/shops/experiments-api.md."
    )
    document["components"] = {
        "schemas": documents.components(),
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        },
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own form, which we do not answer with
            operation["responses"]["default"] = documents.problem_response()
            operation["security"] = [] if path in ("/health", "/ready") else [{"bearer": []}, {"apiKey": []}]
    return document
