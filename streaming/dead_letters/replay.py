"""Send dead letters back to the topic that they came from, each once.

A batch of messages is sent to the source topic first, then recorded on `dlq.replayed` in one transaction. A replay that
is killed between the two sends at most that batch again (`MAX_BATCH` messages, or the messages of one second), which
does no harm: every consumer is idempotent. All replays use the same transactional id, so a second replay fences the
first, which stops within its batch.

The messages themselves are sent outside the transaction: a transaction marker takes an offset that no consumer commits,
so the consumers' lag would never return to 0.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

from kafka.errors import (
    InvalidProducerEpochError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    RecordListTooLargeError,
)

from streaming.dead_letters.letters import Letter, LetterId
from streaming.dead_letters.reader import DeadLetterReader
from streaming.dead_letters.replay_log import ReplayLog
from streaming.dead_letters.replay_plan import Message, Planned, ReplayedLetters, SkipReason
from streaming.errors import BrokerError, DeadLetterError
from streaming.kafka.connection import Connection, KafkaError, KafkaProducer, explained
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import REPLAYED

MAX_BATCH = 100
"""Largest number of messages that are sent but not yet recorded."""
_MAX_BATCH_BYTES = 16_000_000

_FENCED = (ProducerFencedError, InvalidProducerEpochError)
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class ReplayResult(NamedTuple):
    """The result of a replay or a dry run.

    Attributes:
        replayed: Number of replayed letters; in a dry run, of letters that would be replayed.
        skipped: Number of skipped letters by reason.
    """

    replayed: int
    skipped: Counter[SkipReason]


class WritableReplayLog(ReplayedLetters, Protocol):
    """The part of `ReplayLog` that a replayer needs."""

    def key(self, id: LetterId) -> bytes:
        """Return the key of the letter's record on `dlq.replayed`."""

    def add(self, id: LetterId) -> None:
        """Remember that a letter was replayed."""

    def take_outdated(self) -> list[bytes]:
        """Remove and return some keys of letters that no longer exist."""


def dry_run(
    planned: Iterable[Planned],
    on_skipped: Callable[[Letter, SkipReason], None] = lambda letter, reason: None,
) -> ReplayResult:
    """Return what a replay would do; nothing is sent or recorded."""
    count, skipped = 0, Counter[SkipReason]()
    for letter, message in planned:
        if isinstance(message, SkipReason):
            skipped[message] += 1
            on_skipped(letter, message)
        else:
            count += 1
    return ReplayResult(count, skipped)


@contextmanager
def replaying(
    connection: Connection, reader: DeadLetterReader, *, rate: float, replication: int = 1
) -> Iterator[Replayer]:
    """Open a replayer. Earlier replays can record nothing more from then on; each stops within its batch.

    Args:
        connection: The brokers.
        reader: Reads the letters.
        rate: Messages per second.
        replication: Replication factor of topics that must be created.

    Raises:
        TopicError: A topic has a wrong setting or cannot be created.
        BrokerError: The broker does not answer or denies access.
    """
    ensure_topics(connection, replication=replication)
    with ExitStack() as stack:
        # No limit of our own: the original may be large, and its topic has its own limit.
        producer = connection.producer(max_request_size=2**30)
        stack.callback(producer.close, 2)  # a short wait: all important messages were flushed
        log_producer = connection.producer(transactional_id=f"sagelift-{REPLAYED}")
        stack.callback(log_producer.close, 2)
        try:
            log_producer.init_transactions()
        except KafkaError as error:
            raise BrokerError(f"{REPLAYED} cannot be written: {explained(error)}") from error
        # Read the log only now, when no other replay can add to it.
        yield Replayer(producer, log_producer, ReplayLog(connection, reader), rate=rate)


class Replayer:
    """Sends letters at a limited rate and records them. Made by `replaying`.

    Args:
        producer: Sends the messages.
        log_producer: An initialised transactional producer; writes `dlq.replayed`.
        log: The replayed letters, read after `log_producer` was initialised.
        rate: Messages per second.
        clock: Returns seconds, as `time.monotonic` does.
        sleep: Waits for some seconds, as `time.sleep` does.

    Attributes:
        log: The replayed letters, also those of this run.

    Raises:
        ValueError: The rate is not above 0.
    """

    def __init__(
        self,
        producer: KafkaProducer,
        log_producer: KafkaProducer,
        log: WritableReplayLog,
        *,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not rate > 0:
            raise ValueError(f"rate {rate} must be above 0")
        self.log = log
        self._producer, self._log_producer = producer, log_producer
        self._limiter, self._batch_size = RateLimiter(rate, clock, sleep), max(1, min(MAX_BATCH, int(rate)))
        self._batch: list[tuple[Letter, Message, Any]] = []  # sent, not yet recorded; with kafka-python's future
        self._batch_bytes = self._replayed = 0
        self._skipped: Counter[SkipReason] = Counter()

    def run(
        self,
        planned: Iterable[Planned],
        on_progress: Callable[[int], None] = lambda replayed: None,
        on_skipped: Callable[[Letter, SkipReason], None] = lambda letter, reason: None,
    ) -> ReplayResult:
        """Replay a plan.

        Args:
            planned: The letters and their messages, from `plan`.
            on_progress: Receives the number of replayed letters after each batch.
            on_skipped: Receives each skipped letter and the reason.

        Raises:
            BrokerError: The broker no longer accepts messages; those it accepted are recorded if possible.
            DeadLetterError: Another replay was started during this one.
        """
        self._on_skipped = on_skipped
        try:
            for letter, message in planned:
                if isinstance(message, SkipReason):
                    self._skip(letter, message)
                    continue
                self._limiter.wait()
                self._send(letter, message)
                if len(self._batch) >= self._batch_size or self._batch_bytes >= _MAX_BATCH_BYTES:
                    self._finish_batch()
                    on_progress(self._replayed)
        except KeyboardInterrupt:
            self._finish_batch()
            raise
        self._finish_batch()
        on_progress(self._replayed)
        return ReplayResult(self._replayed, self._skipped)

    def _send(self, letter: Letter, message: Message) -> None:
        topic, key, value, headers = message
        try:
            future = self._producer.send(topic, key=key, value=value, headers=headers)
        except _TOO_LARGE:
            self._skip(letter, SkipReason.TOO_LARGE)
        except KafkaError as error:
            self._finish_batch()
            raise self._stopped(error) from error
        else:
            self._batch.append((letter, message, future))
            self._batch_bytes += len(value or b"")

    def _finish_batch(self) -> None:
        """Wait until the broker has the batch, and record the messages that it accepted."""
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        accepted: list[tuple[LetterId, str]] = []
        failure: KafkaError | None = None
        try:
            self._producer.flush(30)
        except KafkaError as error:
            failure = error
        for letter, message, future in batch:
            try:
                place = future.get(0 if failure else 30)
                accepted.append((letter.id, f"{message.topic}/{place.partition}:{place.offset}"))
            except _TOO_LARGE:
                self._skip(letter, SkipReason.TOO_LARGE)
            except KafkaError as error:
                failure = error
        self._record(accepted)
        if failure is not None:
            raise self._stopped(failure) from failure

    def _record(self, accepted: Sequence[tuple[LetterId, str]]) -> None:
        if not accepted:
            return
        try:
            self._log_producer.begin_transaction()
            for id, place in accepted:
                self._log_producer.send(REPLAYED, key=self.log.key(id), value=place.encode())
            for key in self.log.take_outdated():
                self._log_producer.send(REPLAYED, key=key, value=None)
            self._log_producer.commit_transaction()
        except _FENCED:
            raise DeadLetterError(
                f"another replay was started and continues; this one stopped after {self._replayed} letters "
                f"(the last {len(accepted)} may be sent twice)"
            ) from None
        except KafkaError as error:
            raise self._stopped(error) from error
        for id, _ in accepted:
            self.log.add(id)
        self._replayed += len(accepted)

    def _stopped(self, error: KafkaError) -> BrokerError:
        return BrokerError(
            f"the broker no longer accepts messages ({explained(error)}): {self._replayed} letters were replayed; run "
            "the same command again to continue"
        )

    def _skip(self, letter: Letter, reason: SkipReason) -> None:
        self._skipped[reason] += 1
        self._on_skipped(letter, reason)


class RateLimiter:
    """Spaces calls evenly, `rate` per second. After a pause, calls do not come faster to catch up.

    Args:
        rate: Calls per second.
        clock: Returns seconds, as `time.monotonic` does.
        sleep: Waits for some seconds, as `time.sleep` does.
    """

    def __init__(self, rate: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._interval_s, self._clock, self._sleep = 1 / rate, clock, sleep
        self._next = clock()

    def wait(self) -> None:
        """Wait until the next call is due."""
        now = self._clock()
        if self._next > now:
            self._sleep(self._next - now)
        self._next = max(self._next, now) + self._interval_s
