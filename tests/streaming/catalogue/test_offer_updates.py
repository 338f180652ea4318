"""The fast path: price and availability of settled products."""

from __future__ import annotations

from typing import Any

from streaming.catalogue.decoding import decode_updates
from streaming.catalogue.offer_updates import write_offer_updates
from streaming.catalogue.settled import SettledProduct, SettledProducts
from streaming.contracts import ProductUpdate
from streaming.kafka.codec import JSON
from tests.streaming.builders import NOW, price, records, update
from tests.streaming.fakes import FakeStore
from tests.streaming.world import World


def settled_store(*ids: str) -> tuple[FakeStore, SettledProducts]:
    """A store with version 1 of products that cost 5 EUR, all settled."""
    world = World()
    world.process(*(update(i, 1, product_type=["Home"], price=price("5")) for i in ids))
    settled = SettledProducts()
    settled.add("1", "v1", {i: SettledProduct(1, "Home") for i in ids})
    return world.store, settled


def write(store: FakeStore, settled: SettledProducts, *updates: ProductUpdate) -> Any:
    received, _ = decode_updates(records(*updates), JSON, NOW)
    return write_offer_updates(received, settled, store)


def test_a_new_price_is_written_and_published_with_the_remembered_category() -> None:
    store, settled = settled_store("a")
    changes = write(store, settled, update("a", 2, "patch", price=price("6")))
    (offer,) = changes.offers
    assert (offer.message.amount_minor, offer.message.product_type, offer.version) == (600, "Home", 2)
    assert changes.offers_only == ["a"]
    assert settled.at("a", 2) == SettledProduct(2, "Home")
    assert store.read_offers(["a"])["a"].amount_minor == 600


def test_an_unchanged_price_is_written_but_not_published() -> None:
    store, settled = settled_store("a")
    changes = write(store, settled, update("a", 2, "patch", price=price("5")))
    assert changes.offers == []
    assert changes.result.counts["features_unchanged"] == 1
    assert store.read_offers(["a"])["a"].version == 2


def test_an_update_that_the_store_already_has_is_published_again() -> None:
    store, settled = settled_store("a")
    assert len(write(store, settled, update("a", 1, "patch", price=price("5"))).offers) == 1


def test_other_updates_and_unsettled_products_are_left_to_the_general_path() -> None:
    store, settled = settled_store("a")
    updates = (
        update("a", 2, "patch", price=price("6")),
        update("a", 3, "patch", brand="x"),
        update("unknown", 2, "patch", price=price("6")),
    )
    changes = write(store, settled, *updates)
    assert (changes.offers_only, changes.offers) == ([], [])
    assert store.read_offers(["a"])["a"].version == 1


def test_a_product_that_another_process_has_changed_is_left_to_the_general_path() -> None:
    store, settled = settled_store("a")
    settled.add("1", "v1", {"a": SettledProduct(0, "Home")})
    assert write(store, settled, update("a", 2, "patch", price=price("6"))).offers_only == []
