"""`product.offers`: what is written is what is read, and what is not an offer is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from kafka.errors import KafkaTimeoutError

from feature_repo.rows import TEXT_FIELDS, ProductFeatures
from inference.retrieval import Attributes
from streaming.contracts import ProductOffer
from streaming.errors import BrokerError, ContractError
from streaming.kafka.codec import JSON
from streaming.vectors.offer_topic import (
    OfferPublisher,
    OutgoingOffer,
    attributes_of,
    attributes_of_offer,
    offer_of,
    publish_all_offers,
    publish_offers,
)
from tests.streaming.builders import NOW, price, record, update
from tests.streaming.fakes import CompactedProducer, FakeOffers
from tests.streaming.world import World

LAMP = ProductFeatures(
    id="lamp",
    version=7,
    event_time=NOW,
    text=dict.fromkeys(TEXT_FIELDS, "") | {"product_type": "Home > Lamps"},
    amount_minor=1999,
    currency="EUR",
    availability="in_stock",
)


def test_an_offer_is_read_as_it_was_written() -> None:
    producer = CompactedProducer()
    OfferPublisher(producer, JSON)([("lamp", 7, attributes_of(LAMP))], {"lamp": 123}.__getitem__)
    ((topic, key, value, headers),) = producer.sent
    assert (topic, key) == ("product.offers", b"lamp")
    assert "sagelift-version" not in headers, "only where no value says it"
    assert value is not None
    offer = JSON.decode(ProductOffer, value)
    assert (offer.id, offer.version, offer.source_time) == ("lamp", 7, 123)
    assert attributes_of_offer(offer) == attributes_of(LAMP)
    assert attributes_of_offer(offer) == Attributes(
        amount_minor=1999, currency="EUR", product_type="Home > Lamps", availability="in_stock"
    )


def test_the_trace_of_the_update_goes_on_with_the_offer() -> None:
    producer = CompactedProducer()
    world = World()
    world.restart(publish_offers=OfferPublisher(producer, JSON))
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    world.process(record(update("a", 1), headers=[("traceparent", trace)]), update("b", 1))
    headers = {key: headers.get("traceparent") for _, key, _, headers in producer.sent}
    assert headers == {b"a": trace, b"b": None}


def test_deleted_products_have_no_value_and_their_version() -> None:
    producer = CompactedProducer()
    OfferPublisher(producer, JSON)([("gone", 8, None), ("too", 9, None)], {}.__getitem__)
    assert [(key, value, headers["sagelift-version"]) for _, key, value, headers in producer.sent] == [
        (b"gone", None, b"8"),
        (b"too", None, b"9"),
    ]


def test_offers_that_the_broker_does_not_take_are_an_error() -> None:
    with pytest.raises(BrokerError, match=r"1 records of product\.offers were not accepted: KafkaTimeoutError"):
        OfferPublisher(CompactedProducer(KafkaTimeoutError()), JSON)([("lamp", 7, attributes_of(LAMP))], lambda id: 0)


def test_a_later_contract_s_fields_are_passed_over_and_a_broken_field_is_named() -> None:
    assert JSON.decode(ProductOffer, b'{"id":"a","version":1,"source_time":1,"rating":5}').id == "a"
    with pytest.raises(ContractError, match="version: Expected `int`"):
        JSON.decode(ProductOffer, b'{"id":"a","version":"x","source_time":1}')
    with pytest.raises(ContractError, match="not JSON"):
        JSON.decode(ProductOffer, b"{")


def test_the_last_record_on_the_topic_is_what_the_store_holds_whoever_wrote_it() -> None:
    """Another consumer writes a newer price and a deletion while the first records are on their way."""
    world = World()
    world.process(*(update(i, 3, price=price("1")) for i in ("a", "b", "c")), update("gone", 4, "delete"))
    topic = FakeOffers()

    def overtaken(products: Sequence[OutgoingOffer], source_time: Callable[[str], int]) -> None:
        topic(products, source_time)
        if len(topic.log) == 4:
            world.process(update("a", 4, "patch", price=price("2")), update("b", 4, "delete"))

    offers = [offer_of(p) for p in world.store.read_features(["a", "b", "c", "gone"]).values()]
    publish_offers(offers, world.store, overtaken, lambda id: 1)
    assert [(i, version, found and found.amount_minor) for i, version, found in topic.log] == [
        *(("a", 3, 100), ("b", 3, 100), ("c", 3, 100), ("gone", 4, None)),
        *(("a", 4, 200), ("b", 4, None)),
    ]
    publish_offers([], world.store, overtaken, lambda id: 1)
    assert len(topic.log) == 6


def test_a_catalogue_that_was_there_before_the_topic_is_published_in_full() -> None:
    world, topic = World(), FakeOffers()
    world.process(*(update(f"p{n}", 2, price=price(f"{n}")) for n in range(10)), update("gone", 1, "delete"))
    assert publish_all_offers(world.store, topic, batch=4) == 10
    assert topic.compacted() == world.offers.compacted()
    assert len(topic.log) == 10
