"""Which images of a product are fetched."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from streaming.catalogue.batch import BatchResult, Received
from streaming.catalogue.images.product_images import ProductImages, refuse_images
from streaming.catalogue.merging import Product
from streaming.errors import ImageError
from tests.streaming.builders import NOW, price, record, update
from tests.streaming.fakes import Crash, FakeImages
from tests.streaming.world import World, crashing_publisher, stages


def received(version: int, **fields: Any) -> Received:
    message = update("p", version, "patch", **fields)
    return Received(record(message, version), message)


def stored_with(*links: str) -> Any:
    world = World()
    world.process(update("p", 1, image_link=links[0], additional_image_link=list(links[1:])))
    return world.store.read_features(["p"])["p"]


def product(*links: str) -> Product:
    return Product(id="p", version=2, event_time=NOW, links=links)


def loader(images: FakeImages | None = None) -> ProductImages:
    return ProductImages(images or FakeImages(), lambda: NOW, timedelta(minutes=5))


def test_only_missing_images_are_fetched() -> None:
    assert loader().links_to_fetch(stored_with("a"), product("a", "b"), [received(2)]) == ["b"]
    assert loader().links_to_fetch(None, product("a"), [received(2)]) == ["a"]


def test_images_of_another_encoder_are_fetched_again() -> None:
    assert loader(FakeImages("v2")).links_to_fetch(stored_with("a"), product("a"), [received(2)]) == ["a"]


def test_a_refresh_fetches_all_images_even_if_the_update_is_stale() -> None:
    assert loader().links_to_fetch(stored_with("a"), product("a"), [received(0, refresh_images=True)]) == ["a"]


def test_a_failed_link_is_retried_only_after_a_while_or_when_an_update_names_it() -> None:
    images = FakeImages()
    images.broken.add("b")
    loads = loader(images)
    assert isinstance(loads.fetch(["b"])["b"], ImageError)
    assert loads.links_to_fetch(None, product("b"), [received(2)]) == []
    assert loads.links_to_fetch(None, product("b"), [received(2, image_link="b")]) == ["b"]


def test_the_newest_update_that_names_a_missing_image_becomes_the_dead_letter() -> None:
    result, errors = BatchResult(), {"b": ImageError("b: is no image")}
    updates = [received(2, image_link="b"), received(3, image_link="b"), received(4, brand="x")]
    refuse_images(errors, updates, result)
    assert [letter.record for letter in result.dead_letters] == [updates[1].record]


def test_without_such_an_update_missing_images_are_only_counted() -> None:
    result = BatchResult()
    refuse_images({"b": ImageError("b: is no image")}, [received(4, brand="x")], result)
    assert (result.dead_letters, result.counts) == ([], {"images_still_missing": 1})


def test_a_missing_image_is_fetched_again_at_the_next_update_of_the_product() -> None:
    """A server that is unreachable for a short time must not cost the product its picture forever."""
    world = World()
    world.images.broken.add("away")
    world.process(update("p1", 1, image_link="away", additional_image_link=["good"]))
    world.images.asked.clear()
    outcome = world.process(update("p1", 2, "patch", price=price("5")))
    assert outcome.dead_letters == [], "an update that names no image is not to blame for one"
    assert world.images.asked == ["away"], "present images are not fetched again"
    world.images.broken.clear()
    world.process(update("p1", 3, "patch", price=price("6")))
    product = world.store.read_features(["p1"])["p1"]
    assert product.image_hashes == ["hash of away", "hash of good"]
    assert (product.version, product.amount_minor) == (3, 600)
    assert world.embedder is not None
    assert world.embedder.embedded == ["p1", "p1"], "with the picture it is embedded again"
    assert world.topic.log[-1][2] == 3


def test_a_replayed_dead_letter_brings_the_image_although_the_product_is_newer() -> None:
    world = World()
    world.images.broken.add("away")
    first = record(update("p1", 1, image_link="away"))
    world.process(first, update("p1", 2, "patch", price=price("5")))
    world.images.broken.clear()
    assert world.process(first).dead_letters == []
    product = world.store.read_features(["p1"])["p1"]
    assert (product.version, product.image_hashes, product.amount_minor) == (2, ["hash of away"], 500)


def test_the_effect_of_a_replayed_dead_letter_is_published_although_the_first_attempt_failed() -> None:
    world = World()
    world.images.broken.add("away")
    first = record(update("p1", 1, image_link="away"))
    world.process(first, update("p1", 2, "patch", price=price("5")))
    world.images.broken.clear()
    world.restart(crashing_publisher(world))
    with pytest.raises(Crash):
        world.process(first)
    world.process(first)
    sent = world.topic.log[-1][3]
    assert sent is not None
    np.testing.assert_allclose(sent.unpack(), world.store.embeddings["1"]["p1"].vector, atol=1e-3)


def test_an_unreachable_image_server_does_not_slow_every_price_update() -> None:
    world = World(image_retry_after=timedelta(minutes=5))
    world.images.broken.add("away")
    world.process(update("p1", 1, image_link="away"))
    world.process(update("p1", 2, "patch", price=price("5")))
    assert world.images.asked == ["away"]
    world.now += timedelta(minutes=6)
    world.process(update("p1", 3, "patch", price=price("6")))
    assert world.images.asked == ["away"] * 2
    assert stages(world.process(update("p1", 4, "patch", image_link="away"))) == ["image"]
    assert world.images.asked == ["away"] * 3, "an update that names the link fetches it at once"


def test_known_images_are_not_fetched_again_unless_the_encoder_changed() -> None:
    world = World()
    world.process(update("p1", 1, image_link="a"))
    world.process(update("p1", 2, "patch", image_link="b", additional_image_link=["a"]))
    assert world.images.asked == ["a", "b"]
    world.images.visual_version = "v2"
    world.process(update("p1", 3, "patch", price=price("5")))
    assert world.images.asked == ["a", "b", "b", "a"]
    assert world.store.read_features(["p1"])["p1"].visual_version == "v2"
    assert world.embedder is not None
    assert world.embedder.embedded == ["p1", "p1", "p1"]
