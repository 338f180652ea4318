"""Write dead letters: the original key, value and headers, plus headers that describe the failure.

The names of our headers are Kafka Connect's (`__connect.errors.*`), so existing tools can read them. They replace the
headers of an earlier failure of the same message; only the number of attempts and the time of the first failure
continue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from streaming.contracts import ERROR_HEADERS, TRUNCATED_HEADER, DeadLetterHeaders
from streaming.errors import BrokerError
from streaming.kafka.connection import KafkaError, KafkaProducer, TopicPartition, explained
from streaming.kafka.topics import DEAD_LETTER_BYTES, dead_letter_topic
from streaming.tracing import trace_id

log = logging.getLogger(__name__)

_MAX_ERROR_MESSAGE = 1_000  # characters
_MAX_LOGGED = 20  # letters of a batch that are logged one by one; a flood must not fill the log
_RESERVED_BYTES = 4_096  # for our headers and the record's frame


class FailedRecord(msgspec.Struct, frozen=True):
    """A record that a consumer cannot use, and why.

    Attributes:
        record: The record as kafka-python returns it, or an `UnreadableRecord`.
        stage: Where it failed: fetch, decode, merge, image, embed or store.
        error: Class name of the error.
        message: Message of the error.
    """

    record: Any
    stage: str
    error: str
    message: str


class UnreadableRecord(msgspec.Struct, frozen=True):
    """Stands for a record whose bytes are damaged in the broker's log."""

    topic: str
    partition: int
    offset: int
    key: None = None
    value: None = None
    headers: tuple[()] = ()


class _Identity(msgspec.Struct):
    """The fields that identify a message, even if the rest of it is invalid."""

    id: Any = None
    event_id: Any = None
    version: Any = None


_identity_decoder = msgspec.json.Decoder(_Identity)


def log_fields(failed: FailedRecord) -> dict[str, Any]:
    """Return structured fields for a log line: the record's place, its trace, and the product and version if known."""
    record = failed.record
    try:
        identity = _identity_decoder.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        identity = _Identity()
    fields = {
        "product_id": identity.id,
        "event_id": identity.event_id,
        "version": identity.version,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "stage": failed.stage,
        "error": failed.error,
        "trace_id": trace_id(record),
    }
    return {k: v if isinstance(v, int) else str(v)[:200] for k, v in fields.items() if v is not None}


class DeadLetterWriter:
    """Writes dead letters and waits until the broker has them.

    Args:
        producer: Sends the messages.
        group: Consumer group that failed, for the headers.
        clock: Returns the present time, aware.
    """

    def __init__(
        self, producer: KafkaProducer, group: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._producer, self._group, self._clock = producer, group, clock

    def send_all(self, failed: Sequence[FailedRecord]) -> None:
        """Write a dead letter for each failed record, and log it.

        Raises:
            BrokerError: The broker did not accept them all; the consumer must not commit their offsets.
        """
        if not failed:
            return
        try:
            sent = [self._send(one) for one in failed]
            self._producer.flush(30)
            for future in sent:
                future.get(30)
        except KafkaError as error:
            raise BrokerError(f"the broker did not accept {len(failed)} dead letters: {explained(error)}") from error
        for one in failed[:_MAX_LOGGED]:
            log.warning("refused at %s: %s", one.stage, one.message[:_MAX_ERROR_MESSAGE], extra=log_fields(one))
        if len(failed) > _MAX_LOGGED:
            log.warning("%d more records were refused; `sagelift dlq list` shows them", len(failed) - _MAX_LOGGED)

    def send_unreadable(self, partition: TopicPartition, offset: int, error: Exception) -> None:
        """Write a dead letter for an offset that cannot be read; it has no bytes, but names the offset."""
        record = UnreadableRecord(partition.topic, partition.partition, offset)
        self.send_all([FailedRecord(record, "fetch", type(error).__name__, str(error))])

    def _send(self, failed: FailedRecord) -> Any:
        record = failed.record
        headers, value = self._headers(failed), record.value
        if value is None and record.key is None:
            value = b""  # kafka-python cannot send a record without key and value
        other_bytes = len(record.key or b"") + sum(len(k.encode()) + len(v or b"") for k, v in headers)
        other_bytes += _RESERVED_BYTES
        if value is not None and other_bytes + len(value) > DEAD_LETTER_BYTES:
            # A compressed message may be far larger than its topic's limit. A dead letter that no topic accepts would
            # stop the consumer for good.
            headers.append((TRUNCATED_HEADER, str(len(value)).encode()))
            value = value[: max(0, DEAD_LETTER_BYTES - other_bytes)]
        return self._producer.send(dead_letter_topic(record.topic), key=record.key, value=value, headers=headers)

    def _headers(self, failed: FailedRecord) -> list[tuple[str, bytes]]:
        record, now = failed.record, self._clock().isoformat()
        earlier = {k: v for k, v in record.headers or () if k.startswith(ERROR_HEADERS) and v}
        attempts = earlier.get(ERROR_HEADERS + "attempts", b"0")
        earlier_attempts = int(attempts) if attempts.isdigit() and len(attempts) < 10 else 0
        headers = DeadLetterHeaders(
            topic=record.topic,
            partition=str(record.partition),
            offset=str(record.offset),
            consumer_group=self._group,
            stage=failed.stage,
            exception_class_name=failed.error,
            exception_message=failed.message[:_MAX_ERROR_MESSAGE],
            attempts=str(1 + earlier_attempts),
            time=now,
            first_time=earlier.get(ERROR_HEADERS + "first.time", now.encode()).decode("utf-8", "replace")[:40],
        )
        kept = [(k, v) for k, v in record.headers or () if not k.startswith(ERROR_HEADERS)]
        return kept + [(k, v.encode("utf-8", "replace")) for k, v in msgspec.to_builtins(headers).items()]
