"""Embedding a whole catalogue under one model version: only products whose inputs changed."""

from __future__ import annotations

import pytest

from streaming.release.catalogue_shards import EmbeddingContext
from streaming.release.reembed import reembed
from tests.streaming.builders import update
from tests.streaming.fakes import Crash, FakeEmbedder, FakeStore, FakeTopic
from tests.streaming.release.shop import catalogue


def test_every_live_product_gets_an_embedding_of_the_new_model_beside_the_old_one() -> None:
    world, progress = catalogue(), []
    counts, rejected = reembed(
        EmbeddingContext(world.store, FakeEmbedder("2"), world.topic), shard_products=4, on_progress=progress.append
    )
    assert (counts["embedded"], rejected) == (10, {})
    assert sorted(world.topic.compacted("2")) == sorted(world.topic.compacted("1")) == [f"p{n}" for n in range(10)]
    assert progress == [4, 8, 10]


def test_a_second_pass_embeds_only_what_changed_and_publishes_nothing_else() -> None:
    world, model = catalogue(), FakeEmbedder("2")
    reembed(EmbeddingContext(world.store, model, world.topic))
    world.process(update("p3", 2, title="new"), update("p4", 2, "delete"))
    sent = len(world.topic.log)
    model.embedded.clear()
    counts, _ = reembed(EmbeddingContext(world.store, model, world.topic), republish=False)
    assert model.embedded == ["p3"]
    assert counts["embedding_unchanged"] == 8
    assert [entry[1] for entry in world.topic.log[sent:]] == ["p3"]


def test_a_pass_that_was_interrupted_is_finished_by_the_next_one() -> None:
    """Written but not published, and the price changed since: it must be published all the same."""
    world, model = catalogue(), FakeEmbedder("2")

    class Broken(FakeTopic):
        def __call__(self, records: object, /, traces: object = None) -> None:
            raise Crash

    with pytest.raises(Crash):
        reembed(EmbeddingContext(world.store, model, Broken()), shard_products=4)
    world.process(update("p0", 2, title="p0 1"))
    counts, _ = reembed(EmbeddingContext(world.store, model, world.topic), shard_products=4)
    assert counts["embedded"] == 6
    assert sorted(world.topic.compacted("2")) == [f"p{n}" for n in range(10)]


def test_products_that_the_model_rejects_are_named() -> None:
    world, model = catalogue(), FakeEmbedder("2")
    model.poison = {"p7 1"}
    _, rejected = reembed(EmbeddingContext(world.store, model, world.topic))
    assert rejected == {"p7": "token_ids"}


def test_an_empty_catalogue_calls_neither_the_model_nor_the_topic() -> None:
    model, topic = FakeEmbedder("2"), FakeTopic()
    assert reembed(EmbeddingContext(FakeStore(("2",)), model, topic)) == ({}, {})
    assert (model.embedded, topic.log) == ([], [])
