"""Read a range of a partition without a consumer group: nothing is committed, and memory does not grow."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from kafka.errors import UnknownTopicOrPartitionError, for_code

from streaming.errors import BrokerError
from streaming.kafka.connection import Connection, CorruptRecordError, KafkaConsumer, KafkaError, TopicPartition

log = logging.getLogger(__name__)

SILENCE_S = 30.0
"""How long a broker may return nothing. kafka-python's polls return no error when a broker does not answer."""


class TopicDescription(NamedTuple):
    """An existing topic.

    Attributes:
        id: Id of the topic. A topic that is deleted and created again under the same name has another id.
        partitions: Its partitions.
    """

    id: str
    partitions: list[TopicPartition]


def describe_topics(connection: Connection, topics: Sequence[str]) -> dict[str, TopicDescription]:
    """Describe those of the topics that exist, by name.

    Raises:
        BrokerError: The broker does not answer or denies access; a denied topic must not look like a missing one.
    """
    admin = connection.admin()
    try:
        described = admin.describe_topics(list(topics))
    except KafkaError as error:
        raise BrokerError(f"{connection.bootstrap_servers} does not describe its topics: {error}") from error
    finally:
        admin.close()
    for topic in described:
        if topic["error_code"] not in (0, UnknownTopicOrPartitionError.errno):
            raise BrokerError(f"topic {topic['name']} cannot be described: {for_code(topic['error_code']).__name__}")
    return {
        topic["name"]: TopicDescription(
            str(topic["topic_id"]), [TopicPartition(topic["name"], p["partition_index"]) for p in topic["partitions"]]
        )
        for topic in described
        if not topic["error_code"]
    }


def offset_at(consumer: KafkaConsumer, tp: TopicPartition, at: datetime, end: int) -> int:
    """Return the first offset whose record is not older than `at`; `end` if all records are older.

    Raises:
        BrokerError: The broker does not answer or denies access.
    """
    try:
        offset = consumer.offsets_for_times({tp: max(0, int(at.timestamp() * 1000))})[tp]
    except KafkaError as error:
        raise BrokerError(f"{tp.topic} cannot be read: {type(error).__name__}") from error
    return end if offset is None else int(offset.offset)


def read_range(
    consumer: KafkaConsumer, tp: TopicPartition, start: int, end: int, *, silence_s: float = SILENCE_S
) -> Iterator[Any]:
    """Yield the records of a partition with `start <= offset < end`; log and skip those that cannot be read.

    Args:
        consumer: A consumer without a group; its assignment changes.
        tp: The partition.
        start: First offset.
        end: Offset after the last.
        silence_s: How long the broker may return nothing, in seconds.

    Raises:
        BrokerError: The broker returns an error, or nothing for too long.
    """
    if start >= end:
        return
    try:
        consumer.assign([tp])
        consumer.seek(tp, start)
        at, last_progress = start, time.monotonic()
        while at < end:
            try:
                records = consumer.poll(500).get(tp, ())
            except CorruptRecordError:
                log.warning("%s/%d:%d cannot be read from the broker's log", *tp, at)
                consumer.seek(tp, at + 1)
                records = ()
            for record in records:
                if record.offset >= end:
                    return
                yield record
            position = consumer.position(tp, timeout_ms=3_000)
            if position is not None and position != at:
                at, last_progress = position, time.monotonic()
            elif time.monotonic() - last_progress > silence_s:
                raise BrokerError(f"{tp.topic}/{tp.partition}: the broker returned nothing for {silence_s:.0f} s")
    except KafkaError as error:
        raise BrokerError(f"{tp.topic} cannot be read: {type(error).__name__}: {error}") from error
