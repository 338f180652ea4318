"""What is answered when it cannot be done: problem details (RFC 9457) that name the value, the rule and the remedy."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from experiments import errors

MEDIA_TYPE: Final = "application/problem+json"


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457, with what was wrong, the rule that it breaks, and what to do about it."""

    type: str
    title: str
    status: int
    detail: str
    value: Any = None
    rule: str = ""
    remedy: str = ""


class Problem(Exception):
    """Ends a request with an answer that says why."""

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
        """The problem as a response."""
        kind = "/problems/" + self.title.lower().replace(" ", "-")
        details = ProblemDetails(kind, self.title, self.status, str(self), self.value, self.rule, self.remedy)
        return _response(details, self.headers)


class _Known(msgspec.Struct, frozen=True):
    status: int
    title: str
    rule: str
    remedy: str


_KNOWN: Final[dict[type[errors.ExperimentsError], _Known]] = {
    errors.ConfigError: _Known(
        422, "Config refused", "a config keeps the rules of docs/analysts/experiments.md", "mend what the detail names"
    ),
    errors.UnknownExperimentError: _Known(
        404, "Not found", "the key names an experiment that was created", "list them with GET /v1/experiments"
    ),
    errors.ConflictError: _Known(
        409,
        "Conflict",
        "keys, salts and layer ranges belong to one experiment; holdouts and prerequisites agree among all",
        "mend what the detail names",
    ),
    errors.TransitionError: _Known(
        409,
        "Not now",
        "the life cycle knows which step may follow which",
        "read its state with GET /v1/experiments/{key}",
    ),
    errors.ScheduleError: _Known(422, "Not schedulable", "a command is kept for a time to come", "give another time"),
    errors.UserError: _Known(
        422,
        "User refused",
        "a user's id is a short text, and stands nowhere but in `user`",
        "mend what the detail names",
    ),
    errors.UnknownKeyError: _Known(404, "Not found", "the id names a key in use", "list the keys"),
    errors.SchemaError: _Known(
        503, "Database not ready", "the database has this program's revision", "run `sagelift experiment migrate`"
    ),
}


def of(error: errors.ExperimentsError) -> ProblemDetails:
    """The problem that an error of this package is to a caller."""
    for kind in type(error).__mro__:
        if (known := _KNOWN.get(kind)) is not None:
            slug = "/problems/" + known.title.lower().replace(" ", "-")
            return ProblemDetails(slug, known.title, known.status, str(error), None, known.rule, known.remedy)
    return ProblemDetails("/problems/refused", "Refused", 400, str(error))


def install(app: FastAPI) -> None:
    """Every failure of the app becomes a problem; what is unexpected says nothing of its inside."""

    async def problem(_: Request, error: Problem) -> Response:
        return error.answer()

    async def expected(_: Request, error: errors.ExperimentsError) -> Response:
        return _response(of(error))

    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Problem(
            422, "Parameter refused", value=first.get("input"), rule=f"{where}: {first['msg']}", remedy="mend it"
        ).answer()

    async def http(_: Request, error: HTTPException) -> Response:
        rule, remedy = {
            404: ("there is nothing at this path", "see /openapi.json"),
            405: ("this path does not take this method", "see the header Allow"),
        }.get(error.status_code, (str(error.detail), "see /openapi.json"))
        title = {404: "Not found", 405: "Method not allowed"}.get(error.status_code, "Refused")
        return Problem(error.status_code, title, rule=rule, remedy=remedy, headers=error.headers).answer()

    async def unexpected(_: Request, __: Exception) -> Response:
        return Problem(
            500, "Internal error", rule="this is a fault of the server", remedy="its log has the traceback"
        ).answer()

    app.add_exception_handler(Problem, problem)  # type: ignore[arg-type]
    app.add_exception_handler(errors.ExperimentsError, expected)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, unexpected)


def _response(details: ProblemDetails, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(details), details.status, dict(headers or {}), MEDIA_TYPE)
