"""How a consumer is, in one word and one sentence, from what is known of its loop. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

STUCK_S = 60.0
"""A loop polls about once a second whatever happens; one that has not for so long hangs."""


class State(StrEnum):
    """What each means and asks for is in docs/operations.md."""

    STARTING = "starting"
    RUNNING = "running"
    STANDBY = "standby"
    BACKING_OFF = "backing_off"
    STOPPING = "stopping"
    STUCK = "stuck"
    POISONED = "poisoned"
    FAILED = "failed"


class Signs(NamedTuple):
    """What is known of a consumer.

    partitions: those that it reads; None before it is a member of its group.
    failing: why it is backing off.
    poll_age_s: how long ago it came back from its last poll; None before its loop began.
    ended: POISONED or FAILED with the reason, once an error ended it.
    """

    partitions: frozenset[int] | None = None
    failing: str | None = None
    poll_age_s: float | None = None
    stopping: bool = False
    ended: tuple[State, str] | None = None


class Health(NamedTuple):
    """`alive`: it still does something, so that a restart would not help. `ready`: it does what it is there for."""

    state: State
    reason: str
    alive: bool
    ready: bool


def judge(signs: Signs) -> Health:
    """The worst that is known counts."""
    if signs.ended is not None:
        return Health(*signs.ended, alive=True, ready=False)
    if signs.poll_age_s is not None and signs.poll_age_s > STUCK_S:
        return Health(State.STUCK, f"no poll came back for {signs.poll_age_s:.0f} s", alive=False, ready=False)
    if signs.stopping:
        return Health(State.STOPPING, "it was told to stop, and finishes what is under way", alive=True, ready=False)
    if signs.failing is not None:
        return Health(State.BACKING_OFF, signs.failing, alive=True, ready=False)
    if signs.poll_age_s is None:
        return Health(State.STARTING, "it is not reading yet", alive=True, ready=False)
    if signs.partitions is None:
        return Health(State.STARTING, "its group has not given it partitions yet", alive=True, ready=False)
    if not signs.partitions:
        return Health(State.STANDBY, "its group has more members than there are partitions", alive=True, ready=True)
    return Health(State.RUNNING, "", alive=True, ready=True)
