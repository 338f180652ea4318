"""The consumer loop that the catalogue and the events share: read, handle, then commit; never the other way round.

What it is built for:
* Work that takes long (a slow image server) or fails for a while (Triton, a store or the broker is away): the handler
  runs in a thread of its own, and meanwhile polls that read nothing keep the group membership, however long it takes.
  A failed attempt is made again with jittered back-off, with the same records.
* A rebalance while work is under way: what was read of a partition that went away is not committed here, its new owner
  reads it again. Records that a poll brings in such a moment are given back, not lost.
* A commit that fails: kept and made again; one that is refused (no longer a member) is forgotten. Every write is
  idempotent, so reading again changes nothing.
* Bytes on the broker's disk that cannot be read: the offset becomes a dead letter and is passed.
* SIGTERM: work under way may finish within a deadline and is committed, else it is abandoned and read again later.
* A poll that never comes back (kafka-python can spin): the watchdog ends the process, its supervisor starts it again.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

from kafka.errors import (
    AuthorizationError,
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    SaslAuthenticationFailedError,
    UnknownMemberIdError,
    UnsupportedCodecError,
    UnsupportedVersionError,
)
from kafka.structs import OffsetAndMetadata

from streaming.errors import BrokerError
from streaming.kafka import (
    POLL_MS,
    ConsumerRebalanceListener,
    CorruptRecordError,
    KafkaConsumer,
    KafkaError,
    TopicPartition,
    unpark,
    unreadable_partition,
)

log = logging.getLogger(__name__)

Records = Mapping[TopicPartition, Sequence[Any]]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_KEEP_ALIVE_S = 1.0  # between the polls that only keep the membership; a batch that is done sooner needs none
_BROKER_MS = 3_000  # a broker that is away must not hold up a commit for longer, nor the end of the process
_STUCK_S = 120.0  # far longer than anything the loop itself waits for
_NO_MEMBER = (CommitFailedError, IllegalGenerationError, UnknownMemberIdError)
_FATAL = (
    AuthorizationError,
    FencedInstanceIdError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    UnsupportedVersionError,
)


class ConsumerLoop:
    """Runs a handler over a topic.

    Args:
        consumer: made by `Connection.consumer` with a group.
        handle: takes the records of a poll; returns when everything about them is written. Called in a thread of its
            own, always the same, one call at a time.
        transient: what `handle`, `unreadable` and `start_offsets` raise when trying again later may help; anything
            else ends the loop.
        unreadable: secures that an offset cannot be read, for instance as a dead letter.
        start_offsets: where to begin in partitions just assigned, when the truth is not Kafka's (the event sink's
            database); by default the group's committed offsets.
        stop_within_s: how long work under way may still take once it is to stop.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        topic: str,
        handle: Callable[[Records], None],
        *,
        transient: tuple[type[Exception], ...],
        unreadable: Callable[[TopicPartition, int, Exception], None],
        start_offsets: Callable[[], Mapping[int, int]] | None = None,
        stop_within_s: float = 8.0,
    ) -> None:
        self._consumer, self._topic, self._handle, self._transient = consumer, topic, handle, transient
        self._unreadable, self._start_offsets, self._stop_within_s = unreadable, start_offsets, stop_within_s
        self._finished: dict[TopicPartition, int] = {}
        self._unplaced: set[TopicPartition] = set()  # assigned, but not yet sent to their `start_offsets`
        # Offsets that cannot be read, and why; not to be polled before they are passed.
        self._damaged: dict[TopicPartition, tuple[int, CorruptRecordError]] = {}
        self._work = _Work()
        self.handled = 0
        self.failing: str | None = None  # why it is backing off, None when all is well
        self.last_poll = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Finished work is committed before it returns.

        Raises:
            BrokerError: the broker refuses us (credentials, rights, versions): waiting does not help.
            Exception: what `handle` raised that is not transient.
        """
        self._consumer.subscribe([self._topic], listener=_Listener(self))
        try:
            try:
                while not stop.is_set():
                    self._step(stop)
            finally:
                self._commit()
        except _FATAL as error:
            raise BrokerError(f"{self._topic}: the broker refuses us: {_reason(error)}") from error
        finally:
            self._work.close()
            self._consumer.close(timeout_ms=_BROKER_MS)

    def _step(self, stop: threading.Event) -> None:
        if self._damaged:
            self._pass_damaged(next(iter(self._damaged)), stop)
            return
        try:
            records = self._poll(POLL_MS)
        except CorruptRecordError as error:
            self._note_damaged(error)
            return
        except _FATAL:
            raise
        except (KafkaError, *self._transient) as error:
            self._note(error)
            stop.wait(_FIRST_PAUSE_S)
            return
        if records and not self._done(lambda: self._handle(records), records, stop):
            self._give_back(records)
            return
        if records:
            self._finish({tp: rows[-1].offset + 1 for tp, rows in records.items()})
            self.handled += sum(map(len, records.values()))
        self.failing = None
        self._commit()

    def _poll(self, timeout_ms: int) -> Records:
        unpark(self._consumer)
        records: Records = self._consumer.poll(timeout_ms)
        self.last_poll = time.monotonic()
        if self._start_offsets is None or not self._unplaced:
            return records
        # What came from partitions just assigned came from Kafka's offsets; it comes again from the true ones.
        self._give_back(records)
        known = self._start_offsets()
        for tp in list(self._unplaced):
            if tp.partition in known:
                self._seek(tp, known[tp.partition])
            elif tp in self._consumer.assignment():
                self._consumer.seek_to_beginning(tp)
            self._unplaced.discard(tp)
        return {}

    def _done(self, job: Callable[[], None], partitions: Collection[TopicPartition], stop: threading.Event) -> bool:
        """Do a job, with pauses between attempts; false when stopped or no longer the owner of all its partitions."""
        pause = _FIRST_PAUSE_S
        try:
            while True:
                attempt = self._work.submit(job)
                if not self._settled(attempt, stop):
                    log.warning("%s: work under way is abandoned and will be read again", self._topic)
                    return False
                try:
                    attempt.result()
                    return True
                except self._transient as error:
                    self._note(error)
                end = time.monotonic() + pause * random.uniform(0.5, 1.5)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                while (left := end - time.monotonic()) > 0 and not stop.is_set():
                    self._keep_alive(min(left, 0.2), stop)
                if stop.is_set() or not set(partitions) <= set(self._consumer.assignment()):
                    return False
        finally:
            if paused := self._consumer.paused():
                self._consumer.resume(*paused)

    def _settled(self, attempt: Future[None], stop: threading.Event) -> bool:
        """Wait for an attempt; false when it is not over within the time that a stop leaves."""
        deadline: float | None = None
        while not wait([attempt], 0.1 if stop.is_set() else _KEEP_ALIVE_S).done:
            if stop.is_set():
                deadline = deadline or time.monotonic() + self._stop_within_s
                if time.monotonic() > deadline:
                    return False
            self._keep_alive(0.1, stop)
        return True

    def _keep_alive(self, seconds: float, stop: threading.Event) -> None:
        """Poll to stay in the group, but read nothing: what comes is given back, and its partition paused.

        Not paused from the start: kafka-python forgets an error that it still has to raise for a paused partition.
        """
        self._consumer.pause(*(self._damaged.keys() & self._consumer.assignment()))
        try:
            early = self._poll(int(1000 * seconds))
        except CorruptRecordError as error:
            self._note_damaged(error)
            return
        except _FATAL:
            raise
        except (KafkaError, *self._transient):
            stop.wait(seconds)
            return
        self._give_back(early)
        self._consumer.pause(*(early.keys() & self._consumer.assignment()))

    def _note_damaged(self, error: CorruptRecordError) -> None:
        tp = unreadable_partition(error)
        if tp is None:
            raise error  # not to be told from the others, and another poll would spin
        if tp in self._consumer.assignment():
            self._damaged[tp] = self._consumer.position(tp, timeout_ms=_BROKER_MS), error

    def _pass_damaged(self, tp: TopicPartition, stop: threading.Event) -> None:
        offset, error = self._damaged[tp]
        if not self._done(lambda: self._unreadable(tp, offset, error), [tp], stop):
            return
        if tp in self._damaged:  # else it went away meanwhile, and begins at another offset if it came back
            log.error("%s: offset %d of partition %d is passed: %s", tp.topic, offset, tp.partition, error)
            self._seek(tp, offset + 1)
            self._finish({tp: offset + 1})
        self._damaged.pop(tp, None)
        self._commit()

    def _give_back(self, records: Records) -> None:
        for tp, rows in records.items():
            self._seek(tp, rows[0].offset)

    def _seek(self, tp: TopicPartition, offset: int) -> None:
        if tp in self._consumer.assignment():
            self._consumer.seek(tp, offset)

    def _finish(self, offsets: Mapping[TopicPartition, int]) -> None:
        owned = self._consumer.assignment()
        self._finished.update({tp: offset for tp, offset in offsets.items() if tp in owned})

    def _commit(self) -> None:
        offsets = dict(self._finished)
        if not offsets:
            return
        try:
            self._consumer.commit(
                {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()}, timeout_ms=_BROKER_MS
            )
        except _NO_MEMBER:
            pass  # a new owner reads these records again
        except _FATAL:
            raise
        except KafkaError as error:
            self._note(error)
            return  # kept: the next commit includes them
        for tp in offsets:
            self._finished.pop(tp, None)

    def _note(self, error: Exception) -> None:
        reason = _reason(error)
        if reason != self.failing:
            log.warning("%s: backing off, nothing is lost: %s", self._topic, reason)
        self.failing = reason


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Called in kafka-python's own thread, which nothing may block: a commit in here raises, a slow query would cost
    the membership. So it only takes notes."""

    def __init__(self, loop: ConsumerLoop) -> None:
        self._loop = loop

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._loop._unplaced.update(assigned)

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        for tp in revoked:
            self._loop._finished.pop(tp, None)
            self._loop._damaged.pop(tp, None)
            self._loop._unplaced.discard(tp)

    def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)


class _Work:
    """One thread that does one job at a time. A daemon, unlike an executor's: a job that hangs does not hold up the
    end of the process. Always the same thread: stores keep a connection per thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="consumer-work", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> Future[None]:
        future: Future[None] = Future()
        self._jobs.put((future, job))
        return future

    def close(self) -> None:
        self._jobs.put(None)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            try:
                job()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)


def watch(loop: ConsumerLoop, stop: threading.Event, *, limit_s: float = _STUCK_S, end: Callable[[], None]) -> None:
    """Call `end` when the loop has not come back from a poll for `limit_s`; returns when stopped."""
    while not stop.wait(min(1.0, limit_s / 4)):
        if time.monotonic() - loop.last_poll > limit_s:
            log.critical("%s: no poll came back for %.0f s", loop._topic, limit_s)
            end()
            return


def end_process() -> None:
    """Where every thread hangs, on stderr; then out, without waiting for any of them."""
    faulthandler.dump_traceback()
    os._exit(70)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
