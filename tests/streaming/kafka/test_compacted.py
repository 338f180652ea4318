"""Compacted topics: what is sent, and where a stopped reader resumes."""

from __future__ import annotations

import re

import pytest
from kafka.errors import KafkaTimeoutError

from streaming.errors import BrokerError, ContractError
from streaming.kafka.compacted import LogRange, deleted_version, position, publish, resume
from streaming.kafka.connection import TopicPartition
from tests.streaming.builders import Record
from tests.streaming.fakes import CompactedProducer

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
LOGS = {P0: LogRange("log", 0, 10), P1: LogRange("log", 0, 10)}
HOUR_MS = 3_600_000


def test_values_have_their_key_and_tombstones_their_version() -> None:
    producer = CompactedProducer()
    publish(producer, "t", [("a", 1, b"x"), ("b", 2, None)], {"a": b"trace"})
    (_, key, value, headers), (_, _, tombstone, version) = producer.sent
    assert (key, value, headers["traceparent"]) == (b"a", b"x", b"trace")
    assert "sagelift-version" not in headers
    assert (tombstone, version["sagelift-version"]) == (None, b"2")


def test_nothing_is_sent_for_no_rows() -> None:
    producer = CompactedProducer(KafkaTimeoutError())
    publish(producer, "t", [])
    assert producer.sent == []


def test_records_that_the_broker_does_not_accept_are_an_error() -> None:
    with pytest.raises(BrokerError, match="1 records of t were not accepted: KafkaTimeoutError"):
        publish(CompactedProducer(KafkaTimeoutError()), "t", [("a", 1, b"x")])


@pytest.mark.parametrize("headers", [[], [("sagelift-version", b"x")]])
def test_a_tombstone_without_its_version_is_refused(headers: list[tuple[str, bytes]]) -> None:
    assert deleted_version(Record(headers=[("sagelift-version", b"7")])) == 7
    with pytest.raises(ContractError, match="sagelift-version"):
        deleted_version(Record(headers=headers))


def test_a_reader_resumes_at_its_saved_position() -> None:
    saved = position({P0: 3, P1: 10}, {"t": "log"}, 1000)
    assert resume(saved, LOGS, tombstones_kept_ms=HOUR_MS, now_ms=1000 + HOUR_MS) == ({P0: 3, P1: 10}, 1000)


def test_a_new_partition_is_read_from_its_first_offset() -> None:
    saved = position({P0: 3}, {"t": "log"}, 1000)
    logs = LOGS | {P1: LogRange("log", 5, 10)}
    assert resume(saved, logs, tombstones_kept_ms=HOUR_MS, now_ms=1000) == ({P0: 3, P1: 5}, 1000)


@pytest.mark.parametrize(
    ("saved", "now_ms", "reason"),
    [
        ({"log/0": 3}, 1000, "does not say when it was saved"),
        (position({P0: 3}, {"t": "log"}, 0), HOUR_MS + 1, r"is 1\.0 hours old, .*delete\.retention\.ms"),
        (position({P0: 3}, {"t": "former log"}, 0), 0, "made from another topic t than the present one"),
        (position({P0: 11}, {"t": "log"}, 0), 0, "resumes at offset 11 of t, partition 0, which holds 0 to 10"),
    ],
)
def test_a_reader_that_cannot_resume_gets_the_reason(saved: dict[str, int], now_ms: int, reason: str) -> None:
    answer = resume(saved, LOGS, tombstones_kept_ms=HOUR_MS, now_ms=now_ms)
    assert isinstance(answer, str)
    assert re.search(reason, answer)
