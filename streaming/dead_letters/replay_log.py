"""Which dead letters were replayed, as recorded on the compacted topic `dlq.replayed`.

The key of a record names the letter and the id of its topic: `catalog.updates.dlq/0:17/<topic id>`. The value is the
place of the message that was sent: `catalog.updates/3:456`. A letter that no longer exists gets a tombstone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from streaming.dead_letters.bounded_reads import describe_topics, offset_at, read_range
from streaming.dead_letters.letters import Letter, LetterId
from streaming.dead_letters.reader import DeadLetterReader
from streaming.errors import BrokerError, DeadLetterError
from streaming.kafka.connection import Connection, KafkaError, TopicPartition, explained
from streaming.kafka.topics import REPLAYED

_MAX_TOMBSTONES = 1_000  # keys that `take_outdated` returns at once


class Replayed(NamedTuple):
    """One replay of a letter: when, and the place of the message that was sent, `catalog.updates/3:456`."""

    time: datetime
    to: str


class ReplayLog:
    """The replayed letters, read from `dlq.replayed`. Without that topic it is empty.

    It keeps one number in memory for each letter that was replayed and still exists.

    Args:
        connection: The brokers.
        reader: Knows which letters exist.
        of_letters_since: Time of the oldest letter to know about; None reads the whole topic.

    Raises:
        BrokerError: The broker does not answer or denies access.
    """

    def __init__(
        self, connection: Connection, reader: DeadLetterReader, *, of_letters_since: datetime | None = None
    ) -> None:
        self._reader = reader
        self._offsets: dict[TopicPartition, set[int]] = {}
        self._outdated: set[bytes] = set()  # keys of letters that no longer exist
        for record in _records(connection, of_letters_since):
            self._apply(record)

    def __contains__(self, id: LetterId) -> bool:
        """Return whether the letter was replayed."""
        return id.offset in self._offsets.get(id.topic_partition, ())

    def key(self, id: LetterId) -> bytes:
        """Return the key of the letter's record on `dlq.replayed`."""
        return _key(id, self._reader)

    def add(self, id: LetterId) -> None:
        """Remember that a letter was replayed."""
        self._offsets.setdefault(id.topic_partition, set()).add(id.offset)

    def take_outdated(self) -> list[bytes]:
        """Remove and return some keys of letters that no longer exist; their records need tombstones."""
        return [self._outdated.pop() for _ in range(min(len(self._outdated), _MAX_TOMBSTONES))]

    def _apply(self, record: Any) -> None:
        if record.value is None:
            self._outdated.discard(record.key)
            return
        try:
            text, _, topic_id = record.key.decode().rpartition("/")
            id = LetterId.parse(text)
        except (AttributeError, ValueError, DeadLetterError):
            return  # not written by us
        if id.topic not in self._reader.topic_ids:
            return
        first = self._reader.first.get(id.topic_partition, 0)
        if topic_id != self._reader.topic_ids[id.topic] or id.offset < first:
            self._outdated.add(record.key)
        else:
            self.add(id)


def find_replayed(connection: Connection, reader: DeadLetterReader, letter: Letter) -> Replayed | None:
    """Return the last replay of a letter, None if it was not replayed.

    Raises:
        BrokerError: The broker does not answer or denies access.
    """
    replayed, key = None, _key(letter.id, reader)
    for record in _records(connection, letter.time):
        if record.key == key and record.value is not None:
            replayed = Replayed(datetime.fromtimestamp(record.timestamp / 1000, UTC), record.value.decode())
    return replayed


def _key(id: LetterId, reader: DeadLetterReader) -> bytes:
    return f"{id}/{reader.topic_ids[id.topic]}".encode()


def _records(connection: Connection, of_letters_since: datetime | None) -> Iterator[Any]:
    if not describe_topics(connection, [REPLAYED]):
        return
    consumer = connection.consumer(isolation_level="read_committed", max_poll_records=2_000)
    tp = TopicPartition(REPLAYED, 0)
    try:
        start, end = int(consumer.beginning_offsets([tp])[tp]), int(consumer.end_offsets([tp])[tp])
        if of_letters_since is not None:
            # A replay is later than its letter, but the two times come from different machines: allow a day.
            start = max(start, offset_at(consumer, tp, of_letters_since - timedelta(days=1), end))
        yield from read_range(consumer, tp, start, end)
    except KafkaError as error:
        raise BrokerError(f"{REPLAYED} cannot be read: {explained(error)}") from error
    finally:
        consumer.close(timeout_ms=3_000)
