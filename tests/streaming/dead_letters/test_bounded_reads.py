"""A read of a range of a partition ends at its end for any answers of the broker."""

from __future__ import annotations

from typing import Any

import pytest

from streaming.dead_letters.bounded_reads import read_range
from streaming.errors import BrokerError
from streaming.kafka.connection import CorruptRecordError, KafkaError, TopicPartition
from tests.streaming.builders import Record
from tests.streaming.dead_letters.builders import TP


class FakeConsumer:
    """One partition; an offset that is an error is raised, as kafka-python does, until it is passed by a seek."""

    def __init__(self, log: dict[int, Exception | None], end: int) -> None:
        self.log, self.end, self.at = log, end, 0

    def assign(self, partitions: list[TopicPartition]) -> None:
        assert partitions == [TP]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at = offset

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        rows = []
        while self.at < self.end:
            failure = self.log.get(self.at)
            if isinstance(failure, Exception):
                if rows:
                    break
                raise failure
            if self.at in self.log:
                rows.append(Record(*TP, self.at))
            self.at += 1
        return {TP: rows} if rows else {}

    def position(self, tp: TopicPartition, timeout_ms: int) -> int:
        return self.at


def offsets(consumer: Any, start: int, end: int) -> list[int]:
    return [record.offset for record in read_range(consumer, TP, start, end)]


def test_reading_stops_at_the_end_offset_even_if_offsets_are_missing() -> None:
    consumer = FakeConsumer({0: None, 1: None, 4: None, 5: None, 9: None}, 10)
    assert offsets(consumer, 1, 5) == [1, 4]
    assert offsets(consumer, 2, 4) == [], "the marker of a transaction, or a compacted record"
    assert offsets(consumer, 3, 3) == []


def test_records_that_cannot_be_read_are_skipped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    consumer = FakeConsumer({0: None, 1: CorruptRecordError(), 2: CorruptRecordError(), 3: None}, 4)
    assert offsets(consumer, 0, 4) == [0, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"catalog.updates.dlq/0:{offset} cannot be read from the broker's log" for offset in (1, 2)
    ]


def test_a_broker_that_returns_nothing_is_an_error() -> None:
    with pytest.raises(BrokerError, match="the broker returned nothing for -1 s"):
        list(read_range(FakeConsumer({0: None}, 1), TP, 0, 2, silence_s=-1))


def test_a_broker_that_refuses_is_an_error() -> None:
    with pytest.raises(BrokerError, match=r"catalog\.updates\.dlq cannot be read: KafkaError"):
        offsets(FakeConsumer({0: KafkaError()}, 1), 0, 1)
