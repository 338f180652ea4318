"""Dead letters: the original unchanged, one set of headers after any number of failures, never too large."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from streaming.contracts import ERROR_HEADERS, TRUNCATED_HEADER
from streaming.dead_letters.writer import DeadLetterWriter, FailedRecord, log_fields
from streaming.errors import BrokerError
from streaming.kafka.connection import TopicPartition
from streaming.kafka.topics import DEAD_LETTER_BYTES
from streaming.tracing import TRACEPARENT
from tests.streaming.builders import NOW, Record

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE_HEADER = f"00-{TRACE_ID}-00f067aa0ba902b7-01".encode()


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


def letter(record: Record, message: str = "title: too long") -> FailedRecord:
    return FailedRecord(record, "decode", "ContractError", message)


def test_the_original_is_untouched_and_the_headers_say_what_happened() -> None:
    producer = FakeProducer()
    record = Record(partition=3, offset=42, key=b"\xff\x00", value=b'{"id": ', headers=[("traceparent", b"00-1")])
    DeadLetterWriter(producer, "g", lambda: NOW).send_all([letter(record)])
    (sent,) = producer.sent
    assert (sent["topic"], sent["key"], sent["value"]) == ("catalog.updates.dlq", record.key, record.value)
    assert sent["headers"] == [
        ("traceparent", b"00-1"),
        (ERROR_HEADERS + "topic", b"catalog.updates"),
        (ERROR_HEADERS + "partition", b"3"),
        (ERROR_HEADERS + "offset", b"42"),
        (ERROR_HEADERS + "consumer.group", b"g"),
        (ERROR_HEADERS + "stage", b"decode"),
        (ERROR_HEADERS + "exception.class.name", b"ContractError"),
        (ERROR_HEADERS + "exception.message", b"title: too long"),
        (ERROR_HEADERS + "attempts", b"1"),
        (ERROR_HEADERS + "time", NOW.isoformat().encode()),
        (ERROR_HEADERS + "first.time", NOW.isoformat().encode()),
    ]


def test_a_second_failure_replaces_the_headers_of_the_first_and_continues_the_count() -> None:
    producer = FakeProducer()
    DeadLetterWriter(producer, "g", lambda: NOW).send_all([letter(Record(offset=1, headers=[("own", b"x")]))])
    replayed = Record(offset=99, headers=producer.sent[0]["headers"])
    DeadLetterWriter(producer, "g", lambda: NOW + timedelta(hours=1)).send_all([letter(replayed, "again")])
    first, second = (message["headers"] for message in producer.sent)
    assert sorted(name for name, _ in second) == sorted(name for name, _ in first)
    after = dict(second)
    assert after["own"] == b"x"
    assert (after[ERROR_HEADERS + "offset"], after[ERROR_HEADERS + "exception.message"]) == (b"99", b"again")
    assert after[ERROR_HEADERS + "attempts"] == b"2"
    assert after[ERROR_HEADERS + "first.time"] == NOW.isoformat().encode()
    assert after[ERROR_HEADERS + "time"] == (NOW + timedelta(hours=1)).isoformat().encode()


@pytest.mark.parametrize("attempts", [b"", b"-1", b"many", b"9" * 5000, b"\xff"])
def test_forged_headers_do_no_harm(attempts: bytes) -> None:
    producer = FakeProducer()
    forged = [(ERROR_HEADERS + "attempts", attempts), (ERROR_HEADERS + "first.time", b"\xff" * 500)]
    DeadLetterWriter(producer, "g").send_all([letter(Record(headers=forged))])
    assert dict(producer.sent[0]["headers"])[ERROR_HEADERS + "attempts"] == b"1"


def test_a_long_or_unprintable_message_is_cut_and_sent() -> None:
    producer = FakeProducer()
    DeadLetterWriter(producer, "g").send_all([letter(Record(), "\udc80" + "x" * 100_000)])
    assert len(dict(producer.sent[0]["headers"])[ERROR_HEADERS + "exception.message"]) == 1000


def test_a_message_that_fits_its_topic_is_sent_whole_and_a_larger_one_is_cut() -> None:
    """A dead letter that no topic accepts would stop the consumer for good."""
    producer = FakeProducer()
    DeadLetterWriter(producer, "g").send_all(
        [letter(Record(value=b"x" * 1_048_576)), letter(Record(value=b"x" * 50_000_000))]
    )
    whole, cut = producer.sent
    assert len(whole["value"]) == 1_048_576
    assert TRUNCATED_HEADER not in dict(whole["headers"])
    assert dict(cut["headers"])[TRUNCATED_HEADER] == b"50000000"
    assert 1_900_000 < len(cut["value"]) < DEAD_LETTER_BYTES


def test_an_offset_that_cannot_be_read_is_a_dead_letter_without_bytes() -> None:
    producer = FakeProducer()
    DeadLetterWriter(producer, "g").send_unreadable(TopicPartition("events", 2), 7, ValueError("crc"))
    (sent,) = producer.sent
    headers = dict(sent["headers"])
    assert (sent["topic"], sent["key"], sent["value"]) == ("events.dlq", None, b"")
    assert (headers[ERROR_HEADERS + "partition"], headers[ERROR_HEADERS + "offset"]) == (b"2", b"7")
    assert headers[ERROR_HEADERS + "stage"] == b"fetch"


def test_a_record_without_key_and_value_is_a_dead_letter_too() -> None:
    """Kafka accepts a record without key and value; kafka-python's producer does not."""
    producer = FakeProducer()
    DeadLetterWriter(producer, "g").send_all([letter(Record()), letter(Record(key=b"k"))])
    assert [(m["key"], m["value"]) for m in producer.sent] == [(None, b""), (b"k", None)]


def test_dead_letters_that_the_broker_does_not_accept_are_an_error() -> None:
    producer = FakeProducer()
    producer.fail = KafkaTimeoutError()
    with pytest.raises(BrokerError, match="the broker did not accept 1 dead letters: KafkaTimeoutError"):
        DeadLetterWriter(producer, "g").send_all([letter(Record())])


def test_no_letters_no_wait() -> None:
    DeadLetterWriter(None, "g").send_all([])


def test_a_refused_message_is_found_in_the_log_by_product_place_and_trace(caplog: pytest.LogCaptureFixture) -> None:
    class Taker:
        def send(self, *_: Any, **__: Any) -> Taker:
            return self

        def flush(self, _: float) -> None: ...
        def get(self, _: float) -> None: ...

    bad = Record(
        partition=3, offset=42, value=b'{"id":"lamp","version":7,"title":1}', headers=[(TRACEPARENT, TRACE_HEADER)]
    )
    letters = [FailedRecord(bad._replace(offset=n), "decode", "ContractError", "title: wrong") for n in range(42, 70)]
    DeadLetterWriter(Taker(), "g", lambda: NOW).send_all(letters)
    first, *others = caplog.records
    assert first.getMessage() == "refused at decode: title: wrong"
    expected = {
        "product_id": "lamp",
        "version": 7,
        "partition": 3,
        "offset": 42,
        "stage": "decode",
        "trace_id": TRACE_ID,
    }
    assert vars(first).items() >= expected.items()
    assert len(others) == 20, "a flood is cut short"
    assert others[-1].getMessage().startswith("8 more records were refused")


@pytest.mark.parametrize("value", [None, b"", b"\xff\x00", b"[1]", b'{"id": {"a": 1}, "version": "x"}', b'"text"'])
def test_the_position_of_a_record_is_logged_for_any_value(value: bytes | None) -> None:
    fields = log_fields(FailedRecord(Record(value=value, offset=9), "decode", "ContractError", ""))
    assert (fields["topic"], fields["partition"], fields["offset"]) == ("catalog.updates", 0, 9)
    assert all(isinstance(value, str | int) for value in fields.values())
