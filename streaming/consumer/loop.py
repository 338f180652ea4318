"""The consumer loop of the catalogue and the events: read, handle, commit, always in this order.

    poll -> gather -> stage -> stage -> ... -> commit

Each stage has its own thread and takes the batches in order. So several batches are in work at once, each in another
stage. The result is the same as one batch after the other. The loop covers these cases:

* Work that takes long (a slow image server) or fails for a while (Triton, a store or the broker is unreachable): polls
  that read nothing keep the group membership. A failed stage retries the same batch with jittered back-off; the batches
  behind it wait, and the loop reads no more than a few batches ahead.
* Load: a lone update is handled at once; while other batches are in flight, new records are gathered into one batch.
* A rebalance while work is in flight: work on a lost partition may finish, but this consumer does not commit it. The
  new owner reads these records again. If a stage is failing at that time, all work in flight is dropped and read again.
  Records that arrive in this time are not lost: the consumer seeks back and reads them again.
* A failed commit is kept and retried; a refused one (no longer a member) is dropped. Every write is idempotent, so
  reading records again changes nothing.
* Damaged bytes on the broker's disk: the offset becomes a dead letter and is skipped.
* SIGTERM or a permanent error: work in flight may finish within a deadline and is committed; otherwise it is abandoned
  and read again later.
* A poll that never returns (kafka-python can spin): `streaming.consumer.watchdog` ends the process, and its supervisor
  starts it again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kafka.errors import (
    AuthorizationError,
    FencedInstanceIdError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    UnsupportedVersionError,
)

from streaming.consumer.observer import NO_OBSERVER, Observer
from streaming.consumer.partitions import BROKER_MS, Partitions, Records
from streaming.consumer.stages import Backoff, Batch, Stage, StageThreads
from streaming.errors import BrokerError
from streaming.kafka.connection import (
    POLL_MS,
    CorruptRecordError,
    KafkaConsumer,
    KafkaError,
    TopicPartition,
    explained,
    unpark,
)

log = logging.getLogger(__name__)

_GATHER_POLL_MS = 20  # short, so that the loop notices soon when a batch in flight is done
_CHECK_S = 0.1  # longest wait before the loop checks whether it must stop
_FATAL = (
    AuthorizationError,
    FencedInstanceIdError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    UnsupportedVersionError,
)


@dataclass(frozen=True)
class Pacing:
    """How long the loop waits, in seconds.

    Attributes:
        backoff: Pauses between the attempts of a failing stage, and after a failed poll.
        keep_alive_s: Time between polls that only keep the group membership. A batch that finishes sooner needs no
            such poll.
        gather_s: How long records wait for others while a batch is in flight. Keep it far below the duration of a batch
            under load.
        stop_within_s: How long work in flight may take after a stop.
    """

    backoff: Backoff = field(default_factory=Backoff)
    keep_alive_s: float = 1.0
    gather_s: float = 0.15
    stop_within_s: float = 8.0


class ConsumerLoop:
    """Runs the stages over a topic.

    Args:
        consumer: From `Connection.consumer` with a group.
        topic: The topic to read.
        stages: By name, in order; when the last one returns, everything about the batch is written. Each stage is
            called in its own thread, one batch at a time, in the order of reading. A retry gets the same input, so a
            stage must not change it.
        retryable: Errors of the stages, of `unreadable` and of `start_offsets` after which a later attempt may succeed.
            Any other error is permanent and ends the loop.
        unreadable: Called for an offset that cannot be read, for instance to write a dead letter.
        start_offsets: Where to begin in newly assigned partitions when the offsets are not kept in Kafka (the event
            sink keeps them in its database). None starts at the group's committed offsets.
        in_flight: Maximum number of batches in flight. Default: 1 for a single stage, otherwise the number of stages
            plus 1.
        batch: Number of records at which gathering stops while other batches are in flight; the last poll may exceed
            it.
        pacing: How long the loop waits.
        observer: Receives the progress.

    Attributes:
        topic: The topic that the loop reads.
        handled: Number of records that passed all stages.
        last_poll: When the last poll returned, in seconds of `time.monotonic`.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        topic: str,
        stages: Mapping[str, Stage],
        *,
        retryable: tuple[type[Exception], ...],
        unreadable: Callable[[TopicPartition, int, Exception], None],
        start_offsets: Callable[[], Mapping[int, int]] | None = None,
        in_flight: int | None = None,
        batch: int = 1024,
        pacing: Pacing | None = None,
        observer: Observer = NO_OBSERVER,
    ) -> None:
        self._consumer, self.topic, self._retryable, self._unreadable = consumer, topic, retryable, unreadable
        self._max_in_flight = in_flight or (1 if len(stages) == 1 else len(stages) + 1)
        self._batch_size, self._pacing, self._observer = batch, pacing or Pacing(), observer
        self._partitions = Partitions(consumer, topic, start_offsets)
        self._in_flight: deque[Batch] = deque()
        self._gathered, self._gathered_since = Batch(), 0.0
        self._stages = StageThreads(
            stages, retryable=retryable, backoff=self._pacing.backoff, note=self._note, observer=observer
        )
        self._kafka_failure: str | None = None
        self._last_logged: str | None = None
        self.handled = 0
        self.last_poll = time.monotonic()

    @property
    def failing(self) -> str | None:
        """Reason why the loop is backing off; None if it is not."""
        return next(iter(self._stages.failing.values()), self._kafka_failure)

    @property
    def error(self) -> BaseException | None:
        """The permanent error of a stage that ends the loop; None while no stage has one."""
        return self._stages.error

    @property
    def partitions(self) -> frozenset[int] | None:
        """The assigned partitions, possibly none; None before the group has assigned partitions."""
        if self._consumer.group_metadata().generation_id < 0:
            return None
        return frozenset(tp.partition for tp in self._consumer.assignment())

    @property
    def records_in_flight(self) -> int:
        """Number of records that were read and have not passed all stages."""
        return sum(batch.size for batch in (*self._in_flight, self._gathered))

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set; commit finished work before returning.

        Raises:
            BrokerError: The broker refuses this consumer (credentials, rights, versions); a retry would not help.
            Exception: A permanent error of a stage.
        """
        self._consumer.subscribe([self.topic], listener=self._partitions)
        try:
            try:
                while not stop.is_set() and self._stages.error is None:
                    self._step(stop)
                self._drain()
            finally:
                self._commit()
        except _FATAL as error:
            raise BrokerError(f"{self.topic}: the broker refuses this consumer: {_reason(error)}") from error
        finally:
            self._stages.close()
            self._consumer.close(timeout_ms=BROKER_MS)
        if self._stages.error is not None:
            raise self._stages.error

    def _step(self, stop: threading.Event) -> None:
        """Commit finished batches, read records if another batch may start, and dispatch them."""
        self._collect_finished()
        self._commit()
        if self._stages.failing and self._has_lost_partitions():
            self._abandon("a partition was taken away during a failure")
        if self._partitions.damaged and not self._in_flight and not self._gathered.size:
            self._dispatch_damaged(next(iter(self._partitions.damaged)))
        if self._partitions.damaged or len(self._in_flight) >= self._max_in_flight:
            self._wait(stop)
        else:
            self._read(stop)
        self._dispatch()

    # Reading.

    def _read(self, stop: threading.Event) -> None:
        self._partitions.resume()
        try:
            records = self._poll(_GATHER_POLL_MS if self._in_flight or self._gathered.size else POLL_MS)
        except CorruptRecordError as error:
            self._partitions.note_damaged(error)
            return
        except _FATAL:
            raise
        except (KafkaError, *self._retryable) as error:
            self._kafka_failure = self._note(error)
            stop.wait(self._pacing.backoff.first_s)
            return
        if not self._partitions.uncommitted:  # with uncommitted offsets, the failure may be that of the commit
            self._kafka_failure = None
        if records:
            if not self._gathered.size:
                self._gathered_since = time.monotonic()
            self._gathered.add(records, self._partitions.epoch)

    def _poll(self, timeout_ms: int) -> Records:
        unpark(self._consumer)
        try:
            records: Records = self._consumer.poll(timeout_ms)
        finally:
            self.last_poll = time.monotonic()
        return {} if self._partitions.place(records) else records

    def _wait(self, stop: threading.Event) -> None:
        """Wait until another batch may start, or until a poll is needed to keep the membership."""
        left = self.last_poll + self._pacing.keep_alive_s - time.monotonic()
        if left > 0:
            if self._in_flight:
                self._in_flight[0].done.wait(min(left, _CHECK_S))
            return
        self._keep_alive(_CHECK_S, stop)

    def _keep_alive(self, seconds: float, stop: threading.Event) -> None:
        """Poll to stay in the group, but give back any records and pause their partitions.

        The partitions are not paused before the poll: kafka-python drops a pending error of a paused partition.
        """
        self._partitions.pause(self._partitions.damaged)
        try:
            early = self._poll(int(1000 * seconds))
        except CorruptRecordError as error:
            self._partitions.note_damaged(error)
            return
        except _FATAL:
            raise
        except (KafkaError, *self._retryable):
            self.last_poll = time.monotonic()
            stop.wait(seconds)
            return
        self._partitions.give_back(early)
        self._partitions.pause(early)

    # Batches.

    def _dispatch(self) -> None:
        """Give the gathered records to the stages: at once if no batch is in flight, else if they are many or old."""
        batch = self._gathered
        if not batch.size or len(self._in_flight) >= self._max_in_flight:
            return
        waited = time.monotonic() - self._gathered_since
        busy = self._in_flight and not self._partitions.damaged
        if busy and batch.size < self._batch_size and waited < self._pacing.gather_s:
            return
        self._gathered = Batch(dropped=batch.dropped)
        batch.value = batch.records = batch.kept(self._partitions.epoch)  # the new owners read the others
        if batch.size:
            self._launch(batch)

    def _dispatch_damaged(self, tp: TopicPartition) -> None:
        """Hand a damaged offset to `unreadable`. Nothing is in flight, so all records before it are written."""
        offset, error = self._partitions.damaged[tp]
        batch = Batch(damaged=tp, dropped=self._gathered.dropped)
        batch.epochs[tp] = self._partitions.epoch(tp)
        batch.value = lambda: self._unreadable(tp, offset, error)
        self._launch(batch)

    def _launch(self, batch: Batch) -> None:
        self._in_flight.append(batch)
        self._stages.put(batch)

    def _collect_finished(self) -> None:
        """Note the offsets of the batches that passed all stages, in order."""
        while self._in_flight and self._in_flight[0].done.is_set():
            batch = self._in_flight.popleft()
            self._partitions.finish(batch.records, batch.epochs)
            self.handled += batch.size
            self._observer.finished(batch.size, len(self._in_flight))
            if batch.damaged is not None:
                self._partitions.skip_damaged(batch.damaged)

    def _has_lost_partitions(self) -> bool:
        batches = (*self._in_flight, self._gathered)
        return any(self._partitions.epoch(tp) != batch.epochs[tp] for batch in batches for tp in batch.records)

    def _abandon(self, why: str) -> None:
        """Drop all work in flight and ignore the results of running stages; each partition's owner reads it again."""
        dropped = [*self._in_flight, self._gathered]
        if any(batch.size for batch in dropped):
            log.warning("%s: %s: work in flight is abandoned and will be read again", self.topic, why)
        self._gathered.dropped.set()
        self._in_flight.clear()
        self._gathered = Batch()
        for batch in reversed(dropped):  # the oldest batch last: its offsets are the ones to return to
            self._partitions.give_back(batch.kept(self._partitions.epoch))

    def _drain(self) -> None:
        """Before the end, let work in flight finish within the deadline, unless it is failing."""
        deadline = time.monotonic() + self._pacing.stop_within_s
        while True:
            self._collect_finished()
            if not self._in_flight or self._in_flight[0].broken:  # batches behind a broken one are not committed
                break
            if self._stages.failing or time.monotonic() > deadline:
                break
            self._in_flight[0].done.wait(_CHECK_S / 2)
            if time.monotonic() - self.last_poll > self._pacing.keep_alive_s:
                self._keep_alive(_CHECK_S / 2, threading.Event())
        self._abandon("the consumer stops")

    # Committing.

    def _commit(self) -> None:
        try:
            self._partitions.commit()
        except _FATAL:
            raise
        except KafkaError as error:
            self._kafka_failure = self._note(error)

    def _note(self, error: Exception) -> str:
        """Log a retryable error unless it is the same as the last one; return its text."""
        reason = _reason(error)
        if reason != self._last_logged:
            log.warning("%s: backing off, nothing is lost: %s", self.topic, reason)
        self._last_logged = reason
        return reason


def _reason(error: Exception) -> str:
    return explained(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
