"""Embedding what changed, and finding the product that a model refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from inference.errors import InputError
from inference.inputs import ProductInput
from inference.triton.client import Embedded
from streaming.catalogue.embed import embed
from tests.streaming.builders import price, update
from tests.streaming.fakes import Crash, FakeEmbedder, FakeStore
from tests.streaming.world import World, crashing_publisher, stages


class Picky(FakeEmbedder):
    """Refuses a whole batch for one product in it."""

    def embed_products(self, products: Sequence[ProductInput]) -> Embedded:
        if any(p.text["title"] in self.poison for p in products):
            raise InputError("token_ids")
        return super().embed_products(products)


def test_a_batch_that_the_model_refuses_is_halved_until_the_product_at_fault_is_alone() -> None:
    world = World()
    world.embedder = None
    world.store.embeddings.clear()
    world.process(*(update(f"p{n}", 1) for n in range(9)))
    store: FakeStore = world.store
    store.ensure_model_version("1")
    model, counts = Picky(), Counter[str]()
    model.poison = {"p5 1"}
    products = list(store.read_features([f"p{n}" for n in range(9)]).values())
    vectors, rejected = embed(
        products, store, model, source_time=lambda _: 0, republish=lambda *_: False, counts=counts
    )
    assert rejected == {"p5": "token_ids"}
    assert sorted(vector[1] for vector in vectors) == [f"p{n}" for n in range(9) if n != 5]
    assert counts["embedded"] == 8


def test_inference_is_spent_only_on_what_the_model_reads() -> None:
    world = World()
    world.process(update("p1", 1, image_link="a"))
    assert world.embedder is not None
    world.embedder.embedded.clear()
    world.images.asked.clear()
    world.process(update("p1", 2, "patch", price=price("5")))
    world.process(update("p1", 3, "patch", availability="out_of_stock"))
    world.process(update("p1", 4, title="p1 1", image_link="a"))
    assert world.embedder.embedded == []
    assert world.images.asked == []
    assert len(world.topic.log) == 1
    assert world.store.read_features(["p1"])["p1"].version == 4
    world.process(update("p1", 5, "patch", brand="Acme"))
    assert world.embedder.embedded == ["p1"]
    assert len(world.topic.log) == 2


def test_many_updates_of_a_product_in_a_batch_cost_one_embedding() -> None:
    world = World()
    outcome = world.process(*(update("p1", v) for v in range(1, 50)), update("p1", 50, "patch", brand="B"))
    assert world.embedder is not None
    assert world.embedder.embedded == ["p1"]
    assert outcome.counts["stale"] == 0
    assert world.store.read_features(["p1"])["p1"].text["brand"] == "B"


def test_a_product_without_images_is_embedded() -> None:
    world = World()
    world.process(update("p1", 1))
    assert world.images.asked == []
    assert "p1" in world.topic.compacted()
    assert world.store.read_features(["p1"])["p1"].image_vectors.shape == (0, 256)


def test_a_switch_of_models_between_batches_embeds_with_the_new_one() -> None:
    world = World()
    world.process(update("p1", 1))
    world.store.ensure_model_version("2")
    world.embedder = FakeEmbedder("2")
    world.process(update("p1", 2, "patch", price=price("5")))
    assert world.embedder.embedded == ["p1"], "no embedding of model 2 yet, though the inputs are the same"
    assert list(world.topic.compacted("2")) == ["p1"]
    assert list(world.topic.compacted("1")) == ["p1"], "for a rollback"


def test_a_product_that_the_model_refuses_is_a_dead_letter_alone() -> None:
    world = World()
    assert world.embedder is not None
    world.embedder.poison.add("bad")
    outcome = world.process(update("p1", 1), update("p2", 1, title="bad"), update("p3", 1))
    assert [(letter.stage, letter.record.offset) for letter in outcome.dead_letters] == [("embed", 1)]
    assert sorted(world.topic.compacted()) == ["p1", "p3"]
    assert world.store.read_features(["p2"])["p2"].version == 1, "its features are good"


@pytest.mark.parametrize("crash", [False, True])
def test_a_product_that_the_model_refuses_loses_its_former_vector(crash: bool) -> None:
    world = World()
    world.process(update("p1", 1))
    assert world.embedder is not None
    world.embedder.poison.add("bad")
    if crash:
        world.restart(crashing_publisher(world))
        with pytest.raises(Crash):
            world.process(update("p1", 2, title="bad"))
    assert stages(world.process(update("p1", 2, title="bad"))) == ["embed"]
    assert world.state()["embeddings"] == {}
    assert world.topic.log[-1] == ("1", "p1", 2, None)
    world.process(update("p1", 3, title="good"))
    assert list(world.topic.compacted()) == ["p1"]


def test_an_unpublished_embedding_is_published_although_its_update_is_stale_by_then() -> None:
    """Two crashes before publishing, the second with a later update in the batch that changes no input of the model."""
    world = World()
    same = {"title": "oak", "image_link": "a"}
    first, second = update("p1", 1, **same), update("p1", 2, **same)
    world.restart(crashing_publisher(world, times=2))
    for batch in ([first], [first, second]):
        with pytest.raises(Crash):
            world.process(*batch)
    world.process(first)
    world.process(second)
    assert list(world.topic.compacted()) == ["p1"]
