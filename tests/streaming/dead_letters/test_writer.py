"""Dead letters: the original untouched, one set of headers however often it failed, never too large for its topic."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from streaming.dead_letters.writer import TRUNCATED, DeadLetter, DeadLetters
from streaming.errors import BrokerError
from streaming.kafka.connection import TopicPartition
from streaming.kafka.topics import DEAD_LETTER_BYTES
from tests.streaming.fakes import NOW, Record

PREFIX = "__connect.errors."


class FakeProducer:
    """Takes what a topic of `2 * DEAD_LETTER_BYTES` takes; fails as kafka-python does."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.fail: Exception | None = None
        self.flushed = 0

    def send(self, topic: str, **message: Any) -> FakeProducer:
        if message["key"] is None and message["value"] is None:
            raise ValueError("Need at least one: key or value")
        size = len(message["value"] or b"") + sum(len(k) + len(v) for k, v in message["headers"])
        if size > DEAD_LETTER_BYTES:
            raise MessageSizeTooLargeError
        self.sent.append({"topic": topic, **message})
        return self

    def flush(self, timeout: float) -> None:
        self.flushed = len(self.sent)

    def get(self, timeout: float) -> None:
        assert self.flushed == len(self.sent), "waited for without being sent"
        if self.fail:
            raise self.fail


def letter(record: Record, message: str = "title: too long") -> DeadLetter:
    return DeadLetter(record, "decode", "ContractError", message)


def test_the_original_is_untouched_and_the_headers_say_what_happened() -> None:
    producer = FakeProducer()
    record = Record(partition=3, offset=42, key=b"\xff\x00", value=b'{"id": ', headers=[("traceparent", b"00-1")])
    DeadLetters(producer, "g", lambda: NOW).send_all([letter(record)])
    (sent,) = producer.sent
    assert (sent["topic"], sent["key"], sent["value"]) == ("catalog.updates.dlq", record.key, record.value)
    assert sent["headers"] == [
        ("traceparent", b"00-1"),
        (PREFIX + "topic", b"catalog.updates"),
        (PREFIX + "partition", b"3"),
        (PREFIX + "offset", b"42"),
        (PREFIX + "consumer.group", b"g"),
        (PREFIX + "stage", b"decode"),
        (PREFIX + "exception.class.name", b"ContractError"),
        (PREFIX + "exception.message", b"title: too long"),
        (PREFIX + "attempts", b"1"),
        (PREFIX + "time", NOW.isoformat().encode()),
        (PREFIX + "first.time", NOW.isoformat().encode()),
    ]


def test_a_second_failure_replaces_the_headers_of_the_first_and_counts_on() -> None:
    producer = FakeProducer()
    DeadLetters(producer, "g", lambda: NOW).send_all([letter(Record(offset=1, headers=[("own", b"x")]))])
    replayed = Record(offset=99, headers=producer.sent[0]["headers"])
    DeadLetters(producer, "g", lambda: NOW + timedelta(hours=1)).send_all([letter(replayed, "again")])
    first, second = (message["headers"] for message in producer.sent)
    assert sorted(name for name, _ in second) == sorted(name for name, _ in first)
    after = dict(second)
    assert after["own"] == b"x"
    assert (after[PREFIX + "offset"], after[PREFIX + "exception.message"]) == (b"99", b"again")
    assert after[PREFIX + "attempts"] == b"2"
    assert after[PREFIX + "first.time"] == NOW.isoformat().encode()
    assert after[PREFIX + "time"] == (NOW + timedelta(hours=1)).isoformat().encode()


@pytest.mark.parametrize("attempts", [b"", b"-1", b"many", b"9" * 5000, b"\xff"])
def test_headers_that_somebody_forged_do_no_harm(attempts: bytes) -> None:
    producer = FakeProducer()
    forged = [(PREFIX + "attempts", attempts), (PREFIX + "first.time", b"\xff" * 500)]
    DeadLetters(producer, "g").send_all([letter(Record(headers=forged))])
    assert dict(producer.sent[0]["headers"])[PREFIX + "attempts"] == b"1"


def test_a_long_or_unprintable_message_is_cut_and_sent() -> None:
    producer = FakeProducer()
    DeadLetters(producer, "g").send_all([letter(Record(), "\udc80" + "x" * 100_000)])
    assert len(dict(producer.sent[0]["headers"])[PREFIX + "exception.message"]) == 1000


def test_a_message_that_its_topic_takes_is_sent_whole_and_a_larger_one_cut() -> None:
    """One that no topic takes would stop the consumer for good."""
    producer = FakeProducer()
    DeadLetters(producer, "g").send_all(
        [letter(Record(value=b"x" * 1_048_576)), letter(Record(value=b"x" * 50_000_000))]
    )
    whole, cut = producer.sent
    assert len(whole["value"]) == 1_048_576
    assert TRUNCATED not in dict(whole["headers"])
    assert dict(cut["headers"])[TRUNCATED] == b"50000000"
    assert 1_900_000 < len(cut["value"]) < DEAD_LETTER_BYTES


def test_an_offset_that_cannot_be_read_is_a_dead_letter_without_bytes() -> None:
    producer = FakeProducer()
    DeadLetters(producer, "g").send_unreadable(TopicPartition("events", 2), 7, ValueError("crc"))
    (sent,) = producer.sent
    headers = dict(sent["headers"])
    assert (sent["topic"], sent["key"], sent["value"]) == ("events.dlq", None, b"")
    assert (headers[PREFIX + "partition"], headers[PREFIX + "offset"]) == (b"2", b"7")
    assert headers[PREFIX + "stage"] == b"fetch"


def test_a_record_of_nothing_at_all_is_a_dead_letter_too() -> None:
    """Kafka takes a record without key and value, kafka-python's producer does not."""
    producer = FakeProducer()
    DeadLetters(producer, "g").send_all([letter(Record()), letter(Record(key=b"k"))])
    assert [(m["key"], m["value"]) for m in producer.sent] == [(None, b""), (b"k", None)]


def test_what_the_broker_does_not_take_is_an_error_so_that_nothing_is_committed() -> None:
    producer = FakeProducer()
    producer.fail = KafkaTimeoutError()
    with pytest.raises(BrokerError, match="1 dead letters were not taken: KafkaTimeoutError"):
        DeadLetters(producer, "g").send_all([letter(Record())])


def test_no_letters_no_wait() -> None:
    DeadLetters(None, "g").send_all([])
