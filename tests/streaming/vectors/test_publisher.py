"""What is written to the compacted topics, and that the last record of a product is what the store holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from kafka.errors import KafkaTimeoutError

from streaming.contracts import ProductOffer, ProductVector
from streaming.errors import BrokerError
from streaming.kafka.codec import JSON
from streaming.tracing import TRACEPARENT
from streaming.vectors.offers import offer_of
from streaming.vectors.publisher import (
    OutgoingOffer,
    OutgoingVector,
    embedding_publisher,
    offer_publisher,
    publish_until_current,
)
from tests.streaming.builders import record, update
from tests.streaming.fakes import CompactedProducer
from tests.streaming.vectors.builders import LAMP, vector_message
from tests.streaming.world import World

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GONE = OutgoingVector("1", "c", 8, None)


def test_vectors_and_tombstones_are_keyed_by_model_and_product() -> None:
    producer = CompactedProducer()
    message = vector_message("a/b", 7)
    embedding_publisher(producer, JSON)([OutgoingVector("1", "a/b", 7, message), GONE])
    (topic, key, value, _), (_, gone, nothing, headers) = producer.sent
    assert (topic, key, gone, nothing) == ("product.embeddings", b"1/a/b", b"1/c", None)
    assert JSON.decode(ProductVector, value) == message
    assert headers["sagelift-version"] == b"8"


def test_an_offer_is_read_as_it_was_written() -> None:
    producer = CompactedProducer()
    offer_publisher(producer, JSON)([offer_of(LAMP, source_time=123)])
    ((topic, key, value, headers),) = producer.sent
    assert (topic, key) == ("product.offers", b"lamp")
    assert "sagelift-version" not in headers, "the value states the version itself"
    assert JSON.decode(ProductOffer, value) == offer_of(LAMP, source_time=123).message


def test_deleted_products_have_no_value_and_their_version() -> None:
    producer = CompactedProducer()
    offer_publisher(producer, JSON)([OutgoingOffer("gone", 8, None), OutgoingOffer("too", 9, None)])
    assert [(key, value, headers["sagelift-version"]) for _, key, value, headers in producer.sent] == [
        (b"gone", None, b"8"),
        (b"too", None, b"9"),
    ]


def test_records_that_the_broker_does_not_accept_are_an_error() -> None:
    with pytest.raises(BrokerError, match=r"1 records of product\.embeddings were not accepted: KafkaTimeoutError"):
        embedding_publisher(CompactedProducer(KafkaTimeoutError()), JSON)([GONE])
    with pytest.raises(BrokerError, match=r"1 records of product\.offers were not accepted: KafkaTimeoutError"):
        offer_publisher(CompactedProducer(KafkaTimeoutError()), JSON)([offer_of(LAMP, source_time=0)])


def test_the_trace_of_the_update_is_a_header_of_the_record_of_its_vector() -> None:
    producer = CompactedProducer()
    vectors = [OutgoingVector("1", "a", 7, None), OutgoingVector("1", "b", 8, None)]
    embedding_publisher(producer, JSON)(vectors, {"a": TRACE})
    (_, _, _, traced), (_, _, _, untraced) = producer.sent
    assert traced[TRACEPARENT] == TRACE
    assert TRACEPARENT not in untraced


def test_the_trace_of_the_update_is_a_header_of_the_record_of_its_offer() -> None:
    producer = CompactedProducer()
    world = World()
    world.restart(publish_offers=offer_publisher(producer, JSON))
    world.process(record(update("a", 1), headers=[(TRACEPARENT, TRACE)]), update("b", 1))
    headers = {key: headers.get(TRACEPARENT) for _, key, _, headers in producer.sent}
    assert headers == {b"a": TRACE, b"b": None}


def test_records_are_published_again_until_the_store_has_overtaken_none() -> None:
    """The store holds a newer version after the first round, and nothing newer after the second."""
    log: list[list[tuple[str, int]]] = []
    newer = [[OutgoingOffer("a", 2, None)], []]

    def publish(records: Sequence[OutgoingOffer]) -> None:
        log.append([(record.product_id, record.version) for record in records])

    def overtaken(published: Mapping[str, OutgoingOffer]) -> Sequence[OutgoingOffer]:
        assert [(key, record.version) for key, record in published.items()] == log[-1]
        return newer.pop(0)

    publish_until_current([OutgoingOffer("a", 1, None), OutgoingOffer("b", 1, None)], publish, overtaken)
    assert log == [[("a", 1), ("b", 1)], [("a", 2)]]


def test_only_the_last_of_two_records_with_one_key_is_published() -> None:
    log: list[OutgoingOffer] = []
    records = [OutgoingOffer("a", 1, None), OutgoingOffer("a", 2, None)]
    publish_until_current(records, log.extend, lambda published: ())
    assert log == records[1:]
