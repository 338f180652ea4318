"""Common parts of the compacted topics: how to write them, and where a stopped reader resumes.

A record without a value is a tombstone: it deletes a product, and a header carries the product version. The broker
drops a tombstone after `delete.retention.ms`. A reader that was stopped for longer would keep deleted products, so it
must start from the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from streaming.contracts import SCHEMA_HEADER, SCHEMA_VERSION, VERSION_HEADER
from streaming.errors import BrokerError, ContractError
from streaming.kafka.connection import KafkaError, KafkaProducer, TopicPartition, explained
from streaming.tracing import TRACEPARENT

NO_TRACES: Mapping[str, bytes] = MappingProxyType({})
"""For records whose cause has no trace."""
_AS_OF = "as_of_ms"


def publish(
    producer: KafkaProducer,
    topic: str,
    rows: Sequence[tuple[str, int, bytes | None]],
    traces: Mapping[str, bytes] = NO_TRACES,
) -> None:
    """Send records to a compacted topic; return when the broker has them all.

    Args:
        producer: Sends the records.
        topic: The compacted topic.
        rows: Key, product version, and value or None for a tombstone.
        traces: By key, the `traceparent` of the record that caused this one.

    Raises:
        BrokerError: The broker did not accept all records.
    """
    if not rows:
        return
    try:
        sent = [
            producer.send(topic, key=key.encode(), value=value, headers=_headers(key, version, value, traces))
            for key, version, value in rows
        ]
        producer.flush(30)
        for future in sent:
            future.get(30)
    except KafkaError as error:
        raise BrokerError(f"{len(rows)} records of {topic} were not accepted: {explained(error)}") from error


def _headers(key: str, version: int, value: bytes | None, traces: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    headers = [(SCHEMA_HEADER, SCHEMA_VERSION)]
    if value is None:  # a value holds the version itself, and a header costs kafka-python some 2 us
        headers.append((VERSION_HEADER, str(version).encode()))
    if key in traces:
        headers.append((TRACEPARENT, traces[key]))
    return headers


def deleted_version(record: Any) -> int:
    """Return the product version of a tombstone.

    Raises:
        ContractError: The record does not have the version header.
    """
    try:
        return int(dict(record.headers)[VERSION_HEADER])
    except (KeyError, ValueError):
        raise ContractError(VERSION_HEADER, "a deletion needs this header with its product version") from None


class LogRange(NamedTuple):
    """One partition on the broker: the id of its log (`topic_admin.log_id`), its first offset and its end offset."""

    log: str
    first: int
    end: int


def position(offsets: Mapping[TopicPartition, int], logs: Mapping[str, str], as_of_ms: int) -> dict[str, int]:
    """Return the position of a reader, to save with the data that it built from the topics.

    Args:
        offsets: Next offset to read, by partition.
        logs: Log id by topic. The offsets are meaningless for a topic that was created again.
        as_of_ms: When the reader had last read everything, or when it began if it never had; milliseconds since the
            epoch.
    """
    return {f"{logs[tp.topic]}/{tp.partition}": offset for tp, offset in offsets.items()} | {_AS_OF: as_of_ms}


def resume(
    saved: Mapping[str, int], logs: Mapping[TopicPartition, LogRange], *, tombstones_kept_ms: int, now_ms: int
) -> tuple[dict[TopicPartition, int], int] | str:
    """Find the offsets at which a reader with a saved `position` resumes.

    Args:
        saved: Result of `position`.
        logs: The present partitions. A new partition is read from its first offset.
        tombstones_kept_ms: How long tombstones stay on the topics, in milliseconds.
        now_ms: The present time, in milliseconds since the epoch.

    Returns:
        The offsets and the `as_of_ms` of the saved position, or the reason why the reader must start from the
        beginning.
    """
    as_of = saved.get(_AS_OF)
    if as_of is None:
        return "it does not say when it was saved"
    if now_ms - as_of > tombstones_kept_ms:
        return (
            f"it is {(now_ms - as_of) / 3.6e6:.1f} hours old, and deletions stay on the topics for "
            f"{tombstones_kept_ms / 3.6e6:.1f} (delete.retention.ms)"
        )
    offsets = {}
    saved_logs = {name.rpartition("/")[0] for name in saved}
    for tp, log in logs.items():
        if log.log not in saved_logs:
            return f"it was made from another topic {tp.topic} than the present one ({log.log})"
        offset = offsets[tp] = saved.get(f"{log.log}/{tp.partition}", log.first)
        if not log.first <= offset <= log.end:
            return (
                f"it resumes at offset {offset} of {tp.topic}, partition {tp.partition}, which holds "
                f"{log.first} to {log.end}"
            )
    return offsets, as_of
