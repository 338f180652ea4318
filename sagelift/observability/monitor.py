"""One consumer as seen from outside: its loop's signs, its metrics, and the thread that asks how far it is behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sagelift.observability.health import Health, Signs, State, judge
from sagelift.observability.metrics import Live, WorkerMetrics

if TYPE_CHECKING:
    from inference.failures import CircuitBreaker
    from streaming.consumer.loop import ConsumerLoop
    from streaming.consumer.poison import PoisonGuard
    from streaming.kafka.lag import LagMeter

log = logging.getLogger(__name__)

LAG_EVERY_S = 5.0


class Monitor:
    """Knows how one consumer is; `metrics` is the observer to give to its parts.

    Attributes:
        loop, poison, circuit: to be set as soon as they are made.
        stop: set when the consumer is to stop.
        ended: set when an error ended it.
    """

    def __init__(self, consumer: str, stop: threading.Event | None = None) -> None:
        self.consumer, self.stop = consumer, stop or threading.Event()
        self.metrics = WorkerMetrics(consumer, version("sagelift"), self._live)
        self.loop: ConsumerLoop | None = None
        self.poison: PoisonGuard | None = None
        self.circuit: CircuitBreaker | None = None
        self.ended: tuple[State, str] | None = None
        self._lag: Mapping[int, int] = {}

    def health(self) -> Health:
        """As of now."""
        loop, ended = self.loop, self.ended
        if ended is None and self.poison is not None and self.poison.tripped is not None:
            ended = State.POISONED, self.poison.tripped
        if loop is None:
            return judge(Signs(stopping=self.stop.is_set(), ended=ended))
        age = time.monotonic() - loop.last_poll
        return judge(Signs(loop.partitions, loop.failing, age, self.stop.is_set(), ended))

    def end(self, error: Exception) -> tuple[State, str]:
        """Note that this error ended it; returns state and reason."""
        from streaming.errors import PoisonRateError

        state = State.POISONED if isinstance(error, PoisonRateError) else State.FAILED
        self.ended = state, str(error) or type(error).__name__
        return self.ended

    def facts(self) -> dict[str, Any]:
        """For the answers over HTTP, besides the state."""
        return {"consumer": self.consumer, "partitions": sorted(self._partitions())}

    @contextmanager
    def measuring_lag(self, meter: Callable[[], LagMeter]) -> Iterator[None]:
        """Ask the broker again and again; a lag that is not known is not shown."""
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
        pause = 0.5  # until the first: the topic may be made just now
        while not ended.wait(pause):
            pause = LAG_EVERY_S
            try:
                meter = meter or make()
                self._lag = meter.by_partition()
            except StreamingError as error:
                log.debug("%s", error)
                self._lag = {}
                if meter is not None:  # kafka-python leaks a socket for each time that it calls in vain
                    meter.close()
                    meter = None
        if meter is not None:
            meter.close()

    def _partitions(self) -> frozenset[int]:
        return (self.loop and self.loop.partitions) or frozenset()

    def _live(self) -> Live:
        loop, mine = self.loop, self._partitions()
        return Live(
            state=self.health().state,
            partitions=len(mine),
            lag={number: lag for number, lag in self._lag.items() if number in mine},
            under_way=0 if loop is None else loop.under_way,
            poison_share=None if self.poison is None else self.poison.share,
            circuit=None if self.circuit is None else self.circuit.state,
            last_poll=None if loop is None else time.time() - (time.monotonic() - loop.last_poll),
        )
