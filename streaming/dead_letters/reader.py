"""Read dead letters from a given time on, up to the end that each partition had when the reader was opened.

The reader uses no consumer group, commits nothing and keeps nothing: a topic with millions of letters needs no more
memory than a topic with ten.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from streaming.dead_letters.bounded_reads import describe_topics, offset_at, read_range
from streaming.dead_letters.letters import SOURCES, Letter, LetterId
from streaming.errors import BrokerError, DeadLetterError, TopicError
from streaming.kafka.connection import Connection, KafkaError, TopicPartition
from streaming.kafka.topics import dead_letter_topic

NEWEST_WINDOW = 1_000
"""Number of offsets that the search for the newest letters reads first in each partition."""

ReadLetters = Callable[[TopicPartition, int, int], Iterator[Letter]]
"""Reads the letters of a partition between two offsets, the second exclusive."""


class DeadLetterReader:
    """Reads the letters that exist when it is opened. A context manager for one thread, one iteration at a time.

    Args:
        connection: The brokers.
        sources: Topics whose dead letters are read, from `SOURCES`.

    Attributes:
        topic_ids: Dead-letter topic -> its id. A topic that is created again under the same name has another id.
        first: First offset of each partition.
        end: Offset after the last letter of each partition.

    Raises:
        TopicError: A dead-letter topic does not exist.
        BrokerError: The broker does not answer or denies access.
    """

    def __init__(self, connection: Connection, sources: Sequence[str] = SOURCES) -> None:
        self._connection = connection
        self._topics = [dead_letter_topic(source) for source in sources]
        described = describe_topics(connection, self._topics)
        for topic in self._topics:
            if topic not in described:
                raise TopicError(f"topic {topic} does not exist; the consumers create the topics when they start")
        self.topic_ids = {name: topic.id for name, topic in described.items()}
        partitions = [tp for topic in described.values() for tp in topic.partitions]
        self._consumer = connection.consumer(max_poll_records=2_000)
        try:
            self.first = {tp: int(o) for tp, o in self._consumer.beginning_offsets(partitions).items()}
            self.end = {tp: int(o) for tp, o in self._consumer.end_offsets(partitions).items()}
        except KafkaError as error:
            self.close()
            raise BrokerError(f"{', '.join(self._topics)} cannot be read: {type(error).__name__}") from error

    def letters(self, selects: Callable[[Letter], bool], since: datetime | None = None) -> Iterator[Letter]:
        """Yield the selected letters, oldest first within a partition.

        Args:
            selects: Whether to yield a letter, such as a `LetterFilter`.
            since: Time to start reading at; None starts at the first letter.

        Raises:
            BrokerError: The broker does not answer or denies access.
        """
        for tp in sorted(self.first):
            for letter in self._read(tp, self._start(tp, since), self.end[tp]):
                if selects(letter):
                    yield letter

    def newest(
        self,
        selects: Callable[[Letter], bool],
        limit: int,
        since: datetime | None = None,
        *,
        window: int = NEWEST_WINDOW,
    ) -> list[Letter]:
        """Return the newest selected letters, newest first, without their values; see `newest_letters`.

        Raises:
            BrokerError: The broker does not answer or denies access.
        """
        ranges = {tp: (self._start(tp, since), self.end[tp]) for tp in self.first}
        return newest_letters(ranges, self._read, selects, limit, window)

    def check(self, id: LetterId) -> None:
        """Check that a letter with this id may exist; this reads no record.

        Raises:
            DeadLetterError: The topic, the partition or the offset does not exist.
        """
        tp = id.topic_partition
        if id.topic not in self._topics:
            raise DeadLetterError(
                f"{id}: {id.topic} is not a dead-letter topic; the topics are {', '.join(self._topics)}"
            )
        if tp not in self.first:
            raise DeadLetterError(f"{id}: {id.topic} has no partition {id.partition}")
        if not self.first[tp] <= id.offset < self.end[tp]:
            held = f"{self.first[tp]} to {self.end[tp] - 1}" if self.end[tp] > self.first[tp] else "none"
            raise DeadLetterError(
                f"{id} does not exist: {id.topic}/{id.partition} holds offsets {held}; the broker deletes letters "
                "after the topic's retention time"
            )

    def get(self, id: LetterId) -> Letter:
        """Return one letter.

        Raises:
            DeadLetterError: The letter does not exist, or its bytes are damaged.
            BrokerError: The broker does not answer or denies access.
        """
        self.check(id)
        for letter in self._read(id.topic_partition, id.offset, id.offset + 1):
            return letter
        raise DeadLetterError(f"{id} cannot be read from the broker's log")

    def original(self, letter: Letter) -> bytes | None:
        """Return the whole value of a cut letter from its source topic; None if the topic no longer has it.

        Raises:
            BrokerError: The broker does not answer or denies access.
        """
        tp, offset = letter.source, letter.source_offset
        if tp is None or offset is None:
            return None
        consumer = self._connection.consumer()  # a second consumer: the first may be in the middle of an iteration
        try:
            if tp.partition not in (consumer.partitions_for_topic(tp.topic) or ()):
                return None
            if not consumer.beginning_offsets([tp])[tp] <= offset < consumer.end_offsets([tp])[tp]:
                return None
            for record in read_range(consumer, tp, offset, offset + 1):
                value: bytes = record.value or b""
                # If the topic was created again, this offset holds another message.
                same = record.key == letter.key and value.startswith(letter.value or b"")
                return value if same and len(value) == letter.cut_from else None
            return None
        except KafkaError as error:
            raise BrokerError(f"{tp.topic} cannot be read: {type(error).__name__}") from error
        finally:
            consumer.close(timeout_ms=3_000)

    def _start(self, tp: TopicPartition, since: datetime | None) -> int:
        if since is None:
            return self.first[tp]
        return max(self.first[tp], offset_at(self._consumer, tp, since, self.end[tp]))

    def _read(self, tp: TopicPartition, start: int, end: int) -> Iterator[Letter]:
        return map(Letter.of, read_range(self._consumer, tp, start, end))

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(timeout_ms=3_000)

    def __enter__(self) -> DeadLetterReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def newest_letters(
    ranges: Mapping[TopicPartition, tuple[int, int]],
    read: ReadLetters,
    selects: Callable[[Letter], bool],
    limit: int,
    window: int = NEWEST_WINDOW,
) -> list[Letter]:
    """Return the newest selected letters, newest first, without their values.

    Each partition is read backwards in windows that double, so the last letters of a million are found at once.

    Args:
        ranges: First offset and end offset of each partition.
        read: Reads the letters of a partition between two offsets.
        selects: Whether to return a letter.
        limit: Largest number of letters.
        window: Number of offsets in the first window, at least `limit`.
    """
    newest: list[Letter] = []
    for tp, (start, end) in ranges.items():
        size = max(window, limit)
        of_partition: list[Letter] = []
        while end > start and len(of_partition) < limit:
            begin = max(start, end - size)
            selected = (_without_value(letter) for letter in read(tp, begin, end) if selects(letter))
            of_partition += reversed(deque(selected, limit - len(of_partition)))
            end, size = begin, 2 * size
        newest += of_partition
    return heapq.nlargest(limit, newest, key=lambda letter: (letter.time, letter.id))


def _without_value(letter: Letter) -> Letter:
    return msgspec.structs.replace(letter, value=None)
