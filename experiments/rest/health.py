"""Health checks for supervisors and load balancers. They need no key, and reveal nothing about an experiment."""

from fastapi import APIRouter
from fastapi.responses import Response

from experiments.assigner import Assigner
from experiments.rest import documents as d
from experiments.rest.bodies import answer
from experiments.rest.openapi import described


def router(assigner: Assigner) -> APIRouter:
    """Return the routes of the health checks.

    Args:
        assigner: The configs in memory.
    """
    routes = APIRouter(tags=["health"])

    @routes.get("/health", **described(None, d.Health))
    async def health() -> Response:
        """Answer while the process is running."""
        return answer(d.Health("ok"))

    @routes.get("/ready", **described(None, d.Readiness))
    async def ready() -> Response:
        """Answer 200 when configs are loaded, else 503. Stale configs are still served."""
        state = assigner.state
        loaded = state.source != "nothing"
        readiness = d.Readiness(loaded, state.stale, state.experiments, state.age_s)
        return answer(readiness, 200 if loaded else 503)

    return routes
