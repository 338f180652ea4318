"""The bodies of requests and answers, as types. OpenAPI shows their docstrings."""

from datetime import datetime
from typing import Any, Literal

import msgspec

from experiments.config import ExperimentConfig
from experiments.layers import LayerSummary
from experiments.lifecycle import Action, Decision
from experiments.metrics import MetricVersion
from experiments.records import AuditEntry, ExperimentSummary, Scheduled, Transition, Version


class _Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request: an unknown field is an error."""


class Reasoned(_Sent, frozen=True, kw_only=True):
    """A step of the life cycle. The audit log stores `reason`, together with the name of the key."""

    reason: str


class Publication(Reasoned, frozen=True, kw_only=True):
    """A config to publish as a version."""

    config: ExperimentConfig


class RampRequest(Reasoned, frozen=True, kw_only=True):
    """A higher coverage, in 1/10,000."""

    coverage: int


class DecideRequest(Reasoned, frozen=True, kw_only=True):
    """How the experiment ended."""

    outcome: Decision


class ScheduleRequest(Reasoned, frozen=True, kw_only=True):
    """A command to run later. `at` must have a time zone; a ramp has a coverage."""

    action: Action
    at: datetime
    coverage: int | None = None


class OverrideRequest(Reasoned, frozen=True, kw_only=True):
    """An arm that is forced on one unit until a time."""

    unit: str
    arm: str
    expires_at: datetime


class ClearOverrideRequest(Reasoned, frozen=True, kw_only=True):
    """The unit whose override is removed."""

    unit: str


class LayerRequest(Reasoned, frozen=True, kw_only=True):
    """A layer to create."""

    description: str = ""


class MetricsRequest(Reasoned, frozen=True, kw_only=True):
    """Metrics to publish, each an entry of a file of metrics with `name`, `owner` and `tier`."""

    metrics: list[dict[str, Any]]


class TokenRequest(_Sent, frozen=True, kw_only=True):
    """Users whose unit ids are requested."""

    users: list[str]


class EraseRequest(Reasoned, frozen=True, kw_only=True):
    """A user to erase. `reason` names the request and never the user."""

    user: str


class AssignmentRequest(_Sent, frozen=True, kw_only=True):
    """The unit to assign. `unit` is text; any other value is not enrolled, with a reason."""

    unit: Any = None
    attributes: dict[str, Any] = {}


class AssignmentsRequest(AssignmentRequest, frozen=True, kw_only=True):
    """The unit to assign in several experiments; by default in all that are served."""

    experiments: list[str] | None = None


class UsedAssignment(AssignmentRequest, frozen=True, kw_only=True):
    """An assignment that was used. `arm` and `config_version`, if given, must be the ones in force."""

    experiment: str
    arm: str | None = None
    config_version: int | None = None


class ExposuresRequest(_Sent, frozen=True, kw_only=True):
    """Assignments that were used."""

    exposures: list[UsedAssignment]


class AssignmentAnswer(msgspec.Struct, frozen=True):
    """What to serve. `arm` is control for a unit that is not enrolled, null when the experiment is unknown."""

    experiment: str
    arm: str | None
    enrolled: bool
    reason: str
    config_version: int


class AssignmentsAnswer(msgspec.Struct, frozen=True):
    """One assignment for each experiment, in the order of the request, or by key."""

    assignments: list[AssignmentAnswer]


class ExposureAnswer(msgspec.Struct, frozen=True):
    """Whether an exposure was queued. A unit must be enrolled, not logged before, with the arm and version in force."""

    logged: bool
    reason: str


class ExposuresAnswer(msgspec.Struct, frozen=True):
    """One result for each exposure, in the order of the request."""

    exposures: list[ExposureAnswer]


class TokenAnswer(msgspec.Struct, frozen=True):
    """The unit id of each user, in the order of the request."""

    units: list[str]


class ErasedAnswer(msgspec.Struct, frozen=True):
    """Whether the user had a unit id."""

    erased: bool


class PublishedAnswer(msgspec.Struct, frozen=True):
    """The version that was published."""

    experiment: str
    version: int


class ScheduledAnswer(msgspec.Struct, frozen=True):
    """The number of the scheduled command."""

    id: int


class ClearedAnswer(msgspec.Struct, frozen=True):
    """Whether an override existed."""

    cleared: bool


class ExperimentAnswer(msgspec.Struct, frozen=True):
    """An experiment: its state, newest version, history and scheduled commands."""

    summary: ExperimentSummary
    latest: Version | None
    history: list[Transition]
    scheduled: list[Scheduled]


class ExperimentsAnswer(msgspec.Struct, frozen=True):
    """All experiments, sorted by key."""

    experiments: list[ExperimentSummary]


class VersionsAnswer(msgspec.Struct, frozen=True):
    """All versions, oldest first."""

    versions: list[Version]


class LayersAnswer(msgspec.Struct, frozen=True):
    """All layers, sorted by key."""

    layers: list[LayerSummary]


class LayerAnswer(msgspec.Struct, frozen=True):
    """The layer that was created."""

    layer: str


class MetricsAnswer(msgspec.Struct, frozen=True):
    """The newest version of each metric, sorted by key."""

    metrics: list[MetricVersion]


class PublishedMetrics(msgspec.Struct, frozen=True):
    """The version of each metric of the request; an unchanged metric keeps its version."""

    versions: dict[str, int]


class AuditAnswer(msgspec.Struct, frozen=True):
    """Entries, newest first. For the next page, send the last id as `before`."""

    entries: list[AuditEntry]


class Health(msgspec.Struct, frozen=True):
    """The process is running."""

    status: Literal["ok"]


class Readiness(msgspec.Struct, frozen=True):
    """Whether configs are loaded, their age in seconds, and whether they are too old."""

    ready: bool
    stale: bool
    experiments: int
    age_s: float | None
