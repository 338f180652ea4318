"""Offers: from a stored product to its message and to the filter attributes; which offers are published when."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from feature_repo.rows import OfferRow
from inference.retrieval import Attributes
from streaming.vectors.offers import filter_attributes, offer_of, offer_of_row, publish_all_offers, publish_offers
from streaming.vectors.publisher import OutgoingOffer
from tests.streaming.builders import NOW, price, update
from tests.streaming.fakes import FakeOffers
from tests.streaming.vectors.builders import LAMP
from tests.streaming.world import World


def test_the_index_filters_by_what_the_store_holds() -> None:
    product_id, version, message = offer_of(LAMP, source_time=123)
    assert message is not None
    assert (product_id, version, message.id, message.version, message.source_time) == ("lamp", 7, "lamp", 7, 123)
    assert filter_attributes(message) == Attributes(
        amount_minor=1999, currency="EUR", product_type="Home > Lamps", availability="in_stock"
    )


def test_a_stored_offer_and_its_category_make_the_same_message_as_the_whole_product() -> None:
    row = OfferRow(id="lamp", version=7, event_time=NOW, amount_minor=1999, currency="EUR", availability="in_stock")
    assert offer_of_row(row, "Home > Lamps", source_time=123) == offer_of(LAMP, source_time=123)


def test_a_deleted_product_is_a_tombstone() -> None:
    assert offer_of(msgspec.structs.replace(LAMP, deleted=True), source_time=123) == OutgoingOffer("lamp", 7, None)


def test_the_last_record_on_the_topic_is_what_the_store_holds() -> None:
    """Another consumer writes a newer price and a deletion while the first records are on their way."""
    world = World()
    world.process(*(update(i, 3, price=price("1")) for i in ("a", "b", "c")), update("gone", 4, "delete"))
    topic = FakeOffers()

    def overtaken(records: Sequence[OutgoingOffer]) -> None:
        topic(records)
        if len(topic.log) == 4:
            world.process(update("a", 4, "patch", price=price("2")), update("b", 4, "delete"))

    offers = [offer_of(p, source_time=1) for p in world.store.read_features(["a", "b", "c", "gone"]).values()]
    publish_offers(offers, world.store, overtaken)
    assert [(i, version, offer and offer.amount_minor) for i, version, offer in topic.log] == [
        *(("a", 3, 100), ("b", 3, 100), ("c", 3, 100), ("gone", 4, None)),
        *(("a", 4, 200), ("b", 4, None)),
    ]
    assert topic.times["a"] == 1, "the age counts from the update of the first record"
    publish_offers([], world.store, overtaken)
    assert len(topic.log) == 6


def test_a_tombstone_that_a_newer_product_has_overtaken_is_replaced_as_of_now() -> None:
    world, topic = World(), FakeOffers()
    world.process(update("a", 3, "delete"))
    tombstone = OutgoingOffer("a", 3, None)
    world.process(update("a", 4, price=price("2")))
    publish_offers([tombstone], world.store, topic, clock=lambda: 5.0)
    assert [(i, version) for i, version, _ in topic.log] == [("a", 3), ("a", 4)]
    assert topic.times == {"a": 5000}


def test_a_catalogue_older_than_the_topic_is_published_completely() -> None:
    world, topic = World(), FakeOffers()
    world.process(*(update(f"p{n}", 2, price=price(f"{n}")) for n in range(10)), update("gone", 1, "delete"))
    assert publish_all_offers(world.store, topic, batch=4) == 10
    assert topic.compacted() == world.offers.compacted()
    assert len(topic.log) == 10
