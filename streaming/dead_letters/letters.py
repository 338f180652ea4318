"""A dead letter as stored on its topic, its id, and filters for letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from streaming.contracts import ERROR_HEADERS, TRUNCATED_HEADER
from streaming.errors import DeadLetterError
from streaming.kafka.connection import TopicPartition
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, dead_letter_topic

SOURCES = (CATALOG_UPDATES, EVENTS)
"""The topics whose consumers write dead letters."""

_ID = re.compile(r"([A-Za-z0-9._-]+)/([0-9]{1,10}):([0-9]{1,18})")


def source_topic(topic: str) -> str:
    """Return the topic that the letters of a dead-letter topic came from; inverse of `topics.dead_letter_topic`."""
    return topic.removesuffix(dead_letter_topic(""))


def readable(raw: bytes | None) -> str:
    """Return bytes as text if they are UTF-8, else in hex; "" for None."""
    try:
        return (raw or b"").decode()
    except UnicodeDecodeError:
        return f"0x{raw.hex()}" if raw else ""


class LetterId(NamedTuple):
    """The place of a dead letter: `catalog.updates.dlq/0:17`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """Return the id as `<topic>/<partition>:<offset>`."""
        return f"{self.topic}/{self.partition}:{self.offset}"

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that holds the letter."""
        return TopicPartition(self.topic, self.partition)

    @staticmethod
    def parse(text: str) -> LetterId:
        """Parse an id; inverse of `str`.

        Raises:
            DeadLetterError: The text is not the id of a dead letter.
        """
        match = _ID.fullmatch(text.strip())
        if not match:
            raise DeadLetterError(
                f"{text[:100]!r} is not the id of a dead letter, which looks like "
                f"{dead_letter_topic(CATALOG_UPDATES)}/0:17; `sagelift dlq list` prints the ids"
            )
        return LetterId(match[1], int(match[2]), int(match[3]))


class Letter(msgspec.Struct, frozen=True):
    """A dead letter as stored on its topic. A property is "" or None without a valid header.

    Attributes:
        id: Place on the dead-letter topic.
        time: When the letter was written.
        key: Key of the original message.
        value: Value of the original message, or its beginning if `cut_from` is set.
        headers: All headers: those of the original message and those of the failure.
    """

    id: LetterId
    time: datetime
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @staticmethod
    def of(record: Any) -> Letter:
        """Convert a record as kafka-python returns it."""
        return Letter(
            LetterId(record.topic, record.partition, record.offset),
            datetime.fromtimestamp(max(0, record.timestamp) / 1000, UTC),
            record.key,
            record.value,
            tuple(record.headers or ()),
        )

    def fact(self, name: str) -> str:
        """Return the text of an error header; `name` is without the prefix `ERROR_HEADERS`."""
        return self._header(ERROR_HEADERS + name)

    @property
    def stage(self) -> str:
        """Stage that failed: fetch, decode, merge, image, embed or store."""
        return self.fact("stage")

    @property
    def error(self) -> str:
        """Class name of the error."""
        return self.fact("exception.class.name")

    @property
    def message(self) -> str:
        """Message of the error."""
        return self.fact("exception.message")

    @property
    def attempts(self) -> int | None:
        """How many times the message has failed."""
        return _parse_number(self.fact("attempts"))

    @property
    def source(self) -> TopicPartition | None:
        """Partition of the original message; `source_offset` is its offset.

        Only the numbers come from headers: anybody may write a header, so the topic follows from the letter's topic.
        """
        partition = _parse_number(self.fact("partition"))
        return None if partition is None else TopicPartition(source_topic(self.id.topic), partition)

    @property
    def source_offset(self) -> int | None:
        """Offset of the original message in `source`."""
        return _parse_number(self.fact("offset"))

    @property
    def cut_from(self) -> int | None:
        """Size of the original value in bytes, if the letter holds only its beginning."""
        return _parse_number(self._header(TRUNCATED_HEADER))

    def _header(self, name: str) -> str:
        return (dict(self.headers).get(name) or b"").decode("utf-8", "replace")


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects letters. All conditions must hold; an empty condition accepts every letter.

    Attributes:
        stages: Accepted stages.
        errors: Accepted class names of errors.
        keys: Accepted keys, as `readable` shows them.
        since: Earliest time, inclusive.
        until: Latest time, exclusive.
        match: Text that the error message contains, in upper or lower case.
        max_attempts: Largest number of attempts.
    """

    stages: Sequence[str] = ()
    errors: Sequence[str] = ()
    keys: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    match: str = ""
    max_attempts: int | None = None

    def __call__(self, letter: Letter) -> bool:
        """Return whether the filter selects the letter."""
        return (
            (not self.stages or letter.stage in self.stages)
            and (not self.errors or letter.error in self.errors)
            and (not self.keys or readable(letter.key) in self.keys)
            and (self.since is None or letter.time >= self.since)
            and (self.until is None or letter.time < self.until)
            and self.match.casefold() in letter.message.casefold()
            and (self.max_attempts is None or (letter.attempts or 1) <= self.max_attempts)
        )


def _parse_number(text: str) -> int | None:
    """Parse a plausible number; None for anything else, since anybody may have written the header."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
