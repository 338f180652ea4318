"""Settled products are remembered only as long as they are settled."""

from __future__ import annotations

import pytest

from streaming.catalogue.settled import SettledProduct, SettledProducts
from tests.streaming.builders import price, update
from tests.streaming.world import World


def test_a_product_is_settled_at_one_version_of_one_model_and_encoder() -> None:
    settled = SettledProducts()
    settled.add("1", "v1", {"a": SettledProduct(3, "Home"), "b": SettledProduct(1, "Sport")})
    assert settled.at("a", 3) == SettledProduct(3, "Home")
    assert settled.at("a", 4) is None
    settled.add("1", "v1", {"a": SettledProduct(4, "Garden")})
    assert settled.at("a", 4) == SettledProduct(4, "Garden")
    assert settled.at("b", 1) == SettledProduct(1, "Sport")
    settled.advance({"b": 2, "unknown": 2})
    assert settled.at("b", 2) == SettledProduct(2, "Sport")
    assert "unknown" not in settled
    settled.forget(["b", "unknown"])
    assert "b" not in settled


@pytest.mark.parametrize("changed", [("2", "v1"), ("1", "v2")])
def test_another_model_or_encoder_clears_the_settled_products(changed: tuple[str, str]) -> None:
    settled = SettledProducts()
    settled.add("1", "v1", {"a": SettledProduct(3, "")})
    settled.add(*changed, {"b": SettledProduct(1, "")})
    assert "a" not in settled
    assert settled.at("b", 1) is not None


def test_memory_is_bounded_and_the_oldest_products_are_dropped_first() -> None:
    settled = SettledProducts(limit=3)
    for n in range(10):
        settled.add("1", "v1", {f"p{n}": SettledProduct(n, "")})
    assert [f"p{n}" in settled for n in range(10)] == [False] * 7 + [True] * 3


def test_a_new_price_of_a_settled_product_reads_neither_its_text_nor_its_embedding() -> None:
    world = World()
    world.process(update("p1", 1, image_link="a", product_type=["Home", "Lamps"]), update("p2", 1))
    asked: list[str] = []
    for name in ("read_features", "read_embeddings", "embedding_states"):
        real = getattr(world.store, name)
        setattr(world.store, name, lambda *a, real=real, name=name: (asked.append(name), real(*a))[1])
    outcome = world.process(
        update("p1", 2, "patch", price=price("5")), update("p2", 2, "patch", availability="preorder")
    )
    assert asked == []
    assert outcome.counts["features_offer"] == 2
    assert world.offers.compacted()["p1"].product_type == "Home > Lamps", "the category is remembered"
    assert outcome.counts["embedding_unchanged"] == 2
    assert world.store.read_features(["p1"])["p1"].amount_minor == 500
    world.process(update("p1", 3, "patch", brand="Acme"))
    assert "read_features" in asked


def test_a_product_that_another_process_has_changed_takes_the_general_path() -> None:
    world, other = World(), World()
    other.store, other.topic, other.offers = world.store, world.topic, world.offers
    other.restart()
    world.process(update("p1", 1))
    other.process(update("p1", 2, "patch", brand="Acme", product_type=["Home"]))
    world.process(update("p1", 3, "patch", price=price("5")))
    product = world.store.read_features(["p1"])["p1"]
    assert (product.version, product.text["brand"], product.amount_minor) == (3, "Acme", 500)
    assert world.offers.compacted()["p1"].product_type == "Home"


def test_an_older_price_of_a_settled_product_is_stale() -> None:
    world = World()
    world.process(update("p1", 5))
    outcome = world.process(update("p1", 4, "patch", price=price("5")))
    assert outcome.counts["stale"] == 1
    assert world.store.read_features(["p1"])["p1"].amount_minor is None
    world.process(update("p1", 6, "delete"))
    (letter,) = world.process(update("p1", 7, "patch", price=price("5"))).dead_letters
    assert letter.stage == "merge"
