"""One word for how a consumer is: the worst that is known counts."""

import pytest

from sagelift.observability.health import STUCK_S, Signs, State, judge

READING = Signs(frozenset({0, 1}), poll_age_s=0.5)


@pytest.mark.parametrize(
    ("signs", "state", "alive", "ready"),
    [
        pytest.param(Signs(), State.STARTING, True, False, id="no loop yet"),
        pytest.param(Signs(poll_age_s=0.5), State.STARTING, True, False, id="not yet in its group"),
        pytest.param(READING, State.RUNNING, True, True, id="reads"),
        pytest.param(READING._replace(partitions=frozenset()), State.STANDBY, True, True, id="nothing left to read"),
        pytest.param(READING._replace(failing="Triton is away"), State.BACKING_OFF, True, False, id="waits"),
        pytest.param(READING._replace(stopping=True), State.STOPPING, True, False, id="told to stop"),
        pytest.param(READING._replace(poll_age_s=STUCK_S + 1), State.STUCK, False, False, id="hangs"),
        pytest.param(
            READING._replace(poll_age_s=STUCK_S + 1, stopping=True), State.STUCK, False, False, id="hangs at the end"
        ),
        pytest.param(
            READING._replace(ended=(State.POISONED, "garbage"), stopping=True), State.POISONED, True, False, id="poison"
        ),
    ],
)
def test_what_is_known_makes_one_state(signs: Signs, state: State, alive: bool, ready: bool) -> None:
    found = judge(signs)
    assert (found.state, found.alive, found.ready) == (state, alive, ready)


def test_the_reason_is_the_loops_own() -> None:
    assert judge(READING._replace(failing="Unavailable: Triton")).reason == "Unavailable: Triton"
    assert judge(READING._replace(ended=(State.FAILED, "disk"))).reason == "disk"
