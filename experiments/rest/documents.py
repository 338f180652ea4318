"""What is sent and answered, as types, and how OpenAPI tells of it."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

import msgspec
from fastapi import Request
from fastapi.responses import Response

from experiments.config import ExperimentConfig
from experiments.errors import ConfigError
from experiments.layers import LayerSummary
from experiments.lifecycle import Action, Decision
from experiments.metrics import MetricVersion
from experiments.records import AuditEntry, ExperimentSummary, Scheduled, Transition, Version
from experiments.rest.problems import MEDIA_TYPE, Problem, ProblemDetails
from experiments.validation_errors import locate_invalid_value

T = TypeVar("T")
_REF: Final = "#/components/schemas/{name}"


class _Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that a caller sends: a field that is not known is a mistake."""


class Reasoned(_Sent, frozen=True, kw_only=True):
    """A step of the life cycle. `reason` stands in the audit log, beside the name of the key."""

    reason: str


class Publication(Reasoned, frozen=True, kw_only=True):
    """A config to be frozen as a version."""

    config: ExperimentConfig


class RampRequest(Reasoned, frozen=True, kw_only=True):
    """A higher coverage, in 1/10,000."""

    coverage: int


class DecideRequest(Reasoned, frozen=True, kw_only=True):
    """How an experiment ended."""

    outcome: Decision


class ScheduleRequest(Reasoned, frozen=True, kw_only=True):
    """A command for later. `at` names its time zone; a ramp has a coverage."""

    action: Action
    at: datetime
    coverage: int | None = None


class OverrideRequest(Reasoned, frozen=True, kw_only=True):
    """An arm that is forced upon one unit until a time."""

    unit: str
    arm: str
    expires_at: datetime


class ClearOverrideRequest(Reasoned, frozen=True, kw_only=True):
    """A unit upon which no arm is forced any more."""

    unit: str


class LayerRequest(Reasoned, frozen=True, kw_only=True):
    """A layer to be made."""

    description: str = ""


class MetricsRequest(Reasoned, frozen=True, kw_only=True):
    """Metrics to be frozen, each an entry of a file of metrics with `name`, `owner` and `tier`."""

    metrics: list[dict[str, Any]]


class TokenRequest(_Sent, frozen=True, kw_only=True):
    """Users whose unit ids are asked for."""

    users: list[str]


class EraseRequest(Reasoned, frozen=True, kw_only=True):
    """A user to be erased. `reason` names the request, never the user."""

    user: str


class AssignmentRequest(_Sent, frozen=True, kw_only=True):
    """Whom to decide for. `unit` is text; anything else is answered as not enrolled, with a reason."""

    unit: Any = None
    attributes: dict[str, Any] = {}


class AssignmentsRequest(AssignmentRequest, frozen=True, kw_only=True):
    """Several experiments of one unit; without names, all that are served."""

    experiments: list[str] | None = None


class UsedAssignment(AssignmentRequest, frozen=True, kw_only=True):
    """An assignment that was used. `arm` and `config_version`, when given, must be those that are in force."""

    experiment: str
    arm: str | None = None
    config_version: int | None = None


class ExposuresRequest(_Sent, frozen=True, kw_only=True):
    """Decisions that were used."""

    exposures: list[UsedAssignment]


class AssignmentAnswer(msgspec.Struct, frozen=True):
    """What to serve. `arm` is control for whoever is not enrolled, null when the experiment is unknown."""

    experiment: str
    arm: str | None
    enrolled: bool
    reason: str
    config_version: int


class AssignmentsAnswer(msgspec.Struct, frozen=True):
    """In the order of the request, or by key."""

    assignments: list[AssignmentAnswer]


class ExposureAnswer(msgspec.Struct, frozen=True):
    """Whether an exposure was queued: not for who is not enrolled, nor twice, nor with another arm or version."""

    logged: bool
    reason: str


class ExposuresAnswer(msgspec.Struct, frozen=True):
    """In the order of the request."""

    exposures: list[ExposureAnswer]


class TokenAnswer(msgspec.Struct, frozen=True):
    """In the order of the request."""

    units: list[str]


class ErasedAnswer(msgspec.Struct, frozen=True):
    """Whether there was anything to erase."""

    erased: bool


class PublishedAnswer(msgspec.Struct, frozen=True):
    """The version that was published."""

    experiment: str
    version: int


class ScheduledAnswer(msgspec.Struct, frozen=True):
    """The number of the command that waits."""

    id: int


class ClearedAnswer(msgspec.Struct, frozen=True):
    """Whether an arm had been forced."""

    cleared: bool


class ExperimentAnswer(msgspec.Struct, frozen=True):
    """An experiment: where it stands, its latest config, how it came there, what is to come."""

    summary: ExperimentSummary
    latest: Version | None
    history: list[Transition]
    scheduled: list[Scheduled]


class ExperimentsAnswer(msgspec.Struct, frozen=True):
    """By key."""

    experiments: list[ExperimentSummary]


class VersionsAnswer(msgspec.Struct, frozen=True):
    """Oldest first."""

    versions: list[Version]


class LayersAnswer(msgspec.Struct, frozen=True):
    """By key."""

    layers: list[LayerSummary]


class LayerAnswer(msgspec.Struct, frozen=True):
    """The layer that was made."""

    layer: str


class MetricsAnswer(msgspec.Struct, frozen=True):
    """The latest version of each, by key."""

    metrics: list[MetricVersion]


class PublishedMetrics(msgspec.Struct, frozen=True):
    """The version of each metric that was sent; one that is as before keeps its own."""

    versions: dict[str, int]


class AuditAnswer(msgspec.Struct, frozen=True):
    """Newest first; the next page begins before the last id."""

    entries: list[AuditEntry]


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Readiness(msgspec.Struct, frozen=True):
    """Whether configs are there to decide with, how old they are (seconds), and whether that is too old."""

    ready: bool
    stale: bool
    experiments: int
    age_s: float | None


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def read(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that reads the body. Raises Problem when it is not the JSON of that type."""
    decoder = msgspec.json.Decoder(kind)

    async def body(request: Request) -> T:
        sent = await request.body()
        if not sent:
            rule, remedy = "this request has a body of JSON, and it is empty", "send what /openapi.json describes"
            raise Problem(400, "Not JSON", rule=rule, remedy=remedy)
        try:
            return decoder.decode(sent)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, ConfigError):
                raise error.__cause__ from None
            place, value, rule = locate_invalid_value(msgspec.json.decode(sent), str(error))
            rule, remedy = f"{place}: {rule}" if place else rule, "send what /openapi.json describes"
            raise Problem(422, "Request refused", value=value, rule=rule, remedy=remedy) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            rule = f"a request is JSON in UTF-8 ({error})"
            raise Problem(400, "Not JSON", rule=rule, remedy="send JSON") from None

    return body


def described(sent: type | None, answered: type, status: int = 200) -> dict[str, Any]:
    """Arguments of a route that tell OpenAPI what is sent and answered."""
    told: dict[str, Any] = {
        "status_code": status,
        "response_class": Response,
        "responses": {status: {"description": _first_line(answered), "content": _content(answered)}},
    }
    if sent is not None:
        told["openapi_extra"] = {"requestBody": {"required": True, "content": _content(sent)}}
    return told


def components() -> dict[str, Any]:
    """The JSON Schemas of all that is sent and answered."""
    _, schemas = msgspec.json.schema_components(_DOCUMENTS, ref_template=_REF)
    return dict(schemas)


def problem_response(description: str = "It could not be done.") -> dict[str, Any]:
    """Of an operation in OpenAPI."""
    return {"description": description, "content": _content(ProblemDetails, MEDIA_TYPE)}


def _content(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _REF.format(name=kind.__name__)}}}


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


_DOCUMENTS: Final = (
    *(Reasoned, Publication, RampRequest, DecideRequest, ScheduleRequest, OverrideRequest, ClearOverrideRequest),
    *(AssignmentRequest, AssignmentsRequest, ExposuresRequest, AssignmentAnswer, AssignmentsAnswer, ExposuresAnswer),
    *(PublishedAnswer, ScheduledAnswer, ClearedAnswer, ExperimentAnswer, ExperimentsAnswer, VersionsAnswer),
    *(LayerRequest, LayersAnswer, LayerAnswer, MetricsRequest, MetricsAnswer, PublishedMetrics),
    *(TokenRequest, TokenAnswer, EraseRequest, ErasedAnswer),
    *(AuditAnswer, Health, Readiness, ProblemDetails, Transition, Version, Scheduled, ExperimentConfig),
)
