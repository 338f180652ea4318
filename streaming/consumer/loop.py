"""The consumer loop that the catalogue and the events share: read, handle, then commit; never the other way round.

    poll -> gather -> stage -> stage -> ... -> commit

Each stage is a thread of its own that takes the batches in their order, so that one batch is decoded while the one
before it is with the model and an earlier one with the broker; every stage sees what it would see if there were only
one batch at a time. What it is built for:
* Work that takes long (a slow image server) or fails for a while (Triton, a store or the broker is away): meanwhile
  polls that read nothing keep the group membership, however long it takes. A stage that failed tries again with
  jittered back-off and the same batch; those behind it wait, and no more is read than a few batches.
* A lone update goes at once; while others are under way, what arrives is gathered into one batch, for a moment.
* A rebalance while work is under way: it may finish, but what was read of a partition that went away is not committed
  here, its new owner reads it again. While a stage is failing, everything under way is dropped instead, and read again.
  Records that a poll brings in such a moment are given back, not lost.
* A commit that fails: kept and made again; one that is refused (no longer a member) is forgotten. Every write is
  idempotent, so reading again changes nothing.
* Bytes on the broker's disk that cannot be read: the offset becomes a dead letter and is passed.
* SIGTERM, or an error that no waiting mends: work under way may finish within a deadline and is committed, else it is
  abandoned and read again later.
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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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

from streaming.consumer.observer import NOBODY, Observer
from streaming.errors import BrokerError
from streaming.kafka.connection import (
    POLL_MS,
    ConsumerRebalanceListener,
    CorruptRecordError,
    KafkaConsumer,
    KafkaError,
    TopicPartition,
    explained,
    unpark,
    unreadable_partition,
)

log = logging.getLogger(__name__)

Records = Mapping[TopicPartition, Sequence[Any]]
Stage = Callable[[Any], Any]
"""Takes what the stage before it returned, the first one the records of a batch; the last one's answer is dropped."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_KEEP_ALIVE_S = 1.0  # between the polls that only keep the membership; a batch that is done sooner needs none
_GATHER_S = 0.15  # how long records wait for others while a batch is under way: far less than a batch takes under load
_GATHER_POLL_MS = 20  # so that a batch that is done meanwhile is noticed
_BROKER_MS = 3_000  # a broker that is away must not hold up a commit for longer, nor the end of the process
_LOOK_S = 0.1  # how long the loop waits at most before it looks whether it is to stop
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
    """Runs the stages over a topic.

    Args:
        consumer: made by `Connection.consumer` with a group.
        stages: by name, in order; when the last returns, everything about the batch is written. Each is called in a
            thread of its own, always the same, one batch at a time, batches in the order of reading. One that is tried
            again gets the same input: it must leave that as it is.
        transient: what the stages, `unreadable` and `start_offsets` raise when trying again later may help; anything
            else ends the loop.
        unreadable: secures that an offset cannot be read, for instance as a dead letter.
        start_offsets: where to begin in partitions just assigned, when the truth is not Kafka's (the event sink's
            database); by default the group's committed offsets.
        in_flight: batches under way at once; by default one, or with several stages one for each and one to follow.
        batch: records gathered at most, and what one more poll brings, while other batches are under way.
        stop_within_s: how long work under way may still take once it is to stop.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        topic: str,
        stages: Mapping[str, Stage],
        *,
        transient: tuple[type[Exception], ...],
        unreadable: Callable[[TopicPartition, int, Exception], None],
        start_offsets: Callable[[], Mapping[int, int]] | None = None,
        in_flight: int | None = None,
        batch: int = 1024,
        stop_within_s: float = 8.0,
        observer: Observer = NOBODY,
    ) -> None:
        self._consumer, self._topic, self._transient = consumer, topic, transient
        self._unreadable, self._start_offsets, self._stop_within_s = unreadable, start_offsets, stop_within_s
        self._in_flight = in_flight or (1 if len(stages) == 1 else len(stages) + 1)
        self._batch, self._observer = batch, observer
        self._finished: dict[TopicPartition, int] = {}
        self._unplaced: set[TopicPartition] = set()  # assigned, but not yet sent to their `start_offsets`
        # Offsets that cannot be read, and why; nothing is read before they are passed.
        self._damaged: dict[TopicPartition, tuple[int, CorruptRecordError]] = {}
        self._terms: dict[TopicPartition, int] = {}  # how often a partition was taken away
        self._flying: deque[_Batch] = deque()
        self._gathered, self._gathered_since = _Batch(), 0.0
        self._line = _Line(stages, transient, self._note, observer)
        self._kafka_fails: str | None = None
        self._told: str | None = None  # what was logged last
        self.handled = 0
        self.last_poll = time.monotonic()

    @property
    def failing(self) -> str | None:
        """Why it is backing off, None when all is well."""
        return next(iter(self._line.failing.values()), self._kafka_fails)

    @property
    def partitions(self) -> frozenset[int] | None:
        """The partitions that it reads; None before the group has given it its part, which may be none."""
        if self._consumer.group_metadata().generation_id < 0:
            return None
        return frozenset(tp.partition for tp in self._consumer.assignment())

    @property
    def under_way(self) -> int:
        """Records that were read and are not yet through all stages."""
        return sum(batch.size for batch in (*self._flying, self._gathered))

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Finished work is committed before it returns.

        Raises:
            BrokerError: the broker refuses us (credentials, rights, versions): waiting does not help.
            Exception: what a stage raised that is not transient.
        """
        self._consumer.subscribe([self._topic], listener=_Listener(self))
        try:
            try:
                while not stop.is_set() and self._line.error is None:
                    self._step(stop)
                self._drain()
            finally:
                self._commit()
        except _FATAL as error:
            raise BrokerError(f"{self._topic}: the broker refuses us: {_reason(error)}") from error
        finally:
            self._line.close()
            self._consumer.close(timeout_ms=_BROKER_MS)
        if self._line.error is not None:
            raise self._line.error

    def _step(self, stop: threading.Event) -> None:
        """Commit what is done, read what there is room for, hand it on."""
        self._collect()
        self._commit()
        if self._line.failing and self._has_lost_partitions():
            self._abandon("a partition went away during a failure")
        if self._damaged and not self._flying and not self._gathered.size:
            self._hand_on_damaged(next(iter(self._damaged)))
        if self._damaged or len(self._flying) >= self._in_flight:
            self._wait(stop)
        else:
            self._read(stop)
        self._hand_on()

    # Reading.

    def _read(self, stop: threading.Event) -> None:
        if paused := self._consumer.paused():
            self._consumer.resume(*paused)
        try:
            records = self._poll(_GATHER_POLL_MS if self._flying or self._gathered.size else POLL_MS)
        except CorruptRecordError as error:
            self._note_damaged(error)
            return
        except _FATAL:
            raise
        except (KafkaError, *self._transient) as error:
            self._kafka_fails = self._note(error)
            stop.wait(_FIRST_PAUSE_S)
            return
        if not self._finished:  # else it may be the commit that fails
            self._kafka_fails = None
        if records:
            if not self._gathered.size:
                self._gathered_since = time.monotonic()
            self._gathered.add(records, self._terms)

    def _poll(self, timeout_ms: int) -> Records:
        unpark(self._consumer)
        try:
            records: Records = self._consumer.poll(timeout_ms)
        finally:
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

    def _wait(self, stop: threading.Event) -> None:
        """Until there is room or it is time for a poll that keeps the membership."""
        left = self.last_poll + _KEEP_ALIVE_S - time.monotonic()
        if left > 0:
            if self._flying:
                self._flying[0].done.wait(min(left, _LOOK_S))
            return
        self._keep_alive(_LOOK_S, stop)

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
            self.last_poll = time.monotonic()
            stop.wait(seconds)
            return
        self._give_back(early)
        self._consumer.pause(*(early.keys() & self._consumer.assignment()))

    def _give_back(self, records: Records) -> None:
        for tp, rows in records.items():
            self._seek(tp, rows[0].offset)

    def _seek(self, tp: TopicPartition, offset: int) -> None:
        if tp in self._consumer.assignment():
            self._consumer.seek(tp, offset)

    # Batches.

    def _hand_on(self) -> None:
        """Give the stages what was gathered: at once when they are idle, else once it is enough or has waited."""
        batch = self._gathered
        if not batch.size or len(self._flying) >= self._in_flight:
            return
        waited = time.monotonic() - self._gathered_since
        if self._flying and batch.size < self._batch and waited < _GATHER_S and not self._damaged:
            return
        self._gathered = _Batch(dropped=batch.dropped)
        batch.value = batch.records = batch.kept(self._terms)  # the rest its new owner reads
        if batch.size:
            self._fly(batch)

    def _fly(self, batch: _Batch) -> None:
        self._flying.append(batch)
        self._line.put(batch)

    def _collect(self) -> None:
        """Note the offsets of the batches that are through, in order."""
        while self._flying and self._flying[0].done.is_set():
            batch = self._flying.popleft()
            owned = self._consumer.assignment()
            for tp, rows in batch.records.items():
                if tp in owned and self._terms.get(tp, 0) == batch.terms[tp]:
                    self._finished[tp] = rows[-1].offset + 1
            self.handled += batch.size
            self._observer.finished(batch.size, len(self._flying))
            if batch.damaged is not None:
                self._passed(batch.damaged)

    def _has_lost_partitions(self) -> bool:
        under_way = (*self._flying, self._gathered)
        return any(self._terms.get(tp, 0) != batch.terms[tp] for batch in under_way for tp in batch.records)

    def _abandon(self, why: str) -> None:
        """Everything under way is dropped, and read again by whoever owns it; what a stage is at ends unheard."""
        dropped = [*self._flying, self._gathered]
        if any(batch.size for batch in dropped):
            log.warning("%s: %s: work under way is abandoned and will be read again", self._topic, why)
        self._gathered.dropped.set()
        self._flying.clear()
        self._gathered = _Batch()
        for batch in reversed(dropped):  # the oldest last: it has the offsets to go back to
            self._give_back(batch.kept(self._terms))

    def _drain(self) -> None:
        """Before the end: what is under way may finish within the deadline, unless it is failing."""
        deadline = time.monotonic() + self._stop_within_s
        while True:
            self._collect()
            if not self._flying or self._flying[0].broken:  # what follows a broken one is not committed anyway
                break
            if self._line.failing or time.monotonic() > deadline:
                break
            self._flying[0].done.wait(_LOOK_S / 2)
            if time.monotonic() - self.last_poll > _KEEP_ALIVE_S:
                self._keep_alive(_LOOK_S / 2, threading.Event())
        self._abandon("the consumer stops")

    # Damage.

    def _note_damaged(self, error: CorruptRecordError) -> None:
        tp = unreadable_partition(error)
        if tp is None:
            raise error  # not to be told from the others, and another poll would spin
        if tp in self._consumer.assignment():
            self._damaged[tp] = self._consumer.position(tp, timeout_ms=_BROKER_MS), error

    def _hand_on_damaged(self, tp: TopicPartition) -> None:
        """Nothing else is under way: what lies before the offset is written."""
        offset, error = self._damaged[tp]
        batch = _Batch(damaged=tp, dropped=self._gathered.dropped)
        batch.terms[tp] = self._terms.get(tp, 0)
        batch.value = lambda: self._unreadable(tp, offset, error)
        self._fly(batch)

    def _passed(self, tp: TopicPartition) -> None:
        if tp in self._damaged:  # else it went away meanwhile, and begins at another offset if it came back
            offset, error = self._damaged.pop(tp)
            log.error("%s: offset %d of partition %d is passed: %s", tp.topic, offset, tp.partition, error)
            self._seek(tp, offset + 1)
            if tp in self._consumer.assignment():
                self._finished[tp] = offset + 1

    # Committing.

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
            self._kafka_fails = self._note(error)
            return  # kept: the next commit includes them
        for tp in offsets:
            self._finished.pop(tp, None)

    def _note(self, error: Exception) -> str:
        reason = _reason(error)
        if reason != self._told:
            log.warning("%s: backing off, nothing is lost: %s", self._topic, reason)
        self._told = reason
        return reason


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Called in kafka-python's own thread, which nothing may block: a commit in here raises, a slow query would cost
    the membership. So it only takes notes."""

    def __init__(self, loop: ConsumerLoop) -> None:
        self._loop = loop

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._loop._unplaced.update(assigned)

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        for tp in revoked:
            self._loop._terms[tp] = self._loop._terms.get(tp, 0) + 1
            self._loop._finished.pop(tp, None)
            self._loop._damaged.pop(tp, None)
            self._loop._unplaced.discard(tp)

    def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)


class _Batch:
    """Records on their way through the stages, or an offset that cannot be read on its way to `unreadable`."""

    def __init__(self, *, damaged: TopicPartition | None = None, dropped: threading.Event | None = None) -> None:
        self.records: dict[TopicPartition, list[Any]] = {}
        self.terms: dict[TopicPartition, int] = {}  # of the partitions when their records were read
        self.damaged = damaged
        self.value: Any = self.records  # what the next stage gets
        self.done = threading.Event()  # through the last stage
        self.broken = False  # a stage failed in a way that waiting does not mend
        self.dropped = dropped or threading.Event()  # shared by all that is abandoned together

    @property
    def size(self) -> int:
        return sum(map(len, self.records.values()))

    def add(self, records: Records, terms: Mapping[TopicPartition, int]) -> None:
        for tp, rows in records.items():
            term = terms.get(tp, 0)
            if self.terms.get(tp) != term:  # what was read before the partition went away and came back comes again
                self.records[tp], self.terms[tp] = [], term
            self.records[tp] += rows

    def kept(self, terms: Mapping[TopicPartition, int]) -> dict[TopicPartition, list[Any]]:
        """The records of partitions that did not go away since they were read."""
        return {tp: rows for tp, rows in self.records.items() if terms.get(tp, 0) == self.terms[tp]}


class _Line:
    """The stages, a thread each, one queue before each."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        transient: tuple[type[Exception], ...],
        note: Callable[[Exception], str],
        observer: Observer,
    ) -> None:
        self._transient, self._note, self._observer = transient, note, observer
        self.error: BaseException | None = None  # the first that waiting does not mend
        self.failing: dict[str, str] = {}  # stages that back off, and why
        self._queues: list[queue.SimpleQueue[_Batch | None]] = [queue.SimpleQueue() for _ in stages]
        self.threads: list[threading.Thread] = []
        for place, (name, stage) in enumerate(stages.items()):
            # Daemons, unlike an executor's threads: a stage that hangs does not hold up the end of the process.
            thread = threading.Thread(target=self._run, args=(place, name, stage), name=f"consumer-{name}", daemon=True)
            self.threads.append(thread)
            thread.start()

    def put(self, batch: _Batch) -> None:
        self._queues[0].put(batch)

    def close(self) -> None:
        for waiting in self._queues:
            waiting.put(None)

    def _run(self, place: int, name: str, stage: Stage) -> None:
        while (batch := self._queues[place].get()) is not None:
            try:
                done = self._done(name, stage, batch)
            except BaseException as error:
                batch.broken = True
                self.error = self.error or error
                return  # what follows would be written without it
            if not done:
                continue
            if place + 1 < len(self._queues) and batch.damaged is None:
                self._queues[place + 1].put(batch)
            else:
                batch.done.set()

    def _done(self, name: str, stage: Stage, batch: _Batch) -> bool:
        """One stage for one batch, with pauses between attempts; false when it was dropped."""
        began, pause = time.monotonic(), _FIRST_PAUSE_S
        try:
            while not batch.dropped.is_set():
                try:
                    value = batch.value() if batch.damaged is not None else stage(batch.value)
                except self._transient as error:
                    self.failing[name] = self._note(error)
                    self._observer.stage_failed(name, error)
                else:
                    batch.value = value
                    self._observer.stage_done(name, batch.size, time.monotonic() - began)
                    return not batch.dropped.is_set()
                batch.dropped.wait(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            return False
        finally:
            self.failing.pop(name, None)


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
    return explained(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
