"""Shards of the catalogue, and work on them in other processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from feature_repo.jobs.engine import forget_opened
from streaming.release.catalogue_shards import EmbeddingContext, EmbeddingWorkers, catalogue_shards
from streaming.release.reconcile import reconcile
from streaming.release.reembed import reembed
from tests.streaming.fakes import FakeEmbedder
from tests.streaming.release.shop import catalogue
from tests.streaming.world import World


def test_shards_have_every_live_product_once() -> None:
    cut = list(catalogue_shards(catalogue().store, 4))
    assert [(shard.number, len(shard.items)) for shard in cut] == [(0, 4), (1, 4), (2, 2)]
    assert sorted(id for shard in cut for id in shard.items) == [f"p{n}" for n in range(10)]


class AnotherProcess:
    """An engine that pickles its work and its results, and answers in reverse order."""

    workers = 1

    def check_store(self, config: Any) -> None: ...

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for task in reversed(list(tasks)):
            remote_work, remote_task = pickle.loads(pickle.dumps((work, task)))
            yield pickle.loads(pickle.dumps(remote_work(remote_task)))


OPENED: list[str] = []
WORLD: list[World] = []


def open_context(version: str) -> EmbeddingContext:
    OPENED.append(version)
    return EmbeddingContext(WORLD[-1].store, FakeEmbedder(version), WORLD[-1].topic)


def test_other_processes_embed_the_same_and_open_their_context_once() -> None:
    forget_opened()
    local, remote = catalogue(), catalogue()
    WORLD.append(remote)
    for world, workers in ((local, None), (remote, EmbeddingWorkers(AnotherProcess(), open_context))):
        context = EmbeddingContext(world.store, FakeEmbedder("2"), world.topic)
        counts, rejected = reembed(context, shard_products=3, workers=workers)
        assert (counts["embedded"], rejected) == (10, {})
        reconciliation, _ = reconcile(context, rejected, workers=workers)
        assert reconciliation.embedded == 10
    assert remote.topic.compacted("2") == local.topic.compacted("2")
    assert OPENED == ["2"]
