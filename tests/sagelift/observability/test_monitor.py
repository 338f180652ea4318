"""A monitor follows its consumer's loop, its poison guard and the broker."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest

from sagelift.observability.health import HealthState
from sagelift.observability.monitor import Monitor
from sagelift.observability.scrape import parse
from streaming.consumer.poison import PoisonGuard, PoisonLimit
from streaming.errors import BrokerError, PoisonRateError
from tests.waiting import wait_until


class Loop:
    """The attributes of a `ConsumerLoop` that a monitor reads."""

    def __init__(self) -> None:
        self.last_poll = time.monotonic()
        self.partitions: frozenset[int] | None = frozenset({0, 2})
        self.failing: str | None = None
        self.records_in_flight = 9


class Meter:
    """Returns or raises the next of `answers`; repeats the last one."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.closed = answers, threading.Event()

    def by_partition(self) -> dict[int, int]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def close(self) -> None:
        self.closed.set()


def watching(loop: Loop, lag_every_s: float = 5.0) -> Monitor:
    monitor = Monitor("catalog", lag_every_s=lag_every_s)
    monitor.loop = loop  # type: ignore[assignment]
    return monitor


def lags(monitor: Monitor) -> dict[str, float]:
    samples = parse(generate_latest(monitor.metrics.registry).decode())
    return {labels["partition"]: value for labels, value in samples.get("sagelift_lag_records", ())}


def test_the_state_follows_the_loop() -> None:
    monitor, loop = Monitor("catalog"), Loop()
    assert monitor.health().state is HealthState.STARTING
    monitor.loop = loop  # type: ignore[assignment]
    assert monitor.health().state is HealthState.RUNNING
    assert monitor.facts() == {"consumer": "catalog", "partitions": [0, 2]}
    loop.failing = "Triton does not answer"
    assert monitor.health()[:2] == (HealthState.BACKING_OFF, "Triton does not answer")
    loop.last_poll -= 100
    assert not monitor.health().alive
    monitor.end(ValueError("disk full"))
    assert monitor.health()[:2] == (HealthState.FAILED, "disk full")


def test_poison_shows_before_the_loop_has_ended() -> None:
    monitor = watching(Loop())
    monitor.poison = PoisonGuard("catalog.updates", PoisonLimit(least=10))
    with pytest.raises(PoisonRateError) as raised:
        monitor.poison.count(1, 10, 10)
    assert monitor.health()[:2] == (HealthState.POISONED, str(raised.value))
    assert monitor.end(raised.value)[0] is HealthState.POISONED


def test_lag_covers_its_own_partitions_and_is_absent_while_the_broker_does_not_answer() -> None:
    monitor = watching(Loop(), lag_every_s=0.01)
    meter = Meter([{0: 4, 1: 100, 2: 6}])
    made: list[Any] = [BrokerError("starting"), meter]

    def make() -> Any:
        meter_or_error = made.pop(0) if len(made) > 1 else made[0]
        if isinstance(meter_or_error, Exception):
            raise meter_or_error
        return meter_or_error

    with monitor.measuring_lag(make):
        wait_until(lambda: lags(monitor) == {"0": 4, "2": 6}, "the lag, once the broker answers")
        meter.answers = [BrokerError("no answer")]
        wait_until(lambda: not lags(monitor), "no lag while it does not answer")
        assert meter.closed.is_set(), "its connection is closed"
        meter.answers = [{0: 1}]
        wait_until(lambda: lags(monitor) == {"0": 1}, "the lag again")
        meter.closed.clear()
    assert meter.closed.wait(10)
