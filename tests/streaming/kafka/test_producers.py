"""Publishing: a message that can never arrive is refused at once, and every failure is raised."""

from __future__ import annotations

from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from streaming.contracts import Event
from streaming.errors import BrokerError, ContractError
from streaming.kafka.producers import CatalogPublisher, EventPublisher
from tests.streaming.builders import NOW, decode_update, update
from tests.streaming.kafka.fakes import FakeProducer


def test_updates_are_keyed_by_product_and_carry_the_version_of_the_contract() -> None:
    producer = FakeProducer()
    with CatalogPublisher(producer) as publisher:  # type: ignore[arg-type]
        assert publisher.send_all([update("Größe", 1), update("p2", 1)]) == 2
    topic, key, value, headers = producer.sent[0]
    assert (topic, key, headers) == ("catalog.updates", "Größe".encode(), [("sagelift-schema", b"1")])
    assert decode_update(value, now=NOW) == update("Größe", 1)
    assert producer.closed


def test_events_are_keyed_by_unit() -> None:
    producer = FakeProducer()
    with EventPublisher(producer) as publisher:  # type: ignore[arg-type]
        publisher.send(Event(event_id="e", kind="click", unit_id="u7", event_time=NOW, product_id="p", surface="user"))
    assert producer.sent[0][:2] == ("events", b"u7")


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (update("p\udc80", 1), "lone surrogate"),
        (update("p", 1, brand="\ud800"), "lone surrogate"),
        (update("p", 1, description="x" * 1_000_000), "at most 1000000"),
    ],
)
def test_an_update_that_the_consumer_would_refuse_is_not_sent_and_affects_no_other(bad: Any, rule: str) -> None:
    producer = FakeProducer()
    with CatalogPublisher(producer) as publisher:  # type: ignore[arg-type]
        with pytest.raises(ContractError, match=rule):
            publisher.send(bad)
        publisher.send(update("good", 1))
    assert [key for _, key, *_ in producer.sent] == [b"good"]


def test_a_message_that_the_broker_refused_is_an_error_at_the_latest_when_closed() -> None:
    producer = FakeProducer()
    producer.refuse = MessageSizeTooLargeError()
    with pytest.raises(BrokerError, match="refused: MessageSizeTooLargeError"), CatalogPublisher(producer) as publisher:  # type: ignore[arg-type]
        publisher.send(update("p", 1))
    assert producer.closed


def test_a_broker_that_does_not_acknowledge_in_time_is_an_error() -> None:
    producer = FakeProducer()
    producer.slow = True
    publisher = CatalogPublisher(producer)  # type: ignore[arg-type]
    publisher.send(update("p", 1))
    with pytest.raises(BrokerError, match="not acknowledged within 3 s"):
        publisher.flush(3)


def test_a_failure_is_raised_once_and_later_messages_are_sent() -> None:
    producer = FakeProducer()
    publisher = CatalogPublisher(producer)  # type: ignore[arg-type]
    publisher.send(update("p1", 1))
    producer.refuse = KafkaTimeoutError()
    with pytest.raises(BrokerError, match="refused: KafkaTimeoutError"):
        publisher.flush()
    producer.refuse = None
    publisher.send(update("p1", 1))
    publisher.close()
    assert [key for _, key, *_ in producer.sent] == [b"p1", b"p1"]


def test_a_delivery_reports_only_its_own_failure() -> None:
    """The caller can send the message again; other callers do not hear of it, nor the other way round."""
    producer = FakeProducer()
    click = Event(event_id="e", kind="click", unit_id="u7", event_time=NOW, product_id="p", surface="user")
    with EventPublisher(producer) as publisher:  # type: ignore[arg-type]
        producer.refuse = KafkaTimeoutError()
        lost = publisher.deliver(click)
        assert not lost.done()
        publisher.flush()
        assert isinstance(lost.exception(0), BrokerError)
        producer.refuse = None
        kept = publisher.deliver(click)
        publisher.flush()
        assert kept.result(0) is None
