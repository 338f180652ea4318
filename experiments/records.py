"""What the store returns: transitions, versions, summaries, audit entries and scheduled commands."""

from typing import Any

import msgspec

from experiments.config import ExperimentConfig, ExperimentState
from experiments.lifecycle import Action, Decision


class Transition(msgspec.Struct, frozen=True):
    """One step in an experiment's history. The last one has the experiment's state.

    Attributes:
        sequence: Number of the step, from 1.
        state: State from this step on.
        version: Version in force from this step on; None for a draft.
        outcome: How the experiment ended, once it is decided.
        at: Time in microseconds UTC.
        actor: Who did it.
        reason: Why.
        evidence: What a guardrail was judged by.
    """

    sequence: int
    state: ExperimentState
    version: int | None
    outcome: Decision | None
    at: int
    actor: str
    reason: str
    evidence: dict[str, Any] | None = None


class Version(msgspec.Struct, frozen=True):
    """A published config.

    Attributes:
        version: Number of the version, from 1.
        phase: Phase of the experiment; versions of one phase have the same draws.
        sha256: SHA-256 of the config's canonical JSON, in hexadecimal.
        created_at: Time in microseconds UTC.
        created_by: Who published it.
        config: The config.
    """

    version: int
    phase: int
    sha256: str
    created_at: int
    created_by: str
    config: ExperimentConfig


class ExperimentSummary(msgspec.Struct, frozen=True):
    """An experiment in a list.

    Attributes:
        key: Key of the experiment.
        state: Its state.
        version: Version in force; None for a draft.
        phase: Its phase, from 1.
        since: Time of the last transition in microseconds UTC.
    """

    key: str
    state: ExperimentState
    version: int | None
    phase: int
    since: int


class AuditEntry(msgspec.Struct, frozen=True):
    """Who did what, when and why. `at` is microseconds UTC."""

    id: int
    at: int
    actor: str
    action: str
    subject: str
    reason: str
    detail: dict[str, Any]


class Scheduled(msgspec.Struct, frozen=True):
    """A scheduled command.

    Attributes:
        id: Number of the command.
        experiment: Key of the experiment.
        at: Earliest time to run it, in microseconds UTC.
        action: What to do.
        coverage: Coverage of a ramp, in 1/10,000.
        actor: Who scheduled it.
        reason: Why.
        result: done, failed or cancelled; None while the command is pending.
        detail: Why the command failed or was cancelled.
    """

    id: int
    experiment: str
    at: int
    action: Action
    coverage: int | None
    actor: str
    reason: str
    result: str | None = None
    detail: str = ""
