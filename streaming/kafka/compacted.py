"""What the compacted topics have in common: how they are written, and where a reader goes on that was away.

A record without a value deletes; its product version travels in a header. The broker drops a deletion after a while
(`delete.retention.ms`): a reader that was away for longer would keep what is gone, and must begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from streaming.contracts import SCHEMA_HEADER, SCHEMA_VERSION
from streaming.errors import BrokerError, ContractError
from streaming.kafka.connection import KafkaError, KafkaProducer, TopicPartition, explained
from streaming.tracing import TRACEPARENT

NO_TRACES: Mapping[str, bytes] = MappingProxyType({})
_VERSION_HEADER = "sagelift-version"
_AS_OF = "as_of_ms"


def publish(
    producer: KafkaProducer,
    topic: str,
    rows: Sequence[tuple[str, int, bytes | None]],
    traces: Mapping[str, bytes] = NO_TRACES,
) -> None:
    """Put (key, product version, value or None for a deletion) on the topic; returns when the broker has them all.

    `traces` has by key the `traceparent` of the record that is the cause.

    Raises:
        BrokerError: the broker did not take them all.
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
        raise BrokerError(f"{len(rows)} records of {topic} were not taken: {explained(error)}") from error


def _headers(key: str, version: int, value: bytes | None, traces: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    headers = [(SCHEMA_HEADER, SCHEMA_VERSION)]
    if value is None:  # else it says the version itself; a header costs kafka-python some 2 us
        headers.append((_VERSION_HEADER, str(version).encode()))
    if key in traces:
        headers.append((TRACEPARENT, traces[key]))
    return headers


def deleted_version(record: Any) -> int:
    """The product version of a record without a value.

    Raises:
        ContractError: the record does not say it.
    """
    try:
        return int(dict(record.headers)[_VERSION_HEADER])
    except (KeyError, ValueError):
        raise ContractError(_VERSION_HEADER, "a deletion needs this header with its product version") from None


class LogRange(NamedTuple):
    """One partition as the broker has it: whose log it is (`topics.log_id`), its first offset and its end."""

    log: str
    first: int
    end: int


def position(offsets: Mapping[TopicPartition, int], logs: Mapping[str, str], as_of_ms: int) -> dict[str, int]:
    """How far a reader is, to be kept with what it made of the topics.

    Args:
        offsets: what it reads next.
        logs: by topic whose log it is: of a topic that is made anew, the offsets mean nothing.
        as_of_ms: when it was last known to have read everything; before that, when it began.
    """
    return {f"{logs[tp.topic]}/{tp.partition}": offset for tp, offset in offsets.items()} | {_AS_OF: as_of_ms}


def go_on(
    kept: Mapping[str, int], there: Mapping[TopicPartition, LogRange], *, tombstones_kept_ms: int, now_ms: int
) -> tuple[dict[TopicPartition, int], int] | str:
    """Where a reader goes on that kept this `position`, and as of when; or why it must begin anew.

    A partition that is new is read from its first offset.
    """
    as_of = kept.get(_AS_OF)
    if as_of is None:
        return "it does not say when it was saved"
    if now_ms - as_of > tombstones_kept_ms:
        return (
            f"it is {(now_ms - as_of) / 3.6e6:.1f} hours old, and deletions stay on the topics for "
            f"{tombstones_kept_ms / 3.6e6:.1f} (delete.retention.ms)"
        )
    offsets = {}
    known = {name.rpartition("/")[0] for name in kept}
    for tp, found in there.items():
        if found.log not in known:
            return f"it was made of another topic {tp.topic} than the present one ({found.log})"
        offset = offsets[tp] = kept.get(f"{found.log}/{tp.partition}", found.first)
        if not found.first <= offset <= found.end:
            return (
                f"it goes on at offset {offset} of {tp.topic}, partition {tp.partition}, which holds "
                f"{found.first} to {found.end}"
            )
    return offsets, as_of
