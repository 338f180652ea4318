"""Decisions and exposures over REST, from the configs in memory: no request waits for the database."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from fastapi.responses import Response

from experiments.assigner import Assigner
from experiments.assignment import Assignment
from experiments.rest import documents as d
from experiments.rest.auth import Auth
from experiments.rest.documents import answer, described, read
from experiments.rest.limits import check_batch


def router(assigner: Assigner, auth: Auth, batch: int) -> APIRouter:
    """`batch`: the most assignments or exposures of one request."""
    routes = APIRouter(prefix="/v1", tags=["assignments"], dependencies=[Depends(auth.needs("assign"))])

    @routes.post("/assignments", **described(d.AssignmentsRequest, d.AssignmentsAnswer))
    async def decide_many(sent: Annotated[d.AssignmentsRequest, Depends(read(d.AssignmentsRequest))]) -> Response:
        """Decide several experiments for one unit. Logs no exposure: that is for where the assignment is used."""
        if sent.experiments is None:
            found = [*assigner.assign_all(sent.unit, sent.attributes).values()]
        else:
            check_batch(len(sent.experiments), batch)
            found = [assigner.assign(sent.unit, key, sent.attributes) for key in sent.experiments]
        return answer(d.AssignmentsAnswer([_told(assignment) for assignment in found]))

    @routes.post("/assignments/{key}", **described(d.AssignmentRequest, d.AssignmentAnswer))
    async def decide(
        key: Annotated[str, Path(description="An experiment's key.")],
        sent: Annotated[d.AssignmentRequest, Depends(read(d.AssignmentRequest))],
    ) -> Response:
        """Decide one experiment for one unit."""
        return answer(_told(assigner.assign(sent.unit, key, sent.attributes)))

    @routes.post("/exposures", **described(d.ExposuresRequest, d.ExposuresAnswer, 202))
    async def expose(sent: Annotated[d.ExposuresRequest, Depends(read(d.ExposuresRequest))]) -> Response:
        """Log assignments that were used. Each is decided anew here, so that no caller can log an arm of its choice."""
        check_batch(len(sent.exposures), batch)
        return answer(d.ExposuresAnswer([_exposed(assigner, used) for used in sent.exposures]), 202)

    return routes


def health_router(assigner: Assigner) -> APIRouter:
    """For supervisors and load balancers; needs no key and says nothing of any experiment."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health", **described(None, d.Health))
    async def health() -> Response:
        """The process answers."""
        return answer(d.Health("ok"))

    @routes.get("/ready", **described(None, d.Readiness))
    async def ready() -> Response:
        """Whether there are configs to decide with (else 503). Stale ones are served all the same."""
        state = assigner.state
        loaded = state.source != "nothing"
        told = d.Readiness(loaded, state.stale, state.experiments, state.age_s)
        return answer(told, 200 if loaded else 503)

    return routes


def _exposed(assigner: Assigner, used: d.UsedAssignment) -> d.ExposureAnswer:
    assignment = assigner.assign(used.unit, used.experiment, used.attributes)
    if assignment.enrolled and used.arm not in (None, assignment.arm):
        return d.ExposureAnswer(False, f"arm is {assignment.arm!r} now, not {used.arm!r}")
    if assignment.enrolled and used.config_version not in (None, assignment.config_version):
        return d.ExposureAnswer(False, f"config_version is {assignment.config_version} now, not {used.config_version}")
    logged = assigner.expose(assignment)
    return d.ExposureAnswer(logged, assignment.reason.value if logged or not assignment.enrolled else "logged before")


def _told(assignment: Assignment) -> d.AssignmentAnswer:
    return d.AssignmentAnswer(
        assignment.experiment, assignment.arm, assignment.enrolled, assignment.reason.value, assignment.config_version
    )
