"""Embedding a whole catalogue under a release: what has changed only, again and again if need be."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from streaming.release import reembed as module
from streaming.release.reembed import Elsewhere, Parts, reconcile, reembed, shards
from tests.streaming.builders import update
from tests.streaming.fakes import Crash, FakeEmbedder, FakeStore, FakeTopic
from tests.streaming.world import World


def catalogue() -> World:
    world = World()
    world.process(*(update(f"p{n}", 1) for n in range(10)), update("gone", 1), update("gone", 2, "delete"))
    world.store.ensure_model_version("2")
    return world


def test_every_live_product_gets_an_embedding_of_the_new_model_beside_the_old_one() -> None:
    world, progress = catalogue(), []
    counts, rejected = reembed(
        world.store, FakeEmbedder("2"), world.topic, shard_products=4, on_progress=progress.append
    )
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
        reembed(world.store, model, Broken(), shard_products=4)
    world.process(update("p0", 2, title="p0 1"))
    counts, _ = reembed(world.store, model, world.topic, shard_products=4)
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


def test_shards_have_every_live_product_once() -> None:
    cut = list(shards(catalogue().store, 4))
    assert [(shard.number, len(shard.ids)) for shard in cut] == [(0, 4), (1, 4), (2, 2)]
    assert sorted(id for shard in cut for id in shard.ids) == [f"p{n}" for n in range(10)]


def test_a_catalogue_that_is_embedded_is_reconciled_without_a_difference() -> None:
    world, model = catalogue(), FakeEmbedder("2")
    model.poison = {"p7 1"}
    _, rejected = reembed(world.store, model, world.topic)
    found = reconcile(world.store, model, world.topic, rejected, shard_products=4)
    assert found.ok
    assert (found.products, found.embedded, found.rejected, found.shards) == (10, 9, 1, 3)
    assert (found.missing, found.stale, found.differing_shards) == (0, 0, [])
    again = reconcile(world.store, model, world.topic, rejected, shard_products=3)
    assert again.checksum == found.checksum, "however the catalogue is cut"


def test_what_changed_meanwhile_is_embedded_and_compared_again() -> None:
    """The consumer embeds with the live model alone; one product is changed, one is new."""
    world, model = catalogue(), FakeEmbedder("2")
    _, rejected = reembed(world.store, model, world.topic)
    before = reconcile(world.store, model, world.topic, rejected)
    world.process(update("p3", 2, title="other"), update("new", 1))
    model.embedded.clear()
    found = reconcile(world.store, model, world.topic, rejected, shard_products=4)
    assert (found.ok, found.products, found.embedded) == (True, 11, 11)
    assert sorted(model.embedded) == ["new", "p3"]
    assert found.checksum != before.checksum
    assert {"new", "p3"} <= world.topic.compacted("2").keys()


def test_a_vector_that_does_not_arrive_and_one_of_other_inputs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconciliation reads back; it does not believe the writer."""
    world, model = catalogue(), FakeEmbedder("2")
    _, rejected = reembed(world.store, model, world.topic)
    del world.store.embeddings["2"]["p2"]
    world.process(update("p5", 2, title="other"))
    monkeypatch.setattr(world.store, "write_embeddings", lambda version, rows: {row.id for row in rows})
    found = reconcile(world.store, model, world.topic, rejected, shard_products=4)
    assert not found.ok
    assert (found.products, found.embedded, found.missing, found.stale) == (10, 8, 1, 1)
    assert sum(shard["missing"] + shard["stale"] for shard in found.differing_shards) == 2
    assert all(shard["catalogue"] != shard["embeddings"] for shard in found.differing_shards)


class AnotherProcess:
    """An engine whose work and results are pickled, and that answers in the reverse order."""

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for task in reversed(list(tasks)):
            there, given = pickle.loads(pickle.dumps((work, task)))
            yield pickle.loads(pickle.dumps(there(given)))


OPENED: list[str] = []
WORLD: list[World] = []


def open_parts(version: str) -> Parts:
    OPENED.append(version)
    return Parts(WORLD[-1].store, FakeEmbedder(version), WORLD[-1].topic)


def test_other_processes_embed_the_same_and_open_their_parts_once() -> None:
    here, there = catalogue(), catalogue()
    WORLD.append(there)
    module._opened.cache_clear()
    elsewhere = Elsewhere(AnotherProcess(), open_parts)
    for world, where in ((here, None), (there, elsewhere)):
        counts, rejected = reembed(world.store, FakeEmbedder("2"), world.topic, shard_products=3, elsewhere=where)
        assert (counts["embedded"], rejected) == (10, {})
        assert reconcile(world.store, FakeEmbedder("2"), world.topic, rejected, elsewhere=where).embedded == 10
    assert there.topic.compacted("2") == here.topic.compacted("2")
    assert OPENED == ["2"]
