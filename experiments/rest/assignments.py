"""Assignments and exposures over REST, from the configs in memory: no request waits for the database."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from fastapi.responses import Response

from experiments.assigner import Assigner
from experiments.assignment import Assignment
from experiments.rest import documents as d
from experiments.rest.auth import Auth
from experiments.rest.bodies import answer, read
from experiments.rest.limits import check_batch
from experiments.rest.openapi import described


def router(assigner: Assigner, auth: Auth, batch: int) -> APIRouter:
    """Return the routes of assignments and exposures.

    Args:
        assigner: The configs in memory.
        auth: Checks the API keys.
        batch: Maximum number of assignments or exposures of one request.
    """
    routes = APIRouter(prefix="/v1", tags=["assignments"], dependencies=[Depends(auth.needs("assign"))])

    @routes.post("/assignments", **described(d.AssignmentsRequest, d.AssignmentsAnswer))
    async def assign_many(sent: Annotated[d.AssignmentsRequest, Depends(read(d.AssignmentsRequest))]) -> Response:
        """Assign one unit in several experiments. Logs no exposure: log it where the assignment is used."""
        if sent.experiments is None:
            assignments = [*assigner.assign_all(sent.unit, sent.attributes).values()]
        else:
            check_batch(len(sent.experiments), batch)
            assignments = [assigner.assign(sent.unit, key, sent.attributes) for key in sent.experiments]
        return answer(d.AssignmentsAnswer([_document(assignment) for assignment in assignments]))

    @routes.post("/assignments/{key}", **described(d.AssignmentRequest, d.AssignmentAnswer))
    async def assign(
        key: Annotated[str, Path(description="An experiment's key.")],
        sent: Annotated[d.AssignmentRequest, Depends(read(d.AssignmentRequest))],
    ) -> Response:
        """Assign one unit in one experiment."""
        return answer(_document(assigner.assign(sent.unit, key, sent.attributes)))

    @routes.post("/exposures", **described(d.ExposuresRequest, d.ExposuresAnswer, 202))
    async def expose(sent: Annotated[d.ExposuresRequest, Depends(read(d.ExposuresRequest))]) -> Response:
        """Log assignments that were used. The server evaluates each again: no caller can log an arm of its choice."""
        check_batch(len(sent.exposures), batch)
        return answer(d.ExposuresAnswer([_expose(assigner, used) for used in sent.exposures]), 202)

    return routes


def _expose(assigner: Assigner, used: d.UsedAssignment) -> d.ExposureAnswer:
    assignment = assigner.assign(used.unit, used.experiment, used.attributes)
    if assignment.enrolled and used.arm not in (None, assignment.arm):
        return d.ExposureAnswer(False, f"arm is {assignment.arm!r} now, not {used.arm!r}")
    if assignment.enrolled and used.config_version not in (None, assignment.config_version):
        return d.ExposureAnswer(False, f"config_version is {assignment.config_version} now, not {used.config_version}")
    logged = assigner.expose(assignment)
    return d.ExposureAnswer(logged, assignment.reason.value if logged or not assignment.enrolled else "logged before")


def _document(assignment: Assignment) -> d.AssignmentAnswer:
    return d.AssignmentAnswer(
        assignment.experiment, assignment.arm, assignment.enrolled, assignment.reason.value, assignment.config_version
    )
