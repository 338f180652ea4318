"""Send the requests of one call: several in flight, each failure handled by its kind, each answer checked.

* A retryable failure is retried with jittered back-off until the time limit.
* A rejected batch is halved until only the bad product is left.
* A dead model process is replaced, then the request is sent again.
* Every other failure raises an error.
* While a `CircuitBreaker` is open, nothing is sent.
* An answer must have the requested version, the right shape and finite numbers.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import numpy as np

from inference.arrays import Float32Array, Int64Array
from inference.errors import ServingError, Unavailable
from inference.inputs import VECTOR_DIM
from inference.triton.circuit import CircuitBreaker
from inference.triton.failures import Failure, classify, is_silence
from inference.triton.requests import Chunk, encode_request

_MISSING_GRACE_S = 10.0  # a server that has just restarted has no model loaded for a short time


class Job(NamedTuple):
    """One call: its model, and its answers."""

    model: str
    version: str
    vectors: Float32Array  # [B, 256]
    rejected: dict[int, str]  # row -> reason

    @classmethod
    def of(cls, model: str, version: str, rows: int) -> Job:
        """Return a job without answers: all vectors are NaN, no row is rejected."""
        return cls(model, version, np.full((rows, VECTOR_DIM), np.nan, np.float32), {})


@dataclass(frozen=True)
class Limits:
    """The limits of one call.

    Attributes:
        deadline_s: Seconds until one request times out.
        max_elapsed_s: Seconds for which one request is retried.
        window: Number of requests in flight.
    """

    deadline_s: float
    max_elapsed_s: float
    window: int


@dataclass(frozen=True)
class Timing:
    """Clock, sleep and random numbers; tests replace them."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[], float] = random.random  # 0 to 1


class _Sent(NamedTuple):
    chunk: Chunk
    call: Any
    started_at: float  # first attempt
    sent_at: float  # this attempt
    attempt: int


class Dispatcher:
    """Sends requests to one server. Threads may share a dispatcher.

    Args:
        url: The server's address, for messages.
        infer: gRPC's `ModelInfer`, which takes encoded requests.
        reload: Replaces the process of a model, by its name; raises `ServingError` if that fails.
        limits: The limits of one call.
        breaker: Stops requests while the server does not answer; None never stops them.
        timing: Clock, sleep and random numbers.
    """

    def __init__(
        self,
        url: str,
        infer: Any,
        reload: Callable[[str], None],
        limits: Limits,
        breaker: CircuitBreaker | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._url, self._infer, self._reload = url, infer, reload
        self._limits, self._breaker, self._timing = limits, breaker, timing or Timing()
        self._reload_lock = threading.Lock()
        self._reloaded_at: dict[str, float] = {}  # by model

    def run(self, job: Job, chunks: Iterable[Chunk]) -> None:
        """Send all requests of a call and store their answers in the job.

        Raises:
            Unavailable: If a request gets no answer in time, or the circuit breaker is open.
            ServingError: If Triton refuses for a reason other than the products.
        """
        in_flight: deque[_Sent] = deque()
        try:
            for chunk in chunks:
                while in_flight and len(in_flight) >= self._window:
                    self._settle(job, in_flight)
                if len(chunk.rows):
                    in_flight.append(self._send(job, chunk))
            while in_flight:
                self._settle(job, in_flight)
        finally:
            for sent in in_flight:
                sent.call.cancel()

    def describe(self, model: str, version: str = "") -> str:
        """Return server, model and version as text for a message."""
        return f"Triton at {self._url}, model {model}" + (f" version {version}" if version else "")

    @property
    def _window(self) -> int:
        """Requests in flight: one, the probe, until the circuit breaker knows that the server is back."""
        return self._limits.window if self._breaker is None or self._breaker.closed else 1

    def _send(self, job: Job, chunk: Chunk, started_at: float | None = None, attempt: int = 0) -> _Sent:
        if self._breaker is not None and not self._breaker.allows():
            raise Unavailable(f"No request is sent to {self.describe(job.model, job.version)}: {self._breaker.reason}")
        now = self._timing.clock()
        started_at = now if started_at is None else started_at
        # At least one second: after a model was reloaded, one more attempt is made even if the time is up.
        timeout = min(self._limits.deadline_s, max(1.0, started_at + self._limits.max_elapsed_s - now))
        body = encode_request(job.model, job.version, chunk.tensors)
        return _Sent(chunk, self._infer.future(body, timeout=timeout), started_at, now, attempt)

    def _settle(self, job: Job, in_flight: deque[_Sent]) -> None:
        """Wait for the oldest request in flight. Store its answer, or handle its failure."""
        sent = in_flight.popleft()
        try:
            response = sent.call.result()
        except grpc.RpcError as error:
            code, reason = error.code(), first_line(error)
            failure = classify(code, error.details() or "")
            self._update_breaker(reason if failure is Failure.RETRYABLE and is_silence(code) else None)
        else:
            self._update_breaker(None)
            self._store(job, sent.chunk.rows, response)
            return
        if failure is not Failure.REJECTED:
            self._wait_before_retry(job, sent, failure, f"{code.name}: {reason}", reason)
            in_flight.appendleft(self._send(job, sent.chunk, sent.started_at, sent.attempt + 1))
        elif len(sent.chunk.rows) == 1:
            job.rejected[int(sent.chunk.rows[0])] = reason
        else:
            halves = [self._send(job, half, sent.started_at) for half in sent.chunk.halves()]
            in_flight.extendleft(reversed(halves))

    def _wait_before_retry(self, job: Job, sent: _Sent, failure: Failure, problem: str, reason: str) -> None:
        """Return when the request may be sent again; raise an error if it may not."""
        elapsed = self._timing.clock() - sent.started_at
        limit = self._limits.max_elapsed_s
        model = self.describe(job.model, job.version)
        if failure is Failure.NOT_RETRIED:
            raise ServingError(f"{model} fails with {problem}")
        if failure is Failure.MISSING and elapsed >= min(_MISSING_GRACE_S, limit):
            raise ServingError(f"{model} is not served: {reason}; load it first")
        if self._breaker is not None and not self._breaker.closed:
            raise Unavailable(f"{model} gave no answer: {self._breaker.reason}")
        if elapsed >= limit:
            raise Unavailable(f"{model} gave no answer in {elapsed:.0f} s; last failure: {problem}")
        if failure is Failure.DEAD:
            self._reload_once(job.model, sent.sent_at)
        self._timing.sleep(min(self._backoff(sent.attempt), max(0.0, limit - elapsed)))

    def _update_breaker(self, silence: str | None) -> None:
        """Report to the circuit breaker why there was no answer, or None after any answer."""
        if self._breaker is None:
            return
        if silence is None:
            self._breaker.answered()
        else:
            self._breaker.failed(silence)

    def _store(self, job: Job, rows: Int64Array, response: Any) -> None:
        """Check an answer and copy its rows into the job."""
        model = self.describe(job.model, job.version)
        if job.version and response.model_version != job.version:
            raise ServingError(f"{model} answered as version {response.model_version}")
        answer = np.frombuffer(response.raw_output_contents[0], np.float32)
        if answer.size != len(rows) * VECTOR_DIM:
            raise ServingError(f"{model} answered {answer.size} numbers for {len(rows)} rows of {VECTOR_DIM}")
        answer = answer.reshape(len(rows), VECTOR_DIM)
        finite = np.isfinite(answer).all(1)
        if not finite.all():
            for row in rows[~finite]:
                job.rejected[int(row)] = f"{model} answered NaN or infinity"
            rows, answer = rows[finite], answer[finite]
        job.vectors[rows] = answer

    def _reload_once(self, model: str, sent_at: float) -> None:
        """Replace a dead model process, unless another thread has done so since the failed request was sent."""
        with self._reload_lock:
            if self._reloaded_at.get(model, -np.inf) >= sent_at:
                return
            try:
                self._reload(model)
            except ServingError:
                return  # the request's own time limit decides how often this is tried
            self._reloaded_at[model] = self._timing.clock()

    def _backoff(self, attempt: int) -> float:
        """Return 0.05 s, doubled at each attempt up to 2 s, times 0.5 to 1.5.

        The jitter spreads the retries of clients that failed at the same time.
        """
        return float(min(2.0, 0.05 * 2.0 ** min(attempt, 10)) * (0.5 + self._timing.uniform()))


def first_line(error: grpc.RpcError) -> str:
    """Return Triton's message without the Python traceback that may follow it."""
    details = (error.details() or error.code().name).removeprefix("[request id: <id_unknown>] ")
    return str(details.split("\n", 1)[0])[:300]
