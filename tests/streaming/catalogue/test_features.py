"""The features stage: what is written, and what it reports to the later stages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from feature_repo.errors import InvalidFeatureError
from streaming.catalogue.batch import FeatureChanges
from streaming.catalogue.decoding import decode_updates
from streaming.catalogue.features import FeatureWriter
from streaming.catalogue.images.product_images import ProductImages
from streaming.catalogue.settled import SettledProduct, SettledProducts
from streaming.contracts import ProductUpdate
from streaming.kafka.codec import JSON
from tests.streaming.builders import NOW, price, record, records, update
from tests.streaming.fakes import Crash, FakeImages, FakeStore
from tests.streaming.world import World, crashing_publisher


class Stage:
    def __init__(self) -> None:
        self.store, self.images, self.settled = FakeStore(), FakeImages(), SettledProducts()
        images = ProductImages(self.images, lambda: NOW, timedelta(minutes=5))
        self.writer = FeatureWriter(self.store, images, self.settled)

    def write(self, *updates: ProductUpdate) -> FeatureChanges:
        received, _ = decode_updates(records(*updates), JSON, NOW)
        return self.writer.write(received)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_new_product_is_reported_with_its_offer(stage: Stage) -> None:
    changes = stage.write(update("a", 1, image_link="i", price=price("5")))
    assert [product.id for product in changes.products] == ["a"]
    assert [offer.product_id for offer in changes.offers] == ["a"]
    assert changes.result.counts["features_text_images_offer"] == 1
    assert changes.changed_by["a"].offset == 0


def test_only_the_changed_views_are_counted(stage: Stage) -> None:
    stage.write(update("a", 1, title="t", image_link="i"))
    assert stage.write(update("a", 2, "patch", brand="x")).result.counts["features_text"] == 1
    assert stage.write(update("a", 3, "patch")).result.counts["features_unchanged"] == 1
    assert stage.store.versions(["a"]) == {"a": 3}, "a version that changes nothing is recorded"


def test_an_unchanged_product_is_still_checked_by_the_embeddings_stage(stage: Stage) -> None:
    """A crash may have come between the writing of its features and of its embedding."""
    stage.write(update("a", 2))
    changes = stage.write(update("a", 1))
    assert changes.result.counts["stale"] == 1
    assert [product.id for product in changes.products] == ["a"]
    assert changes.offers == []


def test_a_deletion_is_reported_with_a_tombstone_offer(stage: Stage) -> None:
    stage.write(update("a", 1))
    changes = stage.write(update("a", 2, "delete"))
    assert [(d.id, d.version) for d in changes.deletions] == [("a", 2)]
    assert [(offer.product_id, offer.message) for offer in changes.offers] == [("a", None)]
    assert changes.products == []


@pytest.fixture
def refusing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage whose store refuses each batch that has a product with the title "bad"."""
    write = stage.store.write_features

    def write_features(products: list, views: list) -> set[str]:  # type: ignore[type-arg]
        if any(product.text["title"] == "bad" for product in products):
            raise InvalidFeatureError("title")
        return write(products, views)

    monkeypatch.setattr(stage.store, "write_features", write_features)
    return stage


def test_the_update_that_the_store_refuses_is_a_dead_letter_alone(refusing: Stage) -> None:
    changes = refusing.write(*(update(f"p{n}", 1, title="bad" if n == 3 else "good") for n in range(8)))
    assert [(letter.stage, letter.record.offset) for letter in changes.result.dead_letters] == [("store", 3)]
    assert sorted(product.id for product in changes.products) == [f"p{n}" for n in range(8) if n != 3]


def test_the_age_of_an_offer_counts_from_the_first_update_of_the_batch_although_the_store_refuses_it(
    refusing: Stage,
) -> None:
    refusing.write(update("a", 1))
    changes = refusing.write(update("a", 2, "patch", title="bad"), update("a", 3, "patch", price=price("5")))
    assert [letter.record.offset for letter in changes.result.dead_letters] == [0]
    (offer,) = changes.offers
    assert offer.message is not None
    assert (offer.message.amount_minor, offer.message.source_time) == (500, 1000)


def test_a_product_on_the_general_path_is_no_longer_settled(stage: Stage) -> None:
    stage.write(update("a", 1))
    stage.settled.add("1", "v1", {"a": SettledProduct(1, "")})
    stage.write(update("a", 2, "patch", brand="x"))
    assert "a" not in stage.settled


def test_missing_images_are_one_dead_letter_and_the_rest_is_applied() -> None:
    world = World()
    world.images.broken |= {"bad1", "bad2"}
    outcome = world.process(
        update("p1", 1, image_link="bad1", additional_image_link=["good", "bad2"]),
        update("p1", 2, "patch", price=price("5")),
    )
    (letter,) = outcome.dead_letters
    assert (letter.stage, letter.record.offset) == ("image", 0), "the update that named the images is to blame"
    assert "bad1" in letter.message
    assert "bad2" in letter.message
    product = world.store.read_features(["p1"])["p1"]
    assert (product.version, product.image_urls, product.amount_minor) == (2, ["bad1", "good", "bad2"], 500)
    assert product.image_hashes == ["", "hash of good", ""]
    assert product.image_vectors.shape == (1, 256)
    assert "p1" in world.topic.compacted()


def test_the_dead_letter_of_an_image_survives_a_failure_after_the_features_were_written() -> None:
    """The batch is retried, and by then the update that named the image is stale."""
    world = World()
    world.images.broken.add("bad")
    world.restart(crashing_publisher(world))
    batch = update("p1", 1, image_link="bad"), update("p1", 2, "patch", price=price("5"))
    with pytest.raises(Crash):
        world.process(*batch)
    outcome = world.process(*batch)
    assert [(letter.stage, letter.record.offset) for letter in outcome.dead_letters] == [("image", 0)]


def test_a_patch_of_nothing_is_a_dead_letter_and_its_neighbours_are_applied() -> None:
    world = World()
    outcome = world.process(
        update("p1", 1, "patch", brand="x"),
        update("p2", 1, "delete"),
        update("p2", 2, "patch", brand="x"),
        update("p3", 1),
        update("p3", 2, "patch", brand="x"),
    )
    assert [(letter.stage, letter.record.offset) for letter in outcome.dead_letters] == [("merge", 0), ("merge", 2)]
    assert world.store.read_features(["p3"])["p3"].text["brand"] == "x"
    assert world.store.read_features(["p2"])["p2"].deleted


def test_an_update_that_only_the_store_refuses_is_found_in_its_batch() -> None:
    world = World()
    write = world.store.write_features

    def picky(products: Sequence[Any], views: Sequence[str]) -> set[str]:
        if any(p.id == "p5" for p in products):
            raise InvalidFeatureError("Product 'p5' is not to my taste.")
        return write(products, views)

    world.store.write_features = picky  # type: ignore[method-assign]
    outcome = world.process(*(update(f"p{i}", 1) for i in range(9)), record(b"{", 9))
    letters = {(letter.stage, letter.record.offset) for letter in outcome.dead_letters}
    assert letters == {("store", 5), ("decode", 9)}
    assert sorted(world.topic.compacted()) == [f"p{i}" for i in range(9) if i != 5]
