"""Exposures: logged where an assignment is used, at least once, with an id that retries and replays do not change.

A caller only appends to a queue in memory; the logger's own thread passes the rows to `send`. When the queue is full,
the logger drops whole units by hash and counts them, and not simply the newest exposures: which units are dropped then
depends neither on the arm nor on the time of day, and the remaining units are still a fair sample.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Final
from zlib import crc32

import msgspec

from experiments.assignment import Assignment
from experiments.event_rows import EventRow
from experiments.kernel import DELIMITER
from experiments.recent_units import RecentUnits
from experiments.times import now_us

DAY_US: Final = 86_400_000_000
"""One day in microseconds."""

_SHARDS: Final = 64  # an overflow drops 1/64 of the units
_BATCH: Final = 256  # rows that the thread takes at a time, in addition to the queue
_RETRY_FIRST_S: Final = 0.05
_RETRY_LONGEST_S: Final = 5.0
_ANSWER_POLL_S: Final = 0.1  # delay until a thread that waits for a delivery sees the deadline of close()

Send = Callable[[EventRow], Future[None] | None]
"""Sends one exposure; see `ExposureLogger`."""


def exposure_id(experiment: str, version: int, unit: str, arm: str, window: int) -> str:
    """Return the id of an exposure (rule X1): the first 128 bits of a SHA-256, as 32 hex digits.

    The unit comes last: it is the only part that may contain the delimiter.

    Args:
        experiment: Key of the experiment.
        version: Version of the config.
        unit: The unit id.
        arm: Key of the arm.
        window: The event time divided by the length of the window.
    """
    text = DELIMITER.join((experiment, str(version), arm, str(window), unit))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


class ExposureStats(msgspec.Struct, frozen=True):
    """Counts since the start.

    Every enrolled assignment that `log` gets is logged, a duplicate or dropped. A logged exposure is sent, failed or
    queued.

    Attributes:
        logged: Exposures that were queued.
        duplicate: Exposures of a unit that was logged in the same time window.
        sent: Delivered exposures.
        failed: Exposures that `send` refused.
        dropped: Exposures that were dropped because the queue was full, or the logger closed.
        dropped_units: Units with a dropped exposure.
        queued: Exposures in the queue now.
        kept_share: Share of the units that are logged now; below 1 after an overflow.
        last_error: The last error of `send`.
    """

    logged: int
    duplicate: int
    sent: int
    failed: int
    dropped: int
    dropped_units: int
    queued: int
    kept_share: float
    last_error: str | None


class _Queued(msgspec.Struct, frozen=True, gc=False):
    """An exposure in the queue, and its time in microseconds UTC."""

    assignment: Assignment
    at: int


class ExposureLogger:
    """Logs each enrolled (unit, experiment, version, arm) once per time window.

    `log` never waits for `send`. `close` flushes the queue; nothing is logged after it.

    Args:
        send: Sends one row; called from the logger's thread only. It returns None when the row is delivered, or a
            future that has the result later. ValueError and TypeError, raised or in the future, are permanent: the row
            counts as failed. Any other exception is retryable: the row is sent again.
            `ExperimentStore.send_exposure` writes to the database, `streaming.events.exposures` sends to Kafka.
        clock: Returns the current time in microseconds UTC.
        window_us: Length of the time window in microseconds.
        queue_limit: Maximum number of rows in the queue.
        memory_limit: Maximum number of units that are remembered to find duplicates. A forgotten unit is sent again
            with the same id, and the store keeps one row.
    """

    def __init__(
        self,
        send: Send,
        *,
        clock: Callable[[], int] = now_us,
        window_us: int = DAY_US,
        queue_limit: int = 100_000,
        memory_limit: int = 400_000,
    ) -> None:
        self._send = send
        self._clock = clock
        self._window_us = window_us
        self._queue_limit = queue_limit
        self._shards: list[deque[_Queued]] = [deque() for _ in range(_SHARDS)]
        self._kept = _SHARDS  # units of this shard and later ones are dropped
        self._queued = 0
        self._cursor = 0  # the next shard to send from
        self._in_flight: dict[int, EventRow] = {}  # rows that the thread has taken and not delivered yet
        self._taken = 0
        self._seen = RecentUnits(memory_limit)
        self._dropped_units = RecentUnits(memory_limit)
        self._duplicate = self._sent = self._failed = self._dropped = self._units_dropped = 0
        self._last_error: str | None = None
        # Held for a few dictionary operations at a time, never during `send`.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._idle = False  # whether the thread waits for a notification
        self._deadline: float | None = None  # set by close(), in time.monotonic()
        self._closing = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def log(self, assignment: Assignment) -> bool:
        """Queue the exposure of an assignment.

        Returns:
            Whether it was queued. It is not when the unit is not enrolled, or was logged before, or is dropped.
        """
        unit, arm = assignment.unit, assignment.arm
        if not assignment.enrolled or unit is None or arm is None:
            return False
        now = self._clock()
        group = (assignment.experiment, assignment.config_version, arm, now // self._window_us)
        self._lock.acquire()  # `with` would double the cost of the lock
        try:
            if self._closed:
                return self._drop(unit)
            if not self._seen.put(group, unit):
                self._duplicate += 1
                return False
            shard = crc32(unit.encode()) % _SHARDS
            if self._queued >= self._queue_limit and shard < self._kept:
                self._drop_a_shard()
            if shard >= self._kept:
                self._seen.forget(group, unit)
                return self._drop(unit)
            # The thread makes the row: its id is a digest, and no caller should wait for it.
            self._shards[shard].append(_Queued(assignment, now))
            self._queued += 1
            if self._idle:
                self._idle = False
                self._work.notify()
            elif self._thread is None:
                # Start at the first exposure: when a server forks its workers, each worker then has its own thread.
                self._thread = threading.Thread(target=self._run, name="exposure-logger", daemon=True)
                self._thread.start()
            return True
        finally:
            self._lock.release()

    def stats(self) -> ExposureStats:
        """Return the counts."""
        with self._lock:
            return ExposureStats(
                logged=self._sent + self._failed + self._queued + self._taken,
                duplicate=self._duplicate,
                sent=self._sent,
                failed=self._failed,
                dropped=self._dropped,
                dropped_units=self._units_dropped,
                queued=self._queued + self._taken,
                kept_share=self._kept / _SHARDS,
                last_error=self._last_error,
            )

    def close(self, timeout_s: float = 10.0) -> int:
        """Send the queue and end the thread. Safe to call twice.

        Args:
            timeout_s: Maximum time in seconds.

        Returns:
            The number of exposures that were not sent.
        """
        with self._lock:
            self._deadline = time.monotonic() + timeout_s
            self._closed = True
            self._closing.set()
            self._work.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        with self._lock:
            return self._queued + self._taken

    def _drop(self, unit: str) -> bool:
        self._dropped += 1
        self._units_dropped += self._dropped_units.put(None, unit)
        return False

    def _drop_a_shard(self) -> None:
        """Drop the last kept shard that has rows, and all shards after it."""
        while self._kept > 0 and self._queued >= self._queue_limit:
            self._kept -= 1
            shard = self._shards[self._kept]
            for queued in shard:
                assignment, unit = queued.assignment, queued.assignment.unit or ""
                # Forget the unit, so that it is logged again once the queue has room.
                window = queued.at // self._window_us
                self._seen.forget((assignment.experiment, assignment.config_version, assignment.arm, window), unit)
                self._drop(unit)
            self._queued -= len(shard)
            shard.clear()

    def _run(self) -> None:
        while self._take():
            if not self._send_until_done():
                return

    def _take(self) -> bool:
        """Take rows from the next shard that has some, or wait. Return False when closing and the queue is empty."""
        with self._lock:
            while not self._queued:
                self._kept = _SHARDS  # the queue is empty: log every unit again
                if self._closing.is_set():
                    return False
                self._idle = True
                self._work.wait()
            self._idle = False
            while not self._shards[self._cursor]:
                self._cursor = (self._cursor + 1) % _SHARDS
            shard = self._shards[self._cursor]
            taken = [shard.popleft() for _ in range(min(_BATCH, len(shard)))]
            self._taken = len(taken)
            self._queued -= len(taken)
            self._cursor = (self._cursor + 1) % _SHARDS
        self._in_flight = {i: _row(each.assignment, each.at, self._window_us) for i, each in enumerate(taken)}
        return True

    def _send_until_done(self) -> bool:
        """Send the rows in flight until all are settled. Return False when the deadline of close() comes first."""
        delay = _RETRY_FIRST_S
        while not self._past_deadline():
            before = len(self._in_flight)
            self._send_in_flight()
            if not self._in_flight:
                return True
            if len(self._in_flight) < before:
                delay = _RETRY_FIRST_S
            if self._closing.is_set():
                time.sleep(_RETRY_FIRST_S)
            else:
                self._closing.wait(delay)  # close() interrupts a long back-off
            delay = min(2 * delay, _RETRY_LONGEST_S)
        return False

    def _send_in_flight(self) -> None:
        """Pass each row to `send` once, up to the first retryable error, then wait for the results."""
        pending: list[tuple[int, Future[None]]] = []
        delivered: list[int] = []
        for number, row in self._in_flight.items():
            if self._past_deadline():
                break
            try:
                delivery = self._send(row)
            except Exception as error:
                failed: Future[None] = Future()
                failed.set_exception(error)
                pending.append((number, failed))
                if not _is_permanent(error):
                    break
            else:
                if delivery is None:
                    delivered.append(number)
                else:
                    pending.append((number, delivery))
        self._settle(delivered, None)
        for number, delivery in pending:
            while not wait([delivery], _ANSWER_POLL_S).done:
                if self._past_deadline():
                    return
            self._settle([number], delivery.exception())

    def _settle(self, numbers: list[int], error: BaseException | None) -> None:
        """Remove rows that were sent, or have a permanent error; the others are sent again."""
        with self._lock:  # once for many rows: callers of `log` wait for it
            if error is not None:
                self._last_error = f"{type(error).__name__}: {error}"
                if not _is_permanent(error):
                    return
                self._failed += len(numbers)
            else:
                self._sent += len(numbers)
            self._taken -= len(numbers)
        for number in numbers:
            del self._in_flight[number]

    def _past_deadline(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def _is_permanent(error: BaseException) -> bool:
    return isinstance(error, (ValueError, TypeError))


def _row(assignment: Assignment, at: int, window_us: int) -> EventRow:
    unit, arm = assignment.unit or "", assignment.arm or ""  # `log` has checked that neither is None
    return EventRow(
        event_id=exposure_id(assignment.experiment, assignment.config_version, unit, arm, at // window_us),
        kind="exposure",
        unit_id=unit,
        event_time=at,
        experiment=assignment.experiment,
        arm=arm,
        config_version=assignment.config_version,
        attributes=assignment.attributes,
    )
