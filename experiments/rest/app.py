"""The application, assembled from its parts; it has no state of its own."""

from fastapi import FastAPI

from experiments.api_keys import KeyRing
from experiments.assigner import Assigner
from experiments.privacy import Tokens
from experiments.rest import assignments, health, management, ofrep, openapi, problems, units
from experiments.rest.auth import Auth
from experiments.rest.limits import BodyLimit, Limits, RateLimiter
from experiments.store import ExperimentStore


def create_app(
    store: ExperimentStore,
    assigner: Assigner,
    ring: KeyRing,
    *,
    tokens: Tokens | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """Create the ASGI application.

    The caller keeps `assigner`, `ring` and `tokens` fresh. A change over this interface refreshes the assigner at once.

    Args:
        store: The experiment store.
        assigner: The configs in memory.
        ring: The valid API keys.
        tokens: Unit tokens; None when unit ids are not tokens.
        limits: Limits of requests.
    """
    limits = limits or Limits()
    auth = Auth(ring, RateLimiter(limits.rate, limits.burst))
    app = FastAPI(title="Sagelift experiments", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    problems.install(app)
    app.add_middleware(BodyLimit, limit=limits.body)
    # A path is matched against the routes in this order, so the hot paths come first.
    app.include_router(ofrep.router(assigner, auth))
    app.include_router(assignments.router(assigner, auth, limits.batch))
    app.include_router(health.router(assigner))
    app.include_router(units.router(tokens, auth, limits.batch))
    app.include_router(management.router(store, auth, assigner.refresh))
    app.openapi = openapi.describe(app, "See docs/shops/experiments-api.md.")  # type: ignore[method-assign]
    return app
