"""The circuit breaker opens on silence, lets one probe through at a time, and closes after an answer."""

from __future__ import annotations

import pytest

from inference.triton.circuit import CircuitBreaker, CircuitState


class Time:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def broken(time: Time, failures: int = 3) -> CircuitBreaker:
    breaker = CircuitBreaker(failures=failures, pause_s=2.0, clock=time)
    for _ in range(failures):
        assert breaker.allows()
        breaker.failed("no route")
    return breaker


def test_it_opens_after_so_many_failures_in_a_row_and_says_why() -> None:
    breaker = broken(Time())
    assert not breaker.allows()
    assert breaker.state is CircuitState.OPEN
    assert (
        breaker.reason == "the last 3 requests got no answer (last failure: no route); one request is tried every 2 s"
    )


def test_an_answer_between_failures_keeps_it_closed() -> None:
    breaker = CircuitBreaker(failures=3, clock=Time())
    for _ in range(5):
        breaker.failed("no route")
        breaker.failed("no route")
        breaker.answered()
    assert breaker.state is CircuitState.CLOSED
    assert breaker.allows()


def test_after_the_pause_one_probe_goes_and_its_answer_closes_it() -> None:
    breaker = broken(time := Time())
    time.now += 1.9
    assert not breaker.allows()
    time.now += 0.1
    assert breaker.allows()
    assert breaker.state is CircuitState.HALF_OPEN
    assert not breaker.allows(), "one at a time"
    breaker.answered()
    assert breaker.state is CircuitState.CLOSED
    assert breaker.allows()
    assert breaker.allows()


def test_a_probe_that_fails_opens_it_for_another_pause() -> None:
    breaker = broken(time := Time())
    time.now += 2
    assert breaker.allows()
    time.now += 1
    breaker.failed("still no route")
    assert breaker.state is CircuitState.OPEN
    time.now += 1.9
    assert not breaker.allows()
    time.now += 0.1
    assert breaker.allows()


def test_a_probe_that_was_given_up_does_not_hold_the_next_one_up() -> None:
    """For instance, its caller was cancelled and never reports the result."""
    breaker = broken(time := Time())
    time.now += 2
    assert breaker.allows()
    time.now += 2
    assert breaker.allows()


@pytest.mark.parametrize("options", [{"failures": 0}, {"pause_s": 0.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        CircuitBreaker(**options)  # type: ignore[arg-type]
