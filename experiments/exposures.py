"""Exposures: written where an assignment is used, at least once, under an id that retries and replays cannot change.

A caller only appends to a queue in memory; a thread of the logger's own hands rows to `send`. When the queue is full,
whole units are dropped by hash and counted, never simply the newest exposures: who is dropped then depends neither on
the arm nor on the time of day, so that the units which remain are still a fair sample.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Final
from zlib import crc32

import msgspec

from experiments.assignment import Assignment
from experiments.evaluator import now_us
from experiments.event_rows import EventRow
from experiments.kernel import DELIMITER

DAY_US: Final = 86_400_000_000
_SHARDS: Final = 64  # an overflow drops 1/64 of the units
_BATCH: Final = 256  # rows that the thread takes at a time, beside those that may wait
_RETRY_FIRST_S: Final = 0.05
_RETRY_LONGEST_S: Final = 5.0
_ANSWER_POLL_S: Final = 0.1  # how soon a thread that waits for a delivery sees the deadline of close()


def exposure_id(experiment: str, version: int, unit: str, arm: str, window: int) -> str:
    """X1: the first 128 bits of a SHA-256, as 32 hex digits. `window` is the event time divided by the window's length.

    The unit stands last: it is the only part that may hold the delimiter.
    """
    text = DELIMITER.join((experiment, str(version), arm, str(window), unit))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


class ExposureStats(msgspec.Struct, frozen=True):
    """Counts since the start; `queued` and `kept_share` (of the units) are those of now.

    Every enrolled assignment given to `log` is logged, a duplicate or dropped; what is logged is sent, failed or queued.
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


class _Recent:
    """Remembers at least the last `limit // 2` units and never more than `limit`, over all groups: two generations of
    sets. A group is what units have in common, so that nothing but the unit itself is kept for each.
    """

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._size = 0
        self._young: dict[Hashable, set[str]] = {}
        self._old: dict[Hashable, set[str]] = {}

    def put(self, group: Hashable, unit: str) -> bool:
        """Whether the unit is new in its group."""
        units = self._young.get(group)
        if units is None or self._size >= self._half:
            units = self._make_room(group)
        if unit in units:
            return False
        units.add(unit)
        self._size += 1
        return not self._old or unit not in self._old.get(group, ())

    def _make_room(self, group: Hashable) -> set[str]:
        if self._size >= self._half:
            self._old, self._young, self._size = self._young, {}, 0
        return self._young.setdefault(group, set())

    def forget(self, group: Hashable, unit: str) -> None:
        for generation in (self._young, self._old):
            if group in generation:
                generation[group].discard(unit)


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    """An exposure in the queue: `at` is its time."""

    assignment: Assignment
    at: int


class ExposureLogger:
    """Logs each enrolled (unit, experiment, version, arm) once per time window.

    send: takes one row; called from the logger's thread only. It returns when the row is delivered, or else a future
        that says so later. ValueError and TypeError, raised or in the future, mean that the row is at fault: it is
        counted as failed. Any other exception means that the way is blocked: the row is tried again.
    clock: microseconds since the Unix epoch, UTC.
    queue_limit, memory_limit: rows that may wait, and units that are remembered against duplicates. What is forgotten
        is sent again under the same id, and the store keeps it once.

    `log` never waits for `send`. Use `close` to flush; after it nothing is logged any more.
    """

    def __init__(
        self,
        send: Callable[[EventRow], Future[None] | None],
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
        self._shards: list[deque[_Waiting]] = [deque() for _ in range(_SHARDS)]
        self._kept = _SHARDS  # units of the shards from here on are dropped
        self._queued = 0
        self._cursor = 0  # the shard that is sent from next
        self._in_hand: dict[int, EventRow] = {}  # what the thread has taken and not yet delivered
        self._taken = 0
        self._seen = _Recent(memory_limit)
        self._dropped_units = _Recent(memory_limit)
        self._duplicate = self._sent = self._failed = self._dropped = self._units_dropped = 0
        self._last_error: str | None = None
        # Held for a few dictionary operations at a time, never during `send`.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._idle = False  # whether the thread waits for work, and has to be told
        self._deadline: float | None = None  # set by close(), in time.monotonic()
        self._closing = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def log(self, assignment: Assignment) -> bool:
        """Queues the exposure of an enrolled assignment; False when it is none, known already, or dropped."""
        unit, arm = assignment.unit, assignment.arm
        if not assignment.enrolled or unit is None or arm is None:
            return False
        now = self._clock()
        group = (assignment.experiment, assignment.config_version, arm, now // self._window_us)
        self._lock.acquire()  # `with` would cost as much again as the lock itself
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
            # The row is made by the thread: its id is a digest, for which no caller should wait.
            self._shards[shard].append(_Waiting(assignment, now))
            self._queued += 1
            if self._idle:
                self._idle = False
                self._work.notify()
            elif self._thread is None:
                # Started by the first exposure: a server that forks its workers after import keeps a thread in each.
                self._thread = threading.Thread(target=self._run, name="exposure-logger", daemon=True)
                self._thread.start()
            return True
        finally:
            self._lock.release()

    def stats(self) -> ExposureStats:
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
        """Sends what is queued until the deadline; returns how many exposures were left unsent. Safe to call twice."""
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
        """Gives up the last shard that is kept and still holds rows, and all beyond it."""
        while self._kept > 0 and self._queued >= self._queue_limit:
            self._kept -= 1
            shard = self._shards[self._kept]
            for waiting in shard:
                assignment, unit = waiting.assignment, waiting.assignment.unit or ""
                # Forgotten, so that the unit is logged again once there is room.
                window = waiting.at // self._window_us
                self._seen.forget((assignment.experiment, assignment.config_version, assignment.arm, window), unit)
                self._drop(unit)
            self._queued -= len(shard)
            shard.clear()

    def _run(self) -> None:
        while self._take():
            if not self._send_until_done():
                return

    def _take(self) -> bool:
        """Takes rows in hand from the next shard that has some; waits for one. False when closing and all is sent."""
        with self._lock:
            while not self._queued:
                self._kept = _SHARDS  # all is sent: every unit is welcome again
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
        self._in_hand = {i: _row(each.assignment, each.at, self._window_us) for i, each in enumerate(taken)}
        return True

    def _send_until_done(self) -> bool:
        """Sends what is in hand, as often as it takes. False when the deadline of close() came first."""
        delay = _RETRY_FIRST_S
        while not self._past_deadline():
            before = len(self._in_hand)
            self._send_in_hand()
            if not self._in_hand:
                return True
            if len(self._in_hand) < before:
                delay = _RETRY_FIRST_S
            if self._closing.is_set():
                time.sleep(_RETRY_FIRST_S)
            else:
                self._closing.wait(delay)  # close() does not wait for the end of a long back-off
            delay = min(2 * delay, _RETRY_LONGEST_S)
        return False

    def _send_in_hand(self) -> None:
        """Hands over each row once, up to the first that finds the way blocked, then waits for what became of them."""
        handed_over: list[tuple[int, Future[None]]] = []
        delivered: list[int] = []
        for number, row in self._in_hand.items():
            if self._past_deadline():
                break
            try:
                outcome = self._send(row)
            except Exception as error:
                failed: Future[None] = Future()
                failed.set_exception(error)
                handed_over.append((number, failed))
                if not _is_at_fault(error):
                    break
            else:
                if outcome is None:
                    delivered.append(number)
                else:
                    handed_over.append((number, outcome))
        self._settle(delivered, None)
        for number, outcome in handed_over:
            while not wait([outcome], _ANSWER_POLL_S).done:
                if self._past_deadline():
                    return
            self._settle([number], outcome.exception())

    def _settle(self, numbers: list[int], error: BaseException | None) -> None:
        """Takes rows that were sent or are at fault out of hand; others have to be sent again."""
        with self._lock:  # once for many: callers wait for it
            if error is not None:
                self._last_error = f"{type(error).__name__}: {error}"
                if not _is_at_fault(error):
                    return
                self._failed += len(numbers)
            else:
                self._sent += len(numbers)
            self._taken -= len(numbers)
        for number in numbers:
            del self._in_hand[number]

    def _past_deadline(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def _is_at_fault(error: BaseException) -> bool:
    return isinstance(error, (ValueError, TypeError))


def _row(assignment: Assignment, at: int, window_us: int) -> EventRow:
    unit, arm = assignment.unit or "", assignment.arm or ""  # `log` let neither be missing
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
