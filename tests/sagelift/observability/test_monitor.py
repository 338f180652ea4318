"""A monitor's view of a consumer follows its loop, its poison guard and the broker."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest

from sagelift.observability import monitor as module
from sagelift.observability.health import State
from sagelift.observability.monitor import Monitor
from sagelift.observability.stream_status import parse
from streaming.consumer.poison import PoisonGuard, PoisonLimit
from streaming.errors import BrokerError, PoisonRateError


class Loop:
    """What a monitor looks at of a `ConsumerLoop`."""

    def __init__(self) -> None:
        self.last_poll = time.monotonic()
        self.partitions: frozenset[int] | None = frozenset({0, 2})
        self.failing: str | None = None
        self.under_way = 9


class Meter:
    """Answers with what is next in `answers`; the last one again and again."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.closed = answers, threading.Event()

    def by_partition(self) -> dict[int, int]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def close(self) -> None:
        self.closed.set()


def watching(loop: Loop) -> Monitor:
    found = Monitor("catalog")
    found.loop = loop  # type: ignore[assignment]
    return found


def lags(monitor: Monitor) -> dict[str, float]:
    samples = parse(generate_latest(monitor.metrics.registry).decode())
    return {labels["partition"]: value for labels, value in samples.get("sagelift_lag_records", ())}


def until(condition: Any, what: str) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def test_the_state_follows_the_loop() -> None:
    monitor, loop = Monitor("catalog"), Loop()
    assert monitor.health().state is State.STARTING
    monitor.loop = loop  # type: ignore[assignment]
    assert monitor.health().state is State.RUNNING
    assert monitor.facts() == {"consumer": "catalog", "partitions": [0, 2]}
    loop.failing = "Triton is away"
    assert monitor.health()[:2] == (State.BACKING_OFF, "Triton is away")
    loop.last_poll -= 100
    assert not monitor.health().alive
    monitor.end(ValueError("disk full"))
    assert monitor.health()[:2] == (State.FAILED, "disk full")


def test_poison_is_told_while_the_loop_still_ends() -> None:
    monitor = watching(Loop())
    monitor.poison = PoisonGuard("catalog.updates", PoisonLimit(least=10))
    with pytest.raises(PoisonRateError) as raised:
        monitor.poison.count(1, 10, 10)
    assert monitor.health()[:2] == (State.POISONED, str(raised.value))
    assert monitor.end(raised.value)[0] is State.POISONED


def test_lag_is_that_of_its_own_partitions_and_unknown_when_the_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAG_EVERY_S", 0.01)
    monitor = watching(Loop())
    meter = Meter([{0: 4, 1: 100, 2: 6}])
    made: list[Any] = [BrokerError("starting"), meter]

    def make() -> Any:
        found = made.pop(0) if len(made) > 1 else made[0]
        if isinstance(found, Exception):
            raise found
        return found

    with monitor.measuring_lag(make):
        until(lambda: lags(monitor) == {"0": 4, "2": 6}, "the lag, once the broker answers")
        meter.answers = [BrokerError("away")]
        until(lambda: not lags(monitor), "no lag while it is away")
        assert meter.closed.is_set(), "its connection is given back"
        meter.answers = [{0: 1}]
        until(lambda: lags(monitor) == {"0": 1}, "the lag again")
        meter.closed.clear()
    assert meter.closed.wait(10)
