"""Errors as answers: problem details (RFC 9457) with the value, the rule and the remedy."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from experiments import errors

MEDIA_TYPE: Final = "application/problem+json"
"""Content type of problem details."""


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details of RFC 9457, with the invalid value, the rule that it breaks, and the remedy."""

    type: str
    title: str
    status: int
    detail: str
    value: Any = None
    rule: str = ""
    remedy: str = ""


class Problem(Exception):
    """Ends a request with an answer that says why.

    Args:
        status: HTTP status.
        title: Short name of the problem.
        rule: The rule that the request breaks.
        remedy: What the caller can do.
        value: The invalid value.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        status: int,
        title: str,
        *,
        rule: str,
        remedy: str,
        value: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        named = f"{value!r}: " if value is not None else ""
        super().__init__(f"{named}{rule}; {remedy}.")
        self.status, self.title, self.rule, self.remedy, self.value = status, title, rule, remedy, value
        self.headers = dict(headers or {})

    def answer(self) -> Response:
        """Return the problem as a response."""
        kind = "/problems/" + self.title.lower().replace(" ", "-")
        details = ProblemDetails(kind, self.title, self.status, str(self), self.value, self.rule, self.remedy)
        return _response(details, self.headers)


class _Template(msgspec.Struct, frozen=True):
    """The fixed parts of the problem of an error type."""

    status: int
    title: str
    rule: str
    remedy: str


_TEMPLATES: Final[dict[type[errors.ExperimentsError], _Template]] = {
    errors.ConfigError: _Template(
        422,
        "Config refused",
        "a config must follow the rules of docs/analysts/experiments.md",
        "fix what the detail names",
    ),
    errors.UnknownExperimentError: _Template(
        404, "Not found", "the experiment must exist", "list them with GET /v1/experiments"
    ),
    errors.ConflictError: _Template(
        409,
        "Conflict",
        "keys, salts and layer ranges belong to one experiment; holdouts and prerequisites agree between experiments",
        "fix what the detail names",
    ),
    errors.TransitionError: _Template(
        409,
        "Not now",
        "the life cycle allows only some steps in each state",
        "read the state with GET /v1/experiments/{key}",
    ),
    errors.ScheduleError: _Template(
        422, "Not schedulable", "a command is scheduled for a future time", "give another time"
    ),
    errors.UserError: _Template(
        422,
        "User refused",
        "a user id is a short text, and must be only in `user`",
        "fix what the detail names",
    ),
    errors.UnknownKeyError: _Template(404, "Not found", "the id must be that of a valid key", "list the keys"),
    errors.SchemaError: _Template(
        503, "Database not ready", "the database must have this program's revision", "run `sagelift experiment migrate`"
    ),
}


def of(error: errors.ExperimentsError) -> ProblemDetails:
    """Return the problem details of an error of this package."""
    for kind in type(error).__mro__:
        if (template := _TEMPLATES.get(kind)) is not None:
            slug = "/problems/" + template.title.lower().replace(" ", "-")
            return ProblemDetails(
                slug, template.title, template.status, str(error), None, template.rule, template.remedy
            )
    return ProblemDetails("/problems/refused", "Refused", 400, str(error))


def install(app: FastAPI) -> None:
    """Make every error of an application a problem; an unexpected error reveals no details."""

    async def problem(_: Request, error: Problem) -> Response:
        return error.answer()

    async def expected(_: Request, error: errors.ExperimentsError) -> Response:
        return _response(of(error))

    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Problem(
            422, "Parameter refused", value=first.get("input"), rule=f"{where}: {first['msg']}", remedy="correct it"
        ).answer()

    async def http(_: Request, error: HTTPException) -> Response:
        rule, remedy = {
            404: ("this path does not exist", "see /openapi.json"),
            405: ("this path does not allow this method", "see the header Allow"),
        }.get(error.status_code, (str(error.detail), "see /openapi.json"))
        title = {404: "Not found", 405: "Method not allowed"}.get(error.status_code, "Refused")
        return Problem(error.status_code, title, rule=rule, remedy=remedy, headers=error.headers).answer()

    async def unexpected(_: Request, __: Exception) -> Response:
        return Problem(
            500, "Internal error", rule="this is an error of the server", remedy="its log has the traceback"
        ).answer()

    app.add_exception_handler(Problem, problem)  # type: ignore[arg-type]
    app.add_exception_handler(errors.ExperimentsError, expected)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, unexpected)


def _response(details: ProblemDetails, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(details), details.status, dict(headers or {}), MEDIA_TYPE)
