"""Exposures: written where a decision is used, at least once, under an id that retries and replays cannot change.

A caller only appends to a queue in memory; a thread of the logger's own hands rows to `send`. When the queue is full,
whole units are dropped by hash and counted, never simply the newest exposures: who is dropped then depends neither on
the arm nor on the time of day, so that the units which remain are still a fair sample.
"""

import hashlib
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Final

import msgspec

from experiments.decision import Decision
from experiments.events import EventRow
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

    Every enrolled decision given to `log` is logged, a duplicate or dropped; what is logged is sent, failed or queued.
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
    """Remembers at least the last `limit // 2` keys and never more than `limit`: two generations of dicts."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._young: dict[Hashable, int] = {}
        self._old: dict[Hashable, int] = {}

    def put(self, key: Hashable, value: int) -> bool:
        """Whether the key is new, or new with this value."""
        if self._young.get(key) == value:
            return False
        is_new = self._old.get(key) != value
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value
        return is_new

    def forget(self, key: Hashable) -> None:
        self._young.pop(key, None)
        self._old.pop(key, None)


class ExposureLogger:
    """Logs each enrolled (unit, experiment, version, arm) once per time window.

    send: takes one row; called from the logger's thread only. It returns when the row is delivered, or else a future
        that says so later. ValueError and TypeError, raised or in the future, mean that the row is at fault: it is
        counted as failed. Any other exception means that the way is blocked: the row is tried again.
    clock: microseconds since the Unix epoch, UTC.
    queue_limit, memory_limit: rows that may wait, and keys that are remembered against duplicates. What is forgotten is
        sent again under the same id, and the store keeps it once.

    `log` never waits for `send`. Use `close` to flush; after it nothing is logged any more.
    """

    def __init__(
        self,
        send: Callable[[EventRow], Future[None] | None],
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        window_us: int = DAY_US,
        queue_limit: int = 100_000,
        memory_limit: int = 400_000,
    ) -> None:
        self._send = send
        self._clock = clock
        self._window_us = window_us
        self._queue_limit = queue_limit
        self._shards: list[deque[EventRow]] = [deque() for _ in range(_SHARDS)]
        self._kept = _SHARDS  # units of the shards from here on are dropped
        self._queued = 0
        self._cursor = 0  # the shard that is sent from next
        self._batch: deque[EventRow] = deque()  # what the thread has taken and not yet delivered
        self._seen = _Recent(memory_limit)
        self._dropped_units = _Recent(memory_limit)
        self._counts = dict.fromkeys(("logged", "duplicate", "sent", "failed", "dropped", "dropped_units"), 0)
        self._last_error: str | None = None
        # Held for a few dictionary operations at a time, never during `send`.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._deadline: float | None = None  # set by close(), in time.monotonic()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def log(self, decision: Decision) -> bool:
        """Queues the exposure of an enrolled decision; False when it is none, known already, or dropped."""
        if not decision.enrolled or decision.unit is None or decision.arm is None:
            return False
        unit = decision.unit
        now = self._clock()
        window = now // self._window_us
        key = (unit, decision.experiment, decision.config_version, decision.arm)
        shard = zlib.crc32(unit.encode("utf-8")) % _SHARDS
        with self._lock:
            if self._closing.is_set():
                return self._drop(unit)
            if not self._seen.put(key, window):
                self._counts["duplicate"] += 1
                return False
            if self._queued >= self._queue_limit and shard < self._kept:
                self._drop_a_shard()
            if shard >= self._kept:
                self._seen.forget(key)
                return self._drop(unit)
            self._shards[shard].append(_row(decision, unit, decision.arm, now, window))
            self._queued += 1
            self._counts["logged"] += 1
            if self._thread is None:
                # Started by the first exposure: a server that forks its workers after import keeps a thread in each.
                self._thread = threading.Thread(target=self._run, name="exposure-logger", daemon=True)
                self._thread.start()
            self._work.notify()
        return True

    def stats(self) -> ExposureStats:
        with self._lock:
            return ExposureStats(
                **self._counts,
                queued=self._queued + len(self._batch),
                kept_share=self._kept / _SHARDS,
                last_error=self._last_error,
            )

    def close(self, timeout_s: float = 10.0) -> int:
        """Sends what is queued until the deadline; returns how many exposures were left unsent. Safe to call twice."""
        with self._lock:
            self._deadline = time.monotonic() + timeout_s
            self._closing.set()
            self._work.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        with self._lock:
            return self._queued + len(self._batch)

    def _drop(self, unit: str) -> bool:
        self._counts["dropped"] += 1
        self._counts["dropped_units"] += self._dropped_units.put(unit, 0)
        return False

    def _drop_a_shard(self) -> None:
        """Gives up the last shard that is kept and still holds rows, and all beyond it."""
        while self._kept > 0 and self._queued >= self._queue_limit:
            self._kept -= 1
            shard = self._shards[self._kept]
            for row in shard:
                # Forgotten, so that the unit is logged again once there is room.
                self._seen.forget((row.unit_id, row.experiment, row.config_version, row.arm))
                self._drop(row.unit_id)
            self._queued -= len(shard)
            self._counts["logged"] -= len(shard)
            shard.clear()

    def _run(self) -> None:
        while self._take():
            if not self._send_until_done():
                return

    def _take(self) -> bool:
        """Fills the batch from the next shard that has rows; waits for one. False when closing and all is sent."""
        with self._lock:
            while not self._queued:
                self._kept = _SHARDS  # all is sent: every unit is welcome again
                if self._closing.is_set():
                    return False
                self._work.wait()
            while not self._shards[self._cursor]:
                self._cursor = (self._cursor + 1) % _SHARDS
            shard = self._shards[self._cursor]
            for _ in range(min(_BATCH, len(shard))):
                self._batch.append(shard.popleft())
            self._queued -= len(self._batch)
            self._cursor = (self._cursor + 1) % _SHARDS
            return True

    def _send_until_done(self) -> bool:
        """Sends the batch, as often as it takes. False when the deadline of close() came first."""
        delay = _RETRY_FIRST_S
        while not self._past_deadline():
            before = len(self._batch)
            self._send_batch()
            if not self._batch:
                return True
            if len(self._batch) < before:
                delay = _RETRY_FIRST_S
            if self._closing.is_set():
                time.sleep(_RETRY_FIRST_S)
            else:
                self._closing.wait(delay)  # close() does not wait for the end of a long back-off
            delay = min(2 * delay, _RETRY_LONGEST_S)
        return False

    def _send_batch(self) -> None:
        """Hands over each row once, up to the first that finds the way blocked, then waits for what became of them."""
        handed_over: list[tuple[EventRow, Future[None]]] = []
        for row in list(self._batch):
            if self._past_deadline():
                break
            outcome: Future[None] | None = None
            try:
                outcome = self._send(row)
            except Exception as error:
                if not self._settle(row, error):
                    break
            else:
                if outcome is None:
                    self._settle(row, None)
                else:
                    handed_over.append((row, outcome))
        for row, outcome in handed_over:
            while not wait([outcome], _ANSWER_POLL_S).done:
                if self._past_deadline():
                    return
            self._settle(row, outcome.exception())

    def _settle(self, row: EventRow, error: BaseException | None) -> bool:
        """Takes a row that was sent or is at fault out of the batch; False when it has to be sent again."""
        with self._lock:
            if error is not None:
                self._last_error = f"{type(error).__name__}: {error}"
                if not isinstance(error, (ValueError, TypeError)):
                    return False
            self._counts["sent" if error is None else "failed"] += 1
            self._batch.remove(row)
            return True

    def _past_deadline(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def _row(decision: Decision, unit: str, arm: str, now: int, window: int) -> EventRow:
    return EventRow(
        event_id=exposure_id(decision.experiment, decision.config_version, unit, arm, window),
        kind="exposure",
        unit_id=unit,
        event_time=now,
        experiment=decision.experiment,
        arm=arm,
        config_version=decision.config_version,
    )
