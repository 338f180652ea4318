"""Which images of a product are fetched."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from streaming.catalogue.batch import BatchResult, Received
from streaming.catalogue.images.product_images import ProductImages, refuse_images
from streaming.catalogue.merging import Product
from streaming.errors import ImageError
from tests.streaming.builders import NOW, record, update
from tests.streaming.fakes import FakeImages
from tests.streaming.world import World


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
