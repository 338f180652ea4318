"""The lag of a consumer group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError

from streaming.errors import BrokerError, TopicError
from streaming.kafka.connection import TopicPartition
from streaming.kafka.lag import LagMeter


class FakeConsumer:
    """A connection and its consumer: per partition first offset, end and committed offset."""

    def __init__(self, partitions: Mapping[int, tuple[int, int, int | None]]) -> None:
        self.partitions = partitions
        self.failure: Exception | None = None
        self.closed = False

    def consumer(self, group: str) -> FakeConsumer:
        return self

    def partitions_for_topic(self, topic: str) -> set[int]:
        if self.failure:
            raise self.failure
        return set(self.partitions)

    def beginning_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return {tp: self.partitions[tp.partition][0] for tp in partitions}

    def end_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        if self.failure:
            raise self.failure
        return {tp: self.partitions[tp.partition][1] for tp in partitions}

    def committed(self, tp: TopicPartition) -> int | None:
        return self.partitions[tp.partition][2]

    def close(self) -> None:
        self.closed = True


def meter(consumer: FakeConsumer) -> LagMeter:
    return LagMeter(consumer, "group", "t")  # type: ignore[arg-type]


def test_the_lag_counts_records_that_are_not_committed_and_not_deleted() -> None:
    consumer = FakeConsumer({0: (0, 10, 4), 1: (5, 8, None), 2: (6, 9, 2)})
    with meter(consumer) as lag:
        assert lag.by_partition() == {0: 6, 1: 3, 2: 3}
        assert lag.lag() == 12
        assert lag.end() == 27
    assert consumer.closed


def test_a_missing_topic_has_no_lag_of_zero() -> None:
    consumer = FakeConsumer({})
    with pytest.raises(TopicError, match="topic t does not exist"):
        meter(consumer)
    assert consumer.closed


def test_an_unreachable_broker_is_an_error_at_the_start_and_later() -> None:
    consumer = FakeConsumer({0: (0, 10, 4)})
    lag = meter(consumer)
    consumer.failure = KafkaConnectionError("away")
    for question in (lag.lag, lag.end):
        with pytest.raises(BrokerError, match="t: the offsets cannot be read"):
            question()
    with pytest.raises(BrokerError):
        meter(consumer)
    assert consumer.closed
