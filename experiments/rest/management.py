"""Experiments over REST: the methods of `ExperimentStore` and the commands, under the same names."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from experiments.api_keys import ApiKey
from experiments.config import ExperimentState, Override
from experiments.errors import UnknownExperimentError
from experiments.metrics import definitions
from experiments.records import Scheduled, Transition, Version
from experiments.rest import documents as d
from experiments.rest.auth import Auth
from experiments.rest.bodies import answer, read
from experiments.rest.openapi import described
from experiments.rest.problems import Problem
from experiments.store import ExperimentStore
from experiments.text_rules import text_problem
from experiments.times import epoch_us

Key = Annotated[str, Path(description="An experiment's key.", max_length=64)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Checks = Callable[[Request], ApiKey]


def router(store: ExperimentStore, auth: Auth, changed: Callable[[], Any]) -> APIRouter:
    """Return the routes that read and change experiments.

    Args:
        store: The experiment store.
        auth: Checks the API keys.
        changed: Called after every change, so that this process serves the change at once.
    """
    routes = APIRouter(prefix="/v1", tags=["experiments"])
    _add_reading(routes, store, auth)
    editor = auth.needs("edit")
    edits = APIRouter(dependencies=[Depends(editor)])  # check the key before the body is read
    for add in (_add_publishing, _add_steps, _add_later):
        add(edits, store, editor, changed)
    _add_shared(edits, store, editor)
    routes.include_router(edits)
    return routes


def _add_reading(routes: APIRouter, store: ExperimentStore, auth: Auth) -> None:
    reads, administers = Depends(auth.needs("read")), Depends(auth.needs("admin"))

    @routes.get("/experiments", dependencies=[reads], **described(None, d.ExperimentsAnswer))
    def list_experiments() -> Response:
        """Return all experiments with their states."""
        return answer(d.ExperimentsAnswer(store.experiments()))

    @routes.get("/experiments/{key}", dependencies=[reads], **described(None, d.ExperimentAnswer))
    def get_experiment(key: Key) -> Response:
        """Return one experiment with its newest version, its history and its scheduled commands."""
        history = store.history(_text(key))
        (summary,) = (each for each in store.experiments() if each.key == key)
        versions = store.versions(key)
        return answer(d.ExperimentAnswer(summary, versions[-1] if versions else None, history, store.scheduled(key)))

    @routes.get("/experiments/{key}/versions", dependencies=[reads], **described(None, d.VersionsAnswer))
    def list_versions(key: Key) -> Response:
        """Return all published configs of an experiment."""
        return answer(d.VersionsAnswer(store.versions(_text(key))))

    @routes.get("/experiments/{key}/versions/{number}", dependencies=[reads], **described(None, Version))
    def get_version(key: Key, number: Number) -> Response:
        """Return one published config, with the SHA-256 of its canonical JSON."""
        return answer(store.version(_text(key), number))

    @routes.get("/layers", dependencies=[reads], **described(None, d.LayersAnswer))
    def list_layers() -> Response:
        """Return all layers with their held and free parts."""
        return answer(d.LayersAnswer(store.layers()))

    @routes.get("/metrics", dependencies=[reads], **described(None, d.MetricsAnswer))
    def list_metrics() -> Response:
        """Return the newest version of all metrics."""
        return answer(d.MetricsAnswer(store.metrics()))

    @routes.get("/audit", dependencies=[administers], **described(None, d.AuditAnswer))
    def audit(
        subject: Annotated[
            str | None,
            Query(max_length=64, description="Key of an experiment, layer or metric, id of an API key, or unit_token."),
        ] = None,
        before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """Return who did what, when and why, newest first."""
        subject = None if subject is None else _text(subject)
        return answer(d.AuditAnswer(store.audit(subject, before=before, limit=limit)))


def _add_publishing(routes: APIRouter, store: ExperimentStore, editor: Checks, changed: Callable[[], Any]) -> None:
    Editor = Annotated[ApiKey, Depends(editor)]
    Sent = Annotated[d.Publication, Depends(read(d.Publication))]

    @routes.post("/experiments/{key}/publish", **described(d.Publication, d.PublishedAnswer))
    def publish(key: Key, sent: Sent, by: Editor) -> Response:
        """Publish a config as the next version. Creates a new experiment; a live one takes only safe edits."""
        _check_key(key, sent)
        number = store.publish(sent.config, actor=by.name, reason=sent.reason, create=True)
        changed()
        return answer(d.PublishedAnswer(key, number))

    @routes.post("/experiments/{key}/new-phase", **described(d.Publication, d.PublishedAnswer))
    def new_phase(key: Key, sent: Sent, by: Editor) -> Response:
        """Begin a new phase with a new salt, for edits that would move units between arms."""
        _check_key(key, sent)
        number = store.new_phase(sent.config, actor=by.name, reason=sent.reason)
        changed()
        return answer(d.PublishedAnswer(key, number))

    @routes.post("/experiments/{key}/ramp", **described(d.RampRequest, d.PublishedAnswer))
    def ramp(key: Key, sent: Annotated[d.RampRequest, Depends(read(d.RampRequest))], by: Editor) -> Response:
        """Raise the coverage of a live experiment."""
        number = store.ramp(_text(key), sent.coverage, actor=by.name, reason=sent.reason)
        changed()
        return answer(d.PublishedAnswer(key, number))

    @routes.post("/experiments/{key}/hold", **described(d.Reasoned, d.PublishedAnswer))
    def hold(key: Key, sent: Annotated[d.Reasoned, Depends(read(d.Reasoned))], by: Editor) -> Response:
        """Stop a ramp at its current coverage."""
        number = store.hold(_text(key), actor=by.name, reason=sent.reason)
        changed()
        return answer(d.PublishedAnswer(key, number))


def _add_steps(routes: APIRouter, store: ExperimentStore, editor: Checks, changed: Callable[[], Any]) -> None:
    Editor = Annotated[ApiKey, Depends(editor)]

    def step(name: str, state: ExperimentState, summary: str) -> None:
        @routes.post(
            f"/experiments/{{key}}/{name}", name=name, description=summary, **described(d.Reasoned, Transition)
        )
        def take(key: Key, sent: Annotated[d.Reasoned, Depends(read(d.Reasoned))], by: Editor) -> Response:
            done = store.transition(_text(key), state, actor=by.name, reason=sent.reason)
            changed()
            return answer(done)

    step("submit", "in_review", "Ask for a review of the last version.")
    step("revise", "draft", "Take an experiment back from review.")
    step("start", "running", "Run a draft, a reviewed experiment or a paused one.")
    step("pause", "paused", "Keep serving the arms, and enrol no new unit.")
    step("stop", "stopped", "Serve the control arm to every unit.")
    step("archive", "archived", "Archive a draft or a decided experiment.")

    @routes.post("/experiments/{key}/decide", **described(d.DecideRequest, Transition))
    def decide(key: Key, sent: Annotated[d.DecideRequest, Depends(read(d.DecideRequest))], by: Editor) -> Response:
        """Record how a stopped experiment ended."""
        done = store.decide(_text(key), sent.outcome, actor=by.name, reason=sent.reason)
        changed()
        return answer(done)


def _add_later(routes: APIRouter, store: ExperimentStore, editor: Checks, changed: Callable[[], Any]) -> None:
    Editor = Annotated[ApiKey, Depends(editor)]

    @routes.post("/experiments/{key}/schedule", **described(d.ScheduleRequest, d.ScheduledAnswer, 201))
    def schedule(
        key: Key, sent: Annotated[d.ScheduleRequest, Depends(read(d.ScheduleRequest))], by: Editor
    ) -> Response:
        """Schedule a command."""
        at = _microseconds("at", sent.at)
        number = store.schedule(_text(key), sent.action, at, coverage=sent.coverage, actor=by.name, reason=sent.reason)
        return answer(d.ScheduledAnswer(number), 201)

    @routes.post("/experiments/{key}/schedule/{number}/cancel", **described(d.Reasoned, Scheduled))
    def cancel(
        key: Key, number: Number, sent: Annotated[d.Reasoned, Depends(read(d.Reasoned))], by: Editor
    ) -> Response:
        """Cancel a scheduled command."""
        if not any(command.id == number for command in store.scheduled(_text(key), pending=True)):
            raise UnknownExperimentError(f"experiment {key!r} has no pending command {number}.")
        store.cancel(number, actor=by.name, reason=sent.reason)
        (done,) = (each for each in store.scheduled(key) if each.id == number)
        return answer(done)

    @routes.post("/experiments/{key}/override", **described(d.OverrideRequest, d.ClearedAnswer))
    def override(
        key: Key, sent: Annotated[d.OverrideRequest, Depends(read(d.OverrideRequest))], by: Editor
    ) -> Response:
        """Force an arm on one unit until a time, for a manual test. No answer lists overrides."""
        forced = Override(sent.unit, sent.arm, _microseconds("expires_at", sent.expires_at))
        store.force_arm(_text(key), forced, actor=by.name, reason=sent.reason)
        changed()
        return answer(d.ClearedAnswer(False))

    @routes.post("/experiments/{key}/clear-override", **described(d.ClearOverrideRequest, d.ClearedAnswer))
    def clear_override(
        key: Key, sent: Annotated[d.ClearOverrideRequest, Depends(read(d.ClearOverrideRequest))], by: Editor
    ) -> Response:
        """Remove a unit's override."""
        cleared = store.clear_arm(_text(key), sent.unit, actor=by.name, reason=sent.reason)
        changed()
        return answer(d.ClearedAnswer(cleared))


def _add_shared(routes: APIRouter, store: ExperimentStore, editor: Checks) -> None:
    Editor = Annotated[ApiKey, Depends(editor)]

    @routes.post("/layers/{key}/create", **described(d.LayerRequest, d.LayerAnswer, 201))
    def create_layer(key: Key, sent: Annotated[d.LayerRequest, Depends(read(d.LayerRequest))], by: Editor) -> Response:
        """Create a layer, which experiments may name from then on."""
        store.create_layer(_text(key), actor=by.name, reason=sent.reason, description=sent.description)
        return answer(d.LayerAnswer(key), 201)

    @routes.post("/metrics/publish", **described(d.MetricsRequest, d.PublishedMetrics))
    def publish_metrics(sent: Annotated[d.MetricsRequest, Depends(read(d.MetricsRequest))], by: Editor) -> Response:
        """Publish each metric as its next version, all or none."""
        versions = store.publish_metrics(definitions(sent.metrics), actor=by.name, reason=sent.reason)
        return answer(d.PublishedMetrics(versions))


def _check_key(key: str, sent: d.Publication) -> None:
    if sent.config.key != key:
        raise Problem(
            422,
            "Request refused",
            value=sent.config.key,
            rule=f"the config's key must be that of the path, {key!r}",
            remedy="make them equal",
        )


def _text(value: str) -> str:
    """Return a text of the path or query if a database can store it."""
    if text_problem(value):
        raise Problem(404, "Not found", rule="a name is plain text", remedy="list them with GET /v1/experiments")
    return value


def _microseconds(field: str, at: datetime) -> int:
    if at.tzinfo is None:
        raise Problem(
            422,
            "Request refused",
            value=at.isoformat(),
            rule=f"{field} must have a time zone",
            remedy="end it with Z for UTC",
        )
    return epoch_us(at)
