"""Sending dead letters back to the topic that they came from, each once.

What was sent is remembered on the compacted topic `dlq.replayed`. A batch is written to its own topic first, then
remembered in one transaction: killed in between, a replay sends at most that batch again (`MAX_BATCH` messages, or
what the rate allows in a second), which changes nothing, as every consumer is idempotent. The transaction's id is the
same for every replay, so a second one that is started meanwhile fences the first, which stops within its batch.

The messages themselves are sent outside the transaction: a transaction's marker takes an offset, which no consumer
commits, so that their lag would never be 0 again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from kafka.errors import (
    InvalidProducerEpochError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    RecordListTooLargeError,
)

from streaming.dead_letters.reader import (
    DeadLetterReader,
    Letter,
    LetterId,
    describe,
    offset_at,
    read_range,
    source_topic,
)
from streaming.dead_letters.writer import ERRORS, LIVING_ON, TRUNCATED
from streaming.errors import BrokerError, DeadLetterError
from streaming.kafka.connection import Connection, KafkaError, KafkaProducer, TopicPartition, explained
from streaming.kafka.topics import REPLAYED, ensure_topics

MAX_BATCH = 100
"""Messages that are sent, but not yet remembered."""
_MAX_BATCH_BYTES = 16_000_000

ALREADY = "already replayed"
UNREADABLE = "their bytes are damaged in the broker's log"
CUT = "they were too large for a dead letter, and the original is no longer on its topic"
TOO_LARGE = "their topic takes no message that large"

_FENCED = (ProducerFencedError, InvalidProducerEpochError)
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class Message(NamedTuple):
    """What is sent for a letter: the original, with what its next failure must know of the earlier ones."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Replayed(NamedTuple):
    """When a letter was replayed, and where the message went: `catalog.updates/3:456`."""

    time: datetime
    to: str


class Result(NamedTuple):
    """How many letters were replayed (in a dry run: would be), and how many not, by the reason."""

    replayed: int
    skipped: Counter[str]


class Done(Protocol):
    """Which letters were replayed."""

    def __contains__(self, id: LetterId, /) -> bool: ...


class Memory(Done, Protocol):
    """The part of `Ledger` that a replayer needs."""

    def key(self, id: LetterId) -> bytes: ...
    def add(self, id: LetterId) -> None: ...
    def forgotten(self) -> list[bytes]: ...


def message_of(letter: Letter, original: Callable[[Letter], bytes | None]) -> Message | str:
    """The message to send for a letter, or the reason why there is none. `original` finds the bytes of one cut short.

    The topic follows from the dead-letter topic, never from a header, which anyone may have written.
    """
    if letter.stage == "fetch":
        return UNREADABLE
    value = letter.value
    if letter.cut_from is not None and (value := original(letter)) is None:
        return CUT
    if value is None and letter.key is None:
        value = b""  # kafka-python sends no record of nothing at all
    kept = {ERRORS + name for name in LIVING_ON}
    headers = [(k, v) for k, v in letter.headers if k in kept or not (k.startswith(ERRORS) or k == TRUNCATED)]
    return Message(source_topic(letter.id.topic), letter.key, value, headers)


def plan(
    letters: Iterable[Letter],
    original: Callable[[Letter], bytes | None],
    done: Done,
    *,
    again: bool = False,
    limit: int | None = None,
) -> Iterator[tuple[Letter, Message | str]]:
    """Each letter with its message, or the reason to skip it; `limit` counts messages."""
    left = limit
    if left == 0:
        return
    for letter in letters:
        message = ALREADY if not again and letter.id in done else message_of(letter, original)
        yield letter, message
        if left is not None and isinstance(message, Message):
            left -= 1
            if not left:
                return


class Ledger:
    """What was replayed, as `dlq.replayed` says; without that topic, nothing.

    A key names the letter and its topic's log: `catalog.updates.dlq/0:17/<topic id>`. In memory it is a number for
    each letter that was replayed and is still there.
    """

    def __init__(
        self, connection: Connection, reader: DeadLetterReader, *, of_letters_since: datetime | None = None
    ) -> None:
        self._reader = reader
        self._done: dict[TopicPartition, set[int]] = {}
        self._gone: set[bytes] = set()  # keys of letters that are deleted
        for record in _replayed_records(connection, of_letters_since):
            self._note(record)

    def __contains__(self, id: LetterId) -> bool:
        return id.offset in self._done.get(TopicPartition(id.topic, id.partition), ())

    def key(self, id: LetterId) -> bytes:
        """The key under which a letter is remembered."""
        return _key(id, self._reader)

    def add(self, id: LetterId) -> None:
        """Know of one more."""
        self._done.setdefault(TopicPartition(id.topic, id.partition), set()).add(id.offset)

    def forgotten(self) -> list[bytes]:
        """Keys of letters that are no longer there, some at a time: to be deleted from the topic."""
        return [self._gone.pop() for _ in range(min(len(self._gone), 10 * MAX_BATCH))]

    def _note(self, record: Any) -> None:
        if record.value is None:
            self._gone.discard(record.key)
            return
        try:
            text, _, log = record.key.decode().rpartition("/")
            id = LetterId.parse(text)
        except (AttributeError, ValueError, DeadLetterError):
            return  # not ours
        if id.topic not in self._reader.logs:
            return
        first = self._reader.first.get(TopicPartition(id.topic, id.partition), 0)
        if log != self._reader.logs[id.topic] or id.offset < first:
            self._gone.add(record.key)
        else:
            self.add(id)


def find_replayed(connection: Connection, reader: DeadLetterReader, letter: Letter) -> Replayed | None:
    """When and as what a letter was replayed the last time."""
    found, key = None, _key(letter.id, reader)
    for record in _replayed_records(connection, letter.time):
        if record.key == key and record.value is not None:
            found = Replayed(datetime.fromtimestamp(record.timestamp / 1000, UTC), record.value.decode())
    return found


def _key(id: LetterId, reader: DeadLetterReader) -> bytes:
    return f"{id}/{reader.logs[id.topic]}".encode()


def _replayed_records(connection: Connection, of_letters_since: datetime | None) -> Iterator[Any]:
    if not describe(connection, [REPLAYED]):
        return
    consumer = connection.consumer(isolation_level="read_committed", max_poll_records=2_000)
    tp = TopicPartition(REPLAYED, 0)
    try:
        start, end = int(consumer.beginning_offsets([tp])[tp]), int(consumer.end_offsets([tp])[tp])
        if of_letters_since is not None:
            # A letter is replayed after it was written, but another machine's clock says when.
            start = max(start, offset_at(consumer, tp, of_letters_since - timedelta(days=1), end))
        yield from read_range(consumer, tp, start, end)
    except KafkaError as error:
        raise BrokerError(f"{REPLAYED} cannot be read: {explained(error)}") from error
    finally:
        consumer.close(timeout_ms=3_000)


class Replayer:
    """Sends letters, remembers them, and goes no faster than told. Made by `replaying`.

    Args:
        producer: sends the messages.
        memory: a transactional producer, initialised; writes `dlq.replayed`.
        ledger: read after `memory` was initialised, when no other replay could add to it any more.
        rate: messages a second.
        clock, sleep: seconds, as `time.monotonic` and `time.sleep`.
    """

    def __init__(
        self,
        producer: KafkaProducer,
        memory: KafkaProducer,
        ledger: Memory,
        *,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not rate > 0:
            raise ValueError(f"rate {rate} must be above 0")
        self._producer, self._memory, self.ledger = producer, memory, ledger
        self._pace, self._batch_size = Pace(rate, clock, sleep), max(1, min(MAX_BATCH, int(rate)))
        self._unremembered: list[tuple[Letter, Message, Any]] = []
        self._bytes = self._replayed = 0
        self._skipped: Counter[str] = Counter()

    def run(
        self,
        planned: Iterable[tuple[Letter, Message | str]],
        on_progress: Callable[[int], None] = lambda replayed: None,
        on_skipped: Callable[[Letter, str], None] = lambda letter, reason: None,
    ) -> Result:
        """Replay what `plan` made.

        Raises:
            BrokerError: the broker no longer takes them; what it took is remembered, if it can be.
            DeadLetterError: another replay was started meanwhile.
        """
        self._on_skipped = on_skipped
        try:
            for letter, message in planned:
                if isinstance(message, str):
                    self._skip(letter, message)
                    continue
                self._pace.wait()
                self._send(letter, message)
                if len(self._unremembered) >= self._batch_size or self._bytes >= _MAX_BATCH_BYTES:
                    self._settle()
                    on_progress(self._replayed)
        except KeyboardInterrupt:
            self._settle()
            raise
        self._settle()
        on_progress(self._replayed)
        return Result(self._replayed, self._skipped)

    def _send(self, letter: Letter, message: Message) -> None:
        topic, key, value, headers = message
        try:
            sent = self._producer.send(topic, key=key, value=value, headers=headers)
        except _TOO_LARGE:
            self._skip(letter, TOO_LARGE)
        except KafkaError as error:
            self._settle()
            raise self._broken(error) from error
        else:
            self._unremembered.append((letter, message, sent))
            self._bytes += len(value or b"")

    def _settle(self) -> None:
        """Wait until the broker has the batch, and remember what it took."""
        batch, self._unremembered, self._bytes = self._unremembered, [], 0
        if not batch:
            return
        taken: list[tuple[LetterId, str]] = []
        broken: KafkaError | None = None
        try:
            self._producer.flush(30)
        except KafkaError as error:
            broken = error
        for letter, message, sent in batch:
            try:
                at = sent.get(0 if broken else 30)
                taken.append((letter.id, f"{message.topic}/{at.partition}:{at.offset}"))
            except _TOO_LARGE:
                self._skip(letter, TOO_LARGE)
            except KafkaError as error:
                broken = error
        self._remember(taken)
        if broken is not None:
            raise self._broken(broken) from broken

    def _remember(self, taken: Sequence[tuple[LetterId, str]]) -> None:
        if not taken:
            return
        try:
            self._memory.begin_transaction()
            for id, place in taken:
                self._memory.send(REPLAYED, key=self.ledger.key(id), value=place.encode())
            for key in self.ledger.forgotten():
                self._memory.send(REPLAYED, key=key, value=None)
            self._memory.commit_transaction()
        except _FENCED:
            raise DeadLetterError(
                f"another replay was started meanwhile and goes on; this one stopped after {self._replayed} letters "
                f"(the last {len(taken)} may be sent twice)"
            ) from None
        except KafkaError as error:
            raise self._broken(error) from error
        for id, _ in taken:
            self.ledger.add(id)
        self._replayed += len(taken)

    def _broken(self, error: KafkaError) -> BrokerError:
        return BrokerError(
            f"the broker no longer takes them ({explained(error)}): {self._replayed} letters were replayed; the "
            "same command goes on after them"
        )

    def _skip(self, letter: Letter, reason: str) -> None:
        self._skipped[reason] += 1
        self._on_skipped(letter, reason)


class Pace:
    """Lets one through after the other, `rate` a second; what was missed is not caught up with in a burst."""

    def __init__(self, rate: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._each, self._clock, self._sleep = 1 / rate, clock, sleep
        self._next = clock()

    def wait(self) -> None:
        """Returns when the next may go."""
        now = self._clock()
        if self._next > now:
            self._sleep(self._next - now)
        self._next = max(self._next, now) + self._each


@contextmanager
def replaying(
    connection: Connection, reader: DeadLetterReader, *, rate: float, replication: int = 1
) -> Iterator[Replayer]:
    """A replayer; from now on no earlier one can remember anything, and each stops within its batch.

    `replication` is that of topics that are missing.

    Raises:
        TopicError: a topic has another setting than we need, or cannot be made.
        BrokerError: the broker refuses, or does not answer.
    """
    ensure_topics(connection, replication=replication)
    with ExitStack() as opened:
        # As large as the original may have been; it is the topic that decides what it takes.
        producer = connection.producer(max_request_size=2**30)
        opened.callback(producer.close, 2)  # all that counts was flushed
        memory = connection.producer(transactional_id=f"sagelift-{REPLAYED}")
        opened.callback(memory.close, 2)
        try:
            memory.init_transactions()
        except KafkaError as error:
            raise BrokerError(f"{REPLAYED} cannot be written: {explained(error)}") from error
        yield Replayer(producer, memory, Ledger(connection, reader), rate=rate)


def rehearse(
    planned: Iterable[tuple[Letter, Message | str]],
    on_skipped: Callable[[Letter, str], None] = lambda letter, reason: None,
) -> Result:
    """What a replay would do; nothing is sent, nothing remembered."""
    count, skipped = 0, Counter[str]()
    for letter, message in planned:
        if isinstance(message, str):
            skipped[message] += 1
            on_skipped(letter, message)
        else:
            count += 1
    return Result(count, skipped)
