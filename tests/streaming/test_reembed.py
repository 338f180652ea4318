"""Embedding a whole catalogue under a release: what has changed only, again and again if need be."""

from __future__ import annotations

import pytest

from streaming.reembed import reembed
from tests.streaming.fakes import Crash, FakeEmbedder, FakeStore, FakeTopic, update
from tests.streaming.test_catalog import World


def catalogue() -> World:
    world = World()
    world.process(*(update(f"p{n}", 1) for n in range(10)), update("gone", 1), update("gone", 2, "delete"))
    world.store.ensure_model_version("2")
    return world


def test_every_live_product_gets_an_embedding_of_the_new_model_beside_the_old_one() -> None:
    world, progress = catalogue(), []
    counts, rejected = reembed(world.store, FakeEmbedder("2"), world.topic, batch=4, on_progress=progress.append)
    assert (counts["embedded"], rejected) == (10, {})
    assert sorted(world.topic.compacted("2")) == sorted(world.topic.compacted("1")) == [f"p{n}" for n in range(10)]
    assert progress == [4, 8, 10]


def test_a_second_pass_embeds_only_what_changed_and_publishes_nothing_else() -> None:
    world, model = catalogue(), FakeEmbedder("2")
    reembed(world.store, model, world.topic)
    world.process(update("p3", 2, title="new"), update("p4", 2, "delete"))
    sent = len(world.topic.log)
    model.embedded.clear()
    counts, _ = reembed(world.store, model, world.topic, republish=False)
    assert model.embedded == ["p3"]
    assert counts["embedding_unchanged"] == 8
    assert [entry[1] for entry in world.topic.log[sent:]] == ["p3"]


def test_a_pass_that_was_broken_off_is_taken_up_and_ends_as_if_it_had_not() -> None:
    """Written but not published, and the price changed since: it must be published all the same."""
    world, model = catalogue(), FakeEmbedder("2")

    class Broken(FakeTopic):
        def __call__(self, vectors: object) -> None:
            raise Crash

    with pytest.raises(Crash):
        reembed(world.store, model, Broken(), batch=4)
    world.process(update("p0", 2, title="p0 1"))
    counts, _ = reembed(world.store, model, world.topic, batch=4)
    assert counts["embedded"] == 6
    assert sorted(world.topic.compacted("2")) == [f"p{n}" for n in range(10)]


def test_products_that_the_model_refuses_are_named() -> None:
    world, model = catalogue(), FakeEmbedder("2")
    model.poison = {"p7 1"}
    _, rejected = reembed(world.store, model, world.topic)
    assert rejected == {"p7": "token_ids"}


def test_nothing_to_embed_is_no_call_at_all() -> None:
    model, topic = FakeEmbedder("2"), FakeTopic()
    assert reembed(FakeStore(("2",)), model, topic) == ({}, {})
    assert (model.embedded, topic.log) == ([], [])
