"""`product.offers`: what is written is what is read, and what is not an offer is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest
from kafka.errors import KafkaTimeoutError

from feature_repo.rows import TEXT_FIELDS, ProductFeatures
from inference.retrieval import Attributes
from streaming.errors import BrokerError, ContractError
from streaming.offer_topic import OfferPublisher, attributes_of, decode_offer, publish_offers
from tests.streaming.fakes import NOW

LAMP = ProductFeatures(
    id="lamp",
    version=7,
    event_time=NOW,
    text=dict.fromkeys(TEXT_FIELDS, "") | {"product_type": "Home > Lamps"},
    amount_minor=1999,
    currency="EUR",
    availability="in_stock",
)


class FakeProducer:
    def __init__(self, fail: Exception | None = None) -> None:
        self.fail = fail
        self.sent: list[tuple[str, bytes, bytes | None, dict[str, bytes]]] = []

    def send(self, topic: str, *, key: bytes, value: bytes | None, headers: Any) -> FakeProducer:
        self.sent.append((topic, key, value, dict(headers)))
        return self

    def flush(self, timeout: float) -> None: ...

    def get(self, timeout: float) -> None:
        if self.fail:
            raise self.fail


def test_an_offer_is_read_as_it_was_written() -> None:
    producer = FakeProducer()
    OfferPublisher(producer)([("lamp", 7, attributes_of(LAMP))], {"lamp": 123}.__getitem__)
    ((topic, key, value, headers),) = producer.sent
    assert (topic, key, headers["sagelift-version"]) == ("product.offers", b"lamp", b"7")
    assert value is not None
    offer = decode_offer(value)
    assert (offer.id, offer.version, offer.source_time) == ("lamp", 7, 123)
    assert offer.attributes() == attributes_of(LAMP)
    assert offer.attributes() == Attributes(
        amount_minor=1999, currency="EUR", product_type="Home > Lamps", availability="in_stock"
    )


def test_deleted_products_have_no_value_and_their_version() -> None:
    producer = FakeProducer()
    OfferPublisher(producer)([("gone", 8, None), ("too", 9, None)], {}.__getitem__)
    assert [(key, value, headers["sagelift-version"]) for _, key, value, headers in producer.sent] == [
        (b"gone", None, b"8"),
        (b"too", None, b"9"),
    ]


def test_offers_that_the_broker_does_not_take_are_an_error() -> None:
    with pytest.raises(BrokerError, match=r"1 records of product\.offers were not taken: KafkaTimeoutError"):
        OfferPublisher(FakeProducer(KafkaTimeoutError()))([("lamp", 7, attributes_of(LAMP))], lambda id: 0)


def test_a_later_contract_s_fields_are_passed_over_and_a_broken_field_is_named() -> None:
    assert decode_offer(b'{"id":"a","version":1,"source_time":1,"rating":5}').id == "a"
    with pytest.raises(ContractError, match="version: Expected `int`"):
        decode_offer(b'{"id":"a","version":"x","source_time":1}')
    with pytest.raises(ContractError, match="not JSON"):
        decode_offer(b"{")


class Row(NamedTuple):
    version: int
    amount_minor: int | None = 100
    deleted: bool = False
    currency: str | None = "EUR"
    product_type: str = "Home"
    availability: str | None = "in_stock"


class Store:
    """A feature store in which another consumer writes while the first record is published."""

    def __init__(self, rows: dict[str, Row]) -> None:
        self.rows = rows

    def read_offers(self, ids: Iterable[str]) -> dict[str, Row]:
        return {i: self.rows[i] for i in ids if i in self.rows}


def test_the_last_record_on_the_topic_is_what_the_store_holds_whoever_wrote_it() -> None:
    store = Store({"a": Row(3), "b": Row(5), "gone": Row(4, deleted=True)})
    published: list[tuple[str, int, int | None]] = []

    def publish(products: Sequence[tuple[str, int, Attributes | None]], source_time: Callable[[str], int]) -> None:
        published.extend((id, version, found and found.amount_minor) for id, version, found in products)
        if store.rows["a"].version == 3:
            store.rows["a"] = Row(4, amount_minor=200)

    publish_offers(["a", "b", "gone", "never written"], store, publish, lambda id: 1)
    assert published == [("a", 3, 100), ("b", 5, 100), ("gone", 4, None), ("a", 4, 200)]
    publish_offers([], store, publish, lambda id: 1)
    assert len(published) == 4
