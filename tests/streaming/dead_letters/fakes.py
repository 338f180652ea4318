"""A broker in memory, for readers without a consumer group."""

from __future__ import annotations

from typing import Any, NamedTuple

from kafka.errors import UnknownTopicOrPartitionError

from streaming.kafka.connection import TopicPartition
from tests.streaming.builders import Record


class FakeLog:
    """The log of one partition: records at their offsets, from `first` on."""

    def __init__(self, tp: TopicPartition) -> None:
        self.tp = tp
        self.first = 0
        self.records: list[Record] = []

    @property
    def end(self) -> int:
        return self.first + len(self.records)

    def append(self, **fields: Any) -> int:
        """Write a record, one second after the one before; returns its offset."""
        offset = self.end
        self.records.append(Record(*self.tp, offset, timestamp=1_777_896_000_000 + 1_000 * offset, **fields))
        return offset

    def delete_before(self, offset: int) -> None:
        self.records, self.first = self.records[offset - self.first :], offset


class FakeBroker:
    """Stands for a `Connection`: one partition per topic."""

    def __init__(self, *topics: str) -> None:
        self.logs = {topic: FakeLog(TopicPartition(topic, 0)) for topic in topics}
        self.topic_ids = {topic: f"id-of-{topic}" for topic in topics}
        self.bootstrap_servers = "fake:9092"

    def admin(self) -> FakeAdmin:
        return FakeAdmin(self)

    def consumer(self, **settings: Any) -> FakeConsumer:
        return FakeConsumer(self)


class FakeAdmin:
    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker

    def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        return [
            {
                "name": topic,
                "error_code": 0 if topic in self.broker.logs else UnknownTopicOrPartitionError.errno,
                "topic_id": self.broker.topic_ids.get(topic),
                "partitions": [{"partition_index": 0}],
            }
            for topic in topics
        ]

    def close(self) -> None: ...


class OffsetAndTime(NamedTuple):
    offset: int
    timestamp: int


class FakeConsumer:
    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.at = 0

    def log(self, tp: TopicPartition) -> FakeLog:
        return self.broker.logs[tp.topic]

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {0} if topic in self.broker.logs else None

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.log(tp).first for tp in partitions}

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.log(tp).end for tp in partitions}

    def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, OffsetAndTime | None]:
        return {
            tp: next((OffsetAndTime(r.offset, r.timestamp) for r in self.log(tp).records if r.timestamp >= at), None)
            for tp, at in times.items()
        }

    def assign(self, partitions: list[TopicPartition]) -> None:
        (self.tp,) = partitions

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at = offset

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        records = [record for record in self.log(self.tp).records if record.offset >= self.at]
        self.at = self.log(self.tp).end
        return {self.tp: records} if records else {}

    def position(self, tp: TopicPartition, timeout_ms: int) -> int:
        return self.at

    def close(self, timeout_ms: int = 0) -> None: ...
