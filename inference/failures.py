"""What a failed request to Triton asks for, and when to stop asking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum, StrEnum

import grpc


class Failure(Enum):
    """What a failed request asks for."""

    REJECTED = "the request is wrong in itself: halve it, or reject its only product"
    TRANSIENT = "send it again later"
    MISSING = "the model is not loaded: give a restarting server a moment, then give up"
    DEAD = "the model's process died, and Triton will not replace it: reload the model, then send it again"
    FATAL = "no use in sending it again"


_TRANSIENT_CODES = frozenset(
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    ]
)


def classify(code: grpc.StatusCode, details: str) -> Failure:
    """The kind of a failure, from Triton's status code and message (as of Triton 2.51)."""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return Failure.REJECTED
    if code is grpc.StatusCode.NOT_FOUND:
        return Failure.MISSING
    if code is grpc.StatusCode.INTERNAL and ("not healthy" in details or "health mutex" in details):
        return Failure.DEAD
    if code is grpc.StatusCode.UNAVAILABLE and "restricted" in details:  # a wrong key for a protected interface
        return Failure.FATAL
    return Failure.TRANSIENT if code in _TRANSIENT_CODES else Failure.FATAL


_SILENCE = frozenset([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])


def is_silence(code: grpc.StatusCode) -> bool:
    """Whether a failure says that the server did not answer, rather than what it answered."""
    return code in _SILENCE


class Circuit(StrEnum):
    """State of a `CircuitBreaker`."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Keeps requests from a server that does not answer (Nygard, Release It!, "Circuit Breaker").

    Closed, all requests go. After `failures` of them in a row without an answer it opens: then each is refused at once,
    so that whoever waits for the server learns of it now and not after a time-out, and the server comes up without a
    crowd at its door. Every `pause_s` one may go as a probe (half-open); an answer closes the circuit again.

    A probe that is given up without having been told of holds nothing up: after the pause the next one goes.
    Safe to share between threads.
    """

    def __init__(self, *, failures: int = 5, pause_s: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        if failures < 1 or pause_s <= 0:
            raise ValueError(f"failures ({failures}) and pause_s ({pause_s}) must be > 0")
        self._limit, self._pause_s, self._clock = failures, pause_s, clock
        self._lock = threading.Lock()
        self._failed = 0  # in a row
        self._last = ""
        self._probe_at = 0.0
        self._probing = False

    @property
    def state(self) -> Circuit:
        """Closed, open, or half-open while a probe is under way."""
        if self.closed:
            return Circuit.CLOSED
        return Circuit.HALF_OPEN if self._probing else Circuit.OPEN

    @property
    def closed(self) -> bool:
        """Whether requests go."""
        return self._failed < self._limit

    @property
    def reason(self) -> str:
        """Why it is open, for a person."""
        return (
            f"{self._failed} requests in a row were not served, the last: {self._last}; one is tried every "
            f"{self._pause_s:g} s"
        )

    def allows(self) -> bool:
        """Whether a request may be sent now; when the circuit is not closed, it is the probe."""
        with self._lock:
            if self._failed < self._limit:
                return True
            now = self._clock()
            if now < self._probe_at:
                return False
            self._probe_at, self._probing = now + self._pause_s, True
            return True

    def answered(self) -> None:
        """The server answered something, be it a refusal."""
        with self._lock:
            self._failed, self._probing = 0, False

    def failed(self, reason: str) -> None:
        """A request had no answer."""
        with self._lock:
            self._failed, self._last, self._probing = self._failed + 1, reason, False
            self._probe_at = self._clock() + self._pause_s
