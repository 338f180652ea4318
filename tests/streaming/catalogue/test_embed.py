"""Embedding what changed, and finding the product that a model refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from inference.errors import InputError
from inference.inputs import ProductInput
from inference.triton.client import Embedded
from streaming.catalogue.embed import embed
from tests.streaming.builders import update
from tests.streaming.fakes import FakeEmbedder, FakeStore
from tests.streaming.world import World


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
