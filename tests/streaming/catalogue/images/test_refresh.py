"""Images that changed behind their links: fetched again on request, embedded again only if they did change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from inference.arrays import Float32Array
from streaming.catalogue.images.refresh import read_products, refresh_updates
from streaming.errors import ContractError, ImageError
from tests.streaming.builders import price, update, vector_of
from tests.streaming.fakes import FakeImages
from tests.streaming.world import World, counts, stages


class ChangingImages(FakeImages):
    """Images whose content can change behind their links."""

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[str, str] = {}

    def vectors(self, links: Sequence[str]) -> Mapping[str, tuple[str, Float32Array] | ImageError]:
        result = super().vectors(links)
        now = {link: self.content.get(link, link) for link in links}
        return {
            link: error if isinstance(error, ImageError) else (f"hash of {now[link]}", vector_of("v1", now[link]))
            for link, error in result.items()
        }


@pytest.fixture
def world() -> World:
    it = World()
    it.images = ChangingImages()
    it.restart()
    it.process(update("p1", 5, image_link="a", additional_image_link=["b"]), update("p2", 5))
    it.images.asked.clear()
    return it


def hashes(world: World) -> list[str]:
    return world.store.read_features(["p1"])["p1"].image_hashes


def change(world: World, link: str = "a") -> None:
    assert isinstance(world.images, ChangingImages)
    world.images.content[link] = "another picture"


def refresh(world: World, id: str = "p1") -> None:
    (message,) = refresh_updates(read_products([id], world.store))
    world.process(message)


def test_a_known_link_is_not_fetched_again_without_a_request(world: World) -> None:
    change(world)
    world.process(update("p1", 6, image_link="a", additional_image_link=["b"]))
    assert world.images.asked == []
    assert hashes(world) == ["hash of a", "hash of b"]


def test_a_refresh_fetches_all_images_and_the_embedding_follows(world: World) -> None:
    before = world.topic.compacted()["p1"]
    change(world)
    refresh(world)
    assert world.images.asked == ["a", "b"]
    assert hashes(world) == ["hash of another picture", "hash of b"]
    assert world.topic.compacted()["p1"] != before
    assert world.store.read_features(["p1"])["p1"].version == 5, "the source's own next version passes"
    world.process(update("p1", 6, "patch", brand="Acme"))
    assert world.store.read_features(["p1"])["p1"].text["brand"] == "Acme"


def test_images_that_did_not_change_cost_no_inference(world: World) -> None:
    assert world.embedder is not None
    world.embedder.embedded.clear()
    refresh(world)
    assert world.images.asked == ["a", "b"]
    assert world.embedder.embedded == []


def test_a_newer_update_that_overtakes_a_refresh_does_not_undo_it(world: World) -> None:
    """The image behind a link has no version."""
    change(world)
    (late,) = refresh_updates(read_products(["p1"], world.store))
    world.process(update("p1", 6, "patch", price=price("5")))
    outcome = world.process(late)
    assert counts(outcome)["stale"] == 1
    assert hashes(world)[0] == "hash of another picture"
    assert world.topic.compacted()["p1"] == world.state()["topic"]["p1"]
    assert world.store.read_features(["p1"])["p1"].version == 6


def test_any_update_may_ask_for_a_refresh(world: World) -> None:
    change(world, "b")
    world.process(update("p1", 6, "patch", price=price("5"), refresh_images=True))
    assert hashes(world) == ["hash of a", "hash of another picture"]
    assert world.store.read_features(["p1"])["p1"].amount_minor == 500


def test_an_image_that_cannot_be_fetched_again_keeps_its_old_vector_and_is_a_dead_letter(world: World) -> None:
    change(world, "b")
    world.images.broken.add("a")
    (message,) = refresh_updates(read_products(["p1"], world.store))
    outcome = world.process(message)
    assert stages(outcome) == ["image"]
    assert hashes(world) == ["hash of a", "hash of another picture"]
    world.images.broken.clear()
    change(world)
    world.process(message)  # replayed
    assert hashes(world) == ["hash of another picture"] * 2


def test_a_deleted_product_stays_deleted(world: World) -> None:
    (late,) = refresh_updates(read_products(["p1"], world.store))
    world.process(update("p1", 6, "delete"))
    world.images.asked.clear()
    assert stages(world.process(late)) == []
    assert world.images.asked == []
    assert world.store.read_features(["p1"])["p1"].deleted


def test_products_that_cannot_be_refreshed_are_named(world: World) -> None:
    with pytest.raises(ContractError, match="product 'p9' does not exist; publish it first"):
        read_products(["p1", "p9"], world.store)
    with pytest.raises(ContractError, match="'p2' has no images"):
        read_products(["p2"], world.store)
    assert list(refresh_updates(world.store.read_features(["p2"]).values())) == []
