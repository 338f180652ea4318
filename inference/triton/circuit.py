"""A circuit breaker: when to stop sending requests to a server that does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum


class CircuitState(StrEnum):
    """State of a `CircuitBreaker`."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Keeps requests away from a server that does not answer (Nygard, Release It!, "Circuit Breaker").

    While the circuit is closed, all requests pass. After `failures` requests in a row without an answer it opens: each
    request is refused at once. Callers learn of the outage without waiting for a time-out, and a restarting server is
    not flooded. Every `pause_s` seconds one request may pass as a probe (half-open). An answer closes the circuit.

    A probe without a reported result does not block others: after the pause the next probe may pass.
    Threads may share one circuit breaker.

    Args:
        failures: Number of unanswered requests in a row that opens the circuit.
        pause_s: Seconds between two probes.
        clock: Returns the time in seconds.

    Raises:
        ValueError: If `failures` or `pause_s` is not positive.
    """

    def __init__(self, *, failures: int = 5, pause_s: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        if failures < 1 or pause_s <= 0:
            raise ValueError(f"failures ({failures}) and pause_s ({pause_s}) must be > 0")
        self._limit, self._pause_s, self._clock = failures, pause_s, clock
        self._lock = threading.Lock()
        self._failed = 0  # in a row
        self._last_reason = ""
        self._next_probe_at = 0.0
        self._probing = False

    @property
    def state(self) -> CircuitState:
        """Closed, open, or half-open while a probe is in flight."""
        if self.closed:
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if self._probing else CircuitState.OPEN

    @property
    def closed(self) -> bool:
        """Whether requests pass."""
        return self._failed < self._limit

    @property
    def reason(self) -> str:
        """Why the circuit is open, as text for a person."""
        return (
            f"the last {self._failed} requests got no answer (last failure: {self._last_reason}); one request is tried "
            f"every {self._pause_s:g} s"
        )

    def allows(self) -> bool:
        """Return whether a request may be sent now. While the circuit is not closed, that request is the probe."""
        with self._lock:
            if self._failed < self._limit:
                return True
            now = self._clock()
            if now < self._next_probe_at:
                return False
            self._next_probe_at, self._probing = now + self._pause_s, True
            return True

    def answered(self) -> None:
        """Record that the server answered, even with an error."""
        with self._lock:
            self._failed, self._probing = 0, False

    def failed(self, reason: str) -> None:
        """Record that a request got no answer.

        Args:
            reason: Why, as text for a person.
        """
        with self._lock:
            self._failed, self._last_reason, self._probing = self._failed + 1, reason, False
            self._next_probe_at = self._clock() + self._pause_s
