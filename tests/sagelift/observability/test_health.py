"""The health of a consumer is one state: of several signs the worst decides."""

import pytest

from sagelift.observability.health import STUCK_S, HealthState, Signs, assess

READING = Signs(frozenset({0, 1}), poll_age_s=0.5)


@pytest.mark.parametrize(
    ("signs", "state", "alive", "ready"),
    [
        pytest.param(Signs(), HealthState.STARTING, True, False, id="no loop yet"),
        pytest.param(Signs(poll_age_s=0.5), HealthState.STARTING, True, False, id="not yet in its group"),
        pytest.param(READING, HealthState.RUNNING, True, True, id="reads"),
        pytest.param(
            READING._replace(partitions=frozenset()), HealthState.STANDBY, True, True, id="nothing left to read"
        ),
        pytest.param(
            READING._replace(failing="Triton does not answer"), HealthState.BACKING_OFF, True, False, id="waits"
        ),
        pytest.param(READING._replace(stopping=True), HealthState.STOPPING, True, False, id="told to stop"),
        pytest.param(READING._replace(poll_age_s=STUCK_S + 1), HealthState.STUCK, False, False, id="hangs"),
        pytest.param(
            READING._replace(poll_age_s=STUCK_S + 1, stopping=True),
            HealthState.STUCK,
            False,
            False,
            id="hangs at the end",
        ),
        pytest.param(
            READING._replace(ended=(HealthState.POISONED, "garbage"), stopping=True),
            HealthState.POISONED,
            True,
            False,
            id="poison",
        ),
    ],
)
def test_the_worst_sign_decides_the_state(signs: Signs, state: HealthState, alive: bool, ready: bool) -> None:
    health = assess(signs)
    assert (health.state, health.alive, health.ready) == (state, alive, ready)


def test_the_reason_is_that_of_the_loop() -> None:
    assert assess(READING._replace(failing="Unavailable: Triton")).reason == "Unavailable: Triton"
    assert assess(READING._replace(ended=(HealthState.FAILED, "disk"))).reason == "disk"
