"""Comparing the whole catalogue with its vectors."""

from __future__ import annotations

import pytest

from streaming.release.catalogue_shards import EmbeddingContext
from streaming.release.reconcile import reconcile
from streaming.release.reembed import reembed
from tests.streaming.builders import update
from tests.streaming.fakes import FakeEmbedder
from tests.streaming.release.shop import catalogue


def test_a_catalogue_that_is_embedded_is_reconciled_without_a_difference() -> None:
    world, model = catalogue(), FakeEmbedder("2")
    model.poison = {"p7 1"}
    _, rejected = reembed(EmbeddingContext(world.store, model, world.topic))
    result, _ = reconcile(EmbeddingContext(world.store, model, world.topic), rejected, shard_products=4)
    assert result.ok
    assert (result.products, result.embedded, result.rejected, result.shards) == (10, 9, 1, 3)
    assert (result.missing, result.stale, result.differing_shards) == (0, 0, [])
    again, _ = reconcile(EmbeddingContext(world.store, model, world.topic), rejected, shard_products=3)
    assert again.checksum == result.checksum, "whatever the size of a shard"


def test_what_changed_since_the_pass_is_embedded_and_compared_again() -> None:
    """The consumer embeds with the live model alone; one product is changed, one is new."""
    world, model = catalogue(), FakeEmbedder("2")
    _, rejected = reembed(EmbeddingContext(world.store, model, world.topic))
    before, _ = reconcile(EmbeddingContext(world.store, model, world.topic), rejected)
    world.process(update("p3", 2, title="other"), update("new", 1))
    model.embedded.clear()
    result, _ = reconcile(EmbeddingContext(world.store, model, world.topic), rejected, shard_products=4)
    assert (result.ok, result.products, result.embedded) == (True, 11, 11)
    assert sorted(model.embedded) == ["new", "p3"]
    assert result.checksum != before.checksum
    assert {"new", "p3"} <= world.topic.compacted("2").keys()


def test_a_missing_vector_and_one_of_other_inputs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconciliation reads back; it does not trust the writer."""
    world, model = catalogue(), FakeEmbedder("2")
    _, rejected = reembed(EmbeddingContext(world.store, model, world.topic))
    del world.store.embeddings["2"]["p2"]
    world.process(update("p5", 2, title="other"))
    monkeypatch.setattr(world.store, "write_embeddings", lambda version, rows: {row.id for row in rows})
    result, _ = reconcile(EmbeddingContext(world.store, model, world.topic), rejected, shard_products=4)
    assert not result.ok
    assert (result.products, result.embedded, result.missing, result.stale) == (10, 8, 1, 1)
    assert sum(shard["missing"] + shard["stale"] for shard in result.differing_shards) == 2
    assert all(shard["catalogue"] != shard["embeddings"] for shard in result.differing_shards)
