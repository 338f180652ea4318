"""The monitor of one consumer: its health, its metrics, and a thread that measures its lag."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sagelift.observability.health import Health, HealthState, Signs, assess
from sagelift.observability.metrics import LiveValues, WorkerMetrics

if TYPE_CHECKING:
    from inference.triton.circuit import CircuitBreaker
    from streaming.consumer.loop import ConsumerLoop
    from streaming.consumer.poison import PoisonGuard
    from streaming.kafka.lag import LagMeter

log = logging.getLogger(__name__)

LAG_EVERY_S = 5.0
"""Seconds between two measurements of the lag."""
FIRST_LAG_S = 0.5
"""Seconds before the first measurement: the topic may be new."""


class Monitor:
    """Observes one consumer. Set `loop`, `poison` and `circuit` as soon as they exist.

    Args:
        consumer: Name of the consumer.
        stop: Set when the consumer must stop.
        lag_every_s: Seconds between two measurements of the lag.

    Attributes:
        consumer: Name of the consumer.
        stop: Set when the consumer must stop.
        metrics: The observer for the parts of the consumer.
        loop: Its loop.
        poison: Its poison guard.
        circuit: Its circuit breaker to Triton.
        ended: State and reason, if an error ended it.
    """

    def __init__(self, consumer: str, stop: threading.Event | None = None, *, lag_every_s: float = LAG_EVERY_S) -> None:
        self.consumer, self.stop = consumer, stop or threading.Event()
        self.metrics = WorkerMetrics(consumer, version("sagelift"), self._live)
        self.loop: ConsumerLoop | None = None
        self.poison: PoisonGuard | None = None
        self.circuit: CircuitBreaker | None = None
        self.ended: tuple[HealthState, str] | None = None
        self._lag: Mapping[int, int] = {}
        self._lag_every_s = lag_every_s

    def health(self) -> Health:
        """Return the current health."""
        loop, ended = self.loop, self.ended
        if ended is None and self.poison is not None and self.poison.tripped is not None:
            ended = HealthState.POISONED, self.poison.tripped
        if loop is None:
            return assess(Signs(stopping=self.stop.is_set(), ended=ended))
        age = time.monotonic() - loop.last_poll
        return assess(Signs(loop.partitions, loop.failing, age, self.stop.is_set(), ended))

    def end(self, error: Exception) -> tuple[HealthState, str]:
        """Record the error that ended the consumer; return state and reason."""
        from streaming.errors import PoisonRateError

        state = HealthState.POISONED if isinstance(error, PoisonRateError) else HealthState.FAILED
        self.ended = state, str(error) or type(error).__name__
        return self.ended

    def facts(self) -> dict[str, Any]:
        """Return the fields of the HTTP answers other than the health."""
        return {"consumer": self.consumer, "partitions": sorted(self._partitions())}

    @contextmanager
    def measuring_lag(self, meter: Callable[[], LagMeter]) -> Iterator[None]:
        """Measure the lag in a thread until the block ends. While the broker does not answer, the metric is absent."""
        ended = threading.Event()
        thread = threading.Thread(target=self._measure_lag, args=(meter, ended), name="lag", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def _measure_lag(self, make: Callable[[], LagMeter], ended: threading.Event) -> None:
        from streaming.errors import StreamingError

        meter: LagMeter | None = None
        pause = min(FIRST_LAG_S, self._lag_every_s)
        while not ended.wait(pause):
            pause = self._lag_every_s
            try:
                meter = meter or make()
                self._lag = meter.by_partition()
            except StreamingError as error:
                log.debug("%s", error)
                self._lag = {}
                if meter is not None:  # kafka-python leaks a socket at each failed call
                    meter.close()
                    meter = None
        if meter is not None:
            meter.close()

    def _partitions(self) -> frozenset[int]:
        return (self.loop and self.loop.partitions) or frozenset()

    def _live(self) -> LiveValues:
        loop, mine = self.loop, self._partitions()
        return LiveValues(
            state=self.health().state,
            partitions=len(mine),
            lag={number: lag for number, lag in self._lag.items() if number in mine},
            in_flight=0 if loop is None else loop.records_in_flight,
            poison_share=None if self.poison is None else self.poison.share,
            circuit=None if self.circuit is None else self.circuit.state,
            last_poll=None if loop is None else time.time() - (time.monotonic() - loop.last_poll),
        )
