"""A broker in memory for index followers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from inference.retrieval import RetrievalIndex
from streaming.kafka.codec import JSON, Codec
from streaming.kafka.connection import TopicPartition
from streaming.vectors.follower import IndexFollower
from tests.streaming.builders import Record

DAY_MS = 86_400_000
P0 = TopicPartition("product.embeddings", 0)
O0 = TopicPartition("product.offers", 0)


class FakeBroker:
    """The connection, its consumer and its admin client: one partition per topic, read one record at a time."""

    codec: Codec = JSON

    def __init__(
        self,
        log: Sequence[tuple[Any, ...]] = (),
        offers: Sequence[tuple[Any, ...]] = (),
        failures: dict[int, list[Exception]] | None = None,
    ) -> None:
        self.logs = {P0: list(log), O0: list(offers)}
        self.failures = failures or {}  # by offset of the embeddings
        self.first = dict.fromkeys(self.logs, 0)
        self.at = dict.fromkeys(self.logs, 0)
        self.topic_id, self.kept_ms = "t1", DAY_MS
        self.read: list[tuple[str, int]] = []
        self.exists, self.closed = True, False
        self.lock = threading.Lock()  # held while a test changes a log and the read position together

    def consumer(self, **_: Any) -> FakeBroker:
        return self

    def admin(self) -> FakeBroker:
        return self

    def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        return [{"error_code": 0, "topic_id": f"{self.topic_id}-{topics[0]}"}]

    def describe_cluster(self) -> dict[str, str]:
        return {"cluster_id": "c"}

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        return {"topic": {resources[0].name: {"delete.retention.ms": {"value": str(self.kept_ms)}}}}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {0} if self.exists else None

    def assign(self, partitions: Any) -> None: ...

    def beginning_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return dict(self.first)

    def end_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return {tp: len(log) for tp, log in self.logs.items()}

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        with self.lock:
            if self.failures.get(self.at[P0]):
                raise self.failures[self.at[P0]].pop(0)
            out = {}
            for tp, log in self.logs.items():
                at = self.at[tp]
                self.at[tp] = min(len(log), at + 1)
                out[tp] = [Record(tp.topic, 0, at, 0, k, v, h) for k, v, h in log[at : self.at[tp]]]
                self.read += [(tp.topic, at)] * len(out[tp])
            return {tp: rows for tp, rows in out.items() if rows}

    def position(self, tp: TopicPartition) -> int:
        return self.at[tp]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at[tp] = offset

    def close(self, timeout_ms: int = 0) -> None:
        self.closed = True


def follower_of(broker: FakeBroker, index: RetrievalIndex, applied: Any = None, **rest: Any) -> IndexFollower:
    return IndexFollower(broker, index, applied, **rest)  # type: ignore[arg-type]
