"""The health of a consumer: one state and one sentence, from the signs of its loop. Pure functions."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

STUCK_S = 60.0
"""A loop polls about once a second. If no poll returns within this time, the loop hangs."""


class HealthState(StrEnum):
    """The states of a consumer; docs/operators/consumers.md says what to do in each."""

    STARTING = "starting"
    RUNNING = "running"
    STANDBY = "standby"
    BACKING_OFF = "backing_off"
    STOPPING = "stopping"
    STUCK = "stuck"
    POISONED = "poisoned"
    FAILED = "failed"


class Signs(NamedTuple):
    """The signs of a consumer's loop.

    Attributes:
        partitions: Partitions that it reads; None before it has joined its group.
        failing: Why it is backing off; None if it is not.
        poll_age_s: Seconds since its last poll returned; None before the loop began.
        stopping: Whether it received a signal to stop.
        ended: POISONED or FAILED and the reason, if an error ended it.
    """

    partitions: frozenset[int] | None = None
    failing: str | None = None
    poll_age_s: float | None = None
    stopping: bool = False
    ended: tuple[HealthState, str] | None = None


class Health(NamedTuple):
    """The health of a consumer.

    Attributes:
        state: Its state.
        reason: Why it is in this state; empty if it runs.
        alive: Whether the loop makes progress. If it does not, a restart may help.
        ready: Whether the consumer does its work or can take over at once.
    """

    state: HealthState
    reason: str
    alive: bool
    ready: bool


def assess(signs: Signs) -> Health:
    """Return the health; the worst sign decides."""
    if signs.ended is not None:
        return Health(*signs.ended, alive=True, ready=False)
    if signs.poll_age_s is not None and signs.poll_age_s > STUCK_S:
        reason = f"no poll has returned for {signs.poll_age_s:.0f} s"
        return Health(HealthState.STUCK, reason, alive=False, ready=False)
    if signs.stopping:
        reason = "it received a signal to stop and finishes the work in flight"
        return Health(HealthState.STOPPING, reason, alive=True, ready=False)
    if signs.failing is not None:
        return Health(HealthState.BACKING_OFF, signs.failing, alive=True, ready=False)
    if signs.poll_age_s is None:
        return Health(HealthState.STARTING, "it does not read yet", alive=True, ready=False)
    if signs.partitions is None:
        reason = "its group has not assigned partitions to it yet"
        return Health(HealthState.STARTING, reason, alive=True, ready=False)
    if not signs.partitions:
        reason = "its group has more members than the topic has partitions"
        return Health(HealthState.STANDBY, reason, alive=True, ready=True)
    return Health(HealthState.RUNNING, "", alive=True, ready=True)
