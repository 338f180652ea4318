"""Messages that cannot be used: original key and value untouched, and headers that say what happened.

Header names are Kafka Connect's (`__connect.errors.*`), so that existing tools read them. What an earlier failure of
the same message left there is replaced, never doubled; only the number of attempts and the time of the first go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from streaming.errors import BrokerError
from streaming.kafka.connection import KafkaError, KafkaProducer, TopicPartition, explained
from streaming.kafka.topics import DEAD_LETTER_BYTES, dead_letter_topic
from streaming.tracing import trace_id

log = logging.getLogger(__name__)

ERRORS = "__connect.errors."
"""What the headers about a failure begin with."""
LIVING_ON = ("attempts", "first.time")
"""What of them a replayed message keeps, so that its next failure counts on."""
_MAX_MESSAGE = 1_000
_LOGGED = 20  # of a batch: what went wrong is told, a flood is not
_ROOM = 4_096  # for our headers and the record's frame
TRUNCATED = "sagelift-truncated-from"
"""Header of a dead letter whose value did not fit: how many bytes it had. The whole stays on the source topic."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that failed: where (`stage`: fetch, decode, merge, image, embed, store) and why."""

    record: Any
    stage: str
    error: str
    message: str


class Unreadable(msgspec.Struct, frozen=True):
    """Stands for the record at an offset whose bytes are damaged in the broker's log."""

    topic: str
    partition: int
    offset: int
    key: None = None
    value: None = None
    headers: tuple[()] = ()


class _Named(msgspec.Struct):
    """What of a message says which it is, whatever else is wrong with it."""

    id: Any = None
    event_id: Any = None
    version: Any = None


_named = msgspec.json.Decoder(_Named)


def whereabouts(letter: DeadLetter) -> dict[str, Any]:
    """Fields for the log: which record, of which product and version where it can be told, in which trace."""
    record = letter.record
    try:
        named = _named.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        named = _Named()
    found = {
        "product_id": named.id,
        "event_id": named.event_id,
        "version": named.version,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "stage": letter.stage,
        "error": letter.error,
        "trace_id": trace_id(record),
    }
    return {k: v if isinstance(v, int) else str(v)[:200] for k, v in found.items() if v is not None}


class DeadLetters:
    """Writes dead letters; `send_all` returns when the broker has them."""

    def __init__(
        self, producer: KafkaProducer, group: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._producer, self._group, self._clock = producer, group, clock

    def send_all(self, letters: Sequence[DeadLetter]) -> None:
        """Raises BrokerError when the broker does not take them: then nothing may be committed."""
        if not letters:
            return
        try:
            sent = [self._send(letter) for letter in letters]
            self._producer.flush(30)
            for future in sent:
                future.get(30)
        except KafkaError as error:
            raise BrokerError(f"{len(letters)} dead letters were not taken: {explained(error)}") from error
        for letter in letters[:_LOGGED]:
            log.warning("refused at %s: %s", letter.stage, letter.message[:_MAX_MESSAGE], extra=whereabouts(letter))
        if len(letters) > _LOGGED:
            log.warning("%d more were refused; `sagelift dlq list` has them all", len(letters) - _LOGGED)

    def send_unreadable(self, partition: TopicPartition, offset: int, error: Exception) -> None:
        """A dead letter for an offset that cannot be read: it has no bytes, but says where they are."""
        record = Unreadable(partition.topic, partition.partition, offset)
        self.send_all([DeadLetter(record, "fetch", type(error).__name__, str(error))])

    def _send(self, letter: DeadLetter) -> Any:
        record = letter.record
        headers, value = self._headers(letter), record.value
        if value is None and record.key is None:
            value = b""  # kafka-python sends no record of nothing at all
        around = len(record.key or b"") + sum(len(k.encode()) + len(v or b"") for k, v in headers) + _ROOM
        if value is not None and around + len(value) > DEAD_LETTER_BYTES:
            # Compressed, a message may be far larger than what a topic takes; a dead letter that no topic takes would
            # stop the consumer for good.
            headers.append((TRUNCATED, str(len(value)).encode()))
            value = value[: max(0, DEAD_LETTER_BYTES - around)]
        return self._producer.send(dead_letter_topic(record.topic), key=record.key, value=value, headers=headers)

    def _headers(self, letter: DeadLetter) -> list[tuple[str, bytes]]:
        record, now = letter.record, self._clock().isoformat()
        before = {k: v for k, v in record.headers or () if k.startswith(ERRORS) and v}
        attempts = before.get(ERRORS + "attempts", b"0")
        facts = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "consumer.group": self._group,
            "stage": letter.stage,
            "exception.class.name": letter.error,
            "exception.message": letter.message[:_MAX_MESSAGE],
            "attempts": 1 + int(attempts) if attempts.isdigit() and len(attempts) < 10 else 1,
            "time": now,
            "first.time": before.get(ERRORS + "first.time", now.encode()).decode("utf-8", "replace")[:40],
        }
        kept = [(k, v) for k, v in record.headers or () if not k.startswith(ERRORS)]
        return kept + [(ERRORS + k, str(v).encode("utf-8", "replace")) for k, v in facts.items()]
