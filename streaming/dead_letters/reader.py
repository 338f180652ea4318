"""Reading dead letters: without a consumer group, from a time on, up to the ends that were there at the start.

Nothing is committed and nothing is kept but what the caller keeps: a topic of millions of letters needs no more memory
than one of ten.
"""

from __future__ import annotations

import heapq
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from kafka.errors import UnknownTopicOrPartitionError, for_code

from streaming.dead_letters.writer import ERRORS, TRUNCATED
from streaming.errors import BrokerError, DeadLetterError, TopicError
from streaming.kafka.connection import Connection, CorruptRecordError, KafkaConsumer, KafkaError, TopicPartition
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, dead_letter_topic

log = logging.getLogger(__name__)

SOURCES = (CATALOG_UPDATES, EVENTS)
"""The topics whose consumers write dead letters."""

_SILENT_S = 30.0  # kafka-python's polls say nothing of a broker that is away: they only bring nothing
_WINDOW = 1_000  # letters that the newest are first looked for among
_ID = re.compile(r"([A-Za-z0-9._-]+)/([0-9]{1,10}):([0-9]{1,18})")


class LetterId(NamedTuple):
    """Where a dead letter is: `catalog.updates.dlq/0:17`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}:{self.offset}"

    @staticmethod
    def parse(text: str) -> LetterId:
        """The reverse of `str`.

        Raises:
            DeadLetterError: it is no such id.
        """
        found = _ID.fullmatch(text.strip())
        if not found:
            raise DeadLetterError(
                f"{text[:100]!r} is no dead letter's id, which looks like {dead_letter_topic(CATALOG_UPDATES)}/0:17; "
                "`sagelift dlq list` prints them"
            )
        return LetterId(found[1], int(found[2]), int(found[3]))


class Letter(msgspec.Struct, frozen=True):
    """A dead letter as it stands on its topic. What its headers do not say is "" or None."""

    id: LetterId
    time: datetime
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @staticmethod
    def of(record: Any) -> Letter:
        """From a record as kafka-python hands it over."""
        return Letter(
            LetterId(record.topic, record.partition, record.offset),
            datetime.fromtimestamp(max(0, record.timestamp) / 1000, UTC),
            record.key,
            record.value,
            tuple(record.headers or ()),
        )

    def fact(self, name: str) -> str:
        """What a header about the failure says, by the end of its name."""
        return (dict(self.headers).get(ERRORS + name) or b"").decode("utf-8", "replace")

    @property
    def stage(self) -> str:
        return self.fact("stage")

    @property
    def error(self) -> str:
        return self.fact("exception.class.name")

    @property
    def message(self) -> str:
        return self.fact("exception.message")

    @property
    def attempts(self) -> int | None:
        return _number(self.fact("attempts"))

    @property
    def source(self) -> TopicPartition | None:
        """Where the original is (or was), with `source_offset`. Of the headers only the numbers are believed."""
        partition = _number(self.fact("partition"))
        return None if partition is None else TopicPartition(source_topic(self.id.topic), partition)

    @property
    def source_offset(self) -> int | None:
        return _number(self.fact("offset"))

    @property
    def cut_from(self) -> int | None:
        """How many bytes the original has, where the letter's value is only the beginning of it."""
        return _number((dict(self.headers).get(TRUNCATED) or b"").decode("utf-8", "replace"))


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant; an empty filter means all. `match` is looked for in the message, in any case."""

    stages: Sequence[str] = ()
    errors: Sequence[str] = ()
    keys: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    match: str = ""
    max_attempts: int | None = None

    def __call__(self, letter: Letter) -> bool:
        return (
            (not self.stages or letter.stage in self.stages)
            and (not self.errors or letter.error in self.errors)
            and (not self.keys or readable(letter.key) in self.keys)
            and (self.since is None or letter.time >= self.since)
            and (self.until is None or letter.time < self.until)
            and self.match.casefold() in letter.message.casefold()
            and (self.max_attempts is None or (letter.attempts or 1) <= self.max_attempts)
        )


class DeadLetterReader:
    """The letters that are there when it is made. A context manager; for one thread, one iteration at a time.

    Args:
        sources: the topics whose dead letters are meant, of `SOURCES`.

    Raises:
        TopicError: a dead-letter topic does not exist.
        BrokerError: the broker does not answer, or refuses us.
    """

    def __init__(self, connection: Connection, sources: Sequence[str] = SOURCES) -> None:
        self._connection = connection
        self._topics = [dead_letter_topic(source) for source in sources]
        found = describe(connection, self._topics)
        for topic in self._topics:
            if topic not in found:
                raise TopicError(f"topic {topic} does not exist; the consumers create the topics when they start")
        self.logs = {topic: id for topic, (id, _) in found.items()}
        """Dead-letter topic -> the id of its log, which a topic made anew under the same name does not share."""
        partitions = [tp for _, of_topic in found.values() for tp in of_topic]
        self._consumer = connection.consumer(max_poll_records=2_000)
        try:
            self.first = {tp: int(o) for tp, o in self._consumer.beginning_offsets(partitions).items()}
            self.end = {tp: int(o) for tp, o in self._consumer.end_offsets(partitions).items()}
        except KafkaError as error:
            self.close()
            raise BrokerError(f"{', '.join(self._topics)} cannot be read: {type(error).__name__}") from error

    def letters(self, wanted: Callable[[Letter], bool], since: datetime | None = None) -> Iterator[Letter]:
        """The wanted letters, the oldest first within a partition; `since` is where to begin looking."""
        for tp in sorted(self.first):
            for letter in self._read(tp, self._start(tp, since), self.end[tp]):
                if wanted(letter):
                    yield letter

    def newest(self, wanted: Callable[[Letter], bool], limit: int, since: datetime | None = None) -> list[Letter]:
        """The newest of the wanted letters, the newest first, without their values.

        Read backwards in windows that double: the last letters of a million come at once.
        """
        found: list[Letter] = []
        for tp in self.first:
            start, end, window = self._start(tp, since), self.end[tp], max(_WINDOW, limit)
            of_partition: list[Letter] = []
            while end > start and len(of_partition) < limit:
                begin = max(start, end - window)
                rows = deque((_bare(r) for r in self._read(tp, begin, end) if wanted(r)), limit - len(of_partition))
                of_partition += reversed(rows)
                end, window = begin, 2 * window
            found += of_partition
        return heapq.nlargest(limit, found, key=lambda letter: (letter.time, letter.id))

    def check(self, id: LetterId) -> None:
        """Raises DeadLetterError when there cannot be such a letter; no byte of it is read."""
        tp = TopicPartition(id.topic, id.partition)
        if id.topic not in self._topics:
            raise DeadLetterError(f"{id}: {id.topic} is no dead-letter topic; there are {', '.join(self._topics)}")
        if tp not in self.first:
            raise DeadLetterError(f"{id}: {id.topic} has no partition {id.partition}")
        if not self.first[tp] <= id.offset < self.end[tp]:
            held = f"{self.first[tp]} to {self.end[tp] - 1}" if self.end[tp] > self.first[tp] else "none"
            raise DeadLetterError(
                f"{id} is not there: {id.topic}/{id.partition} holds offsets {held}; letters are deleted when the "
                "topic's retention is over"
            )

    def get(self, id: LetterId) -> Letter:
        """One letter.

        Raises:
            DeadLetterError: there is none.
        """
        self.check(id)
        for letter in self._read(TopicPartition(id.topic, id.partition), id.offset, id.offset + 1):
            return letter
        raise DeadLetterError(f"{id} cannot be read from the broker's log")

    def original(self, letter: Letter) -> bytes | None:
        """The whole value of a letter that was cut, from its own topic; None when it is no longer there."""
        tp, offset = letter.source, letter.source_offset
        if tp is None or offset is None:
            return None
        consumer = self._connection.consumer()  # not ours: an iteration over letters may be under way
        try:
            if tp.partition not in (consumer.partitions_for_topic(tp.topic) or ()):
                return None
            if not consumer.beginning_offsets([tp])[tp] <= offset < consumer.end_offsets([tp])[tp]:
                return None
            for record in read_range(consumer, tp, offset, offset + 1):
                value: bytes = record.value or b""
                # A topic made anew under its old name has another message there.
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
        """Give the connection back."""
        self._consumer.close(timeout_ms=3_000)

    def __enter__(self) -> DeadLetterReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_range(consumer: KafkaConsumer, tp: TopicPartition, start: int, end: int) -> Iterator[Any]:
    """The records of a partition with `start <= offset < end`; what cannot be read is told in the log and passed.

    Raises:
        BrokerError: the broker refuses, or gives nothing for half a minute.
    """
    if start >= end:
        return
    try:
        consumer.assign([tp])
        consumer.seek(tp, start)
        at, heard = start, time.monotonic()
        while at < end:
            try:
                rows = consumer.poll(500).get(tp, ())
            except CorruptRecordError:
                log.warning("%s/%d:%d cannot be read from the broker's log", *tp, at)
                consumer.seek(tp, at + 1)
                rows = ()
            for row in rows:
                if row.offset >= end:
                    return
                yield row
            position = consumer.position(tp, timeout_ms=3_000)
            if position is not None and position != at:
                at, heard = position, time.monotonic()
            elif time.monotonic() - heard > _SILENT_S:
                raise BrokerError(f"{tp.topic}/{tp.partition}: the broker has given nothing for {_SILENT_S:.0f} s")
    except KafkaError as error:
        raise BrokerError(f"{tp.topic} cannot be read: {type(error).__name__}: {error}") from error


def offset_at(consumer: KafkaConsumer, tp: TopicPartition, at: datetime, end: int) -> int:
    """The first offset of a record that is not older; `end` when there is none."""
    try:
        found = consumer.offsets_for_times({tp: max(0, int(at.timestamp() * 1000))})[tp]
    except KafkaError as error:
        raise BrokerError(f"{tp.topic} cannot be read: {type(error).__name__}") from error
    return end if found is None else int(found.offset)


def source_topic(topic: str) -> str:
    """Where the letters of a dead-letter topic came from; the reverse of `topics.dead_letter_topic`."""
    return topic.removesuffix(dead_letter_topic(""))


def readable(raw: bytes | None) -> str:
    """Bytes as text when they are UTF-8, else in hex; "" for None."""
    try:
        return (raw or b"").decode()
    except UnicodeDecodeError:
        return "0x" + (raw or b"").hex()


def describe(connection: Connection, topics: Sequence[str]) -> dict[str, tuple[str, list[TopicPartition]]]:
    """The id and the partitions of those topics that exist.

    Raises:
        BrokerError: the broker does not say; "not allowed" must not pass for "not there".
    """
    admin = connection.admin()
    try:
        found = admin.describe_topics(list(topics))
    except KafkaError as error:
        raise BrokerError(f"{connection.bootstrap_servers} does not say what topics it has: {error}") from error
    finally:
        admin.close()
    for topic in found:
        if topic["error_code"] not in (0, UnknownTopicOrPartitionError.errno):
            raise BrokerError(f"topic {topic['name']} cannot be described: {for_code(topic['error_code']).__name__}")
    return {
        t["name"]: (str(t["topic_id"]), [TopicPartition(t["name"], p["partition_index"]) for p in t["partitions"]])
        for t in found
        if not t["error_code"]
    }


def _bare(letter: Letter) -> Letter:
    return msgspec.structs.replace(letter, value=None)


def _number(text: str) -> int | None:
    """Somebody else may have written the headers: anything but a plausible number is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
