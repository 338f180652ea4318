"""Embed the whole catalogue under one model version, shard by shard.

Each shard is read, embedded, written and published by itself, in any order and in any process. Only products whose
stored vector was made from other inputs are embedded. So a pass can be stopped and started again, and a second pass
after the switch of a release only embeds what changed during the first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from feature_repo.rows import EmbeddingState
from streaming.catalogue.embed import embed
from streaming.release.catalogue_shards import (
    SHARD_PRODUCTS,
    CatalogueShard,
    EmbeddingContext,
    EmbeddingWorkers,
    catalogue_shards,
    live_products,
    run_on_shards,
)
from streaming.vectors.embeddings import publish_vectors


class EmbeddedShard(NamedTuple):
    """The result of embedding one shard.

    Attributes:
        products: Number of live products.
        counts: Number of products that were embedded (`embedded`), or not (`embedding_unchanged`).
        rejected: Products that the model rejects: id -> reason.
    """

    products: int
    counts: Counter[str]
    rejected: dict[str, str]


class ReembedResult(NamedTuple):
    """The result of one pass over the catalogue.

    Attributes:
        counts: Number of products that were embedded (`embedded`), or not (`embedding_unchanged`).
        rejected: Products that the model rejects: id -> reason.
    """

    counts: Counter[str]
    rejected: dict[str, str]


def reembed(
    context: EmbeddingContext,
    *,
    republish: bool = True,
    shard_products: int = SHARD_PRODUCTS,
    workers: EmbeddingWorkers | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ReembedResult:
    """Embed and publish all live products whose vectors are missing or out of date.

    Args:
        context: Store, model and publisher.
        republish: Whether to publish vectors that are up to date too. The pass that made them may have been stopped
            before it published them.
        shard_products: Number of products in a shard.
        workers: Other processes that embed; None embeds in this process.
        on_progress: Receives the number of finished products after each shard.
    """
    counts: Counter[str] = Counter()
    rejected: dict[str, str] = {}
    done = 0
    work = partial(embed_shard, republish=republish)
    for shard in run_on_shards(work, catalogue_shards(context.store, shard_products), context, workers):
        counts.update(shard.counts)
        rejected |= shard.rejected
        done += shard.products
        on_progress(done)
    return ReembedResult(counts, rejected)


def embed_shard(context: EmbeddingContext, shard: CatalogueShard, *, republish: bool) -> EmbeddedShard:
    """Embed, write and publish the products of a shard; see `reembed`."""

    def now_ms(_: str) -> int:
        return int(time.time() * 1000)

    def republishes(_: str, __: EmbeddingState) -> bool:
        return republish

    store, embedder, publish = context
    counts: Counter[str] = Counter()
    products = live_products(store, shard)
    vectors, rejected = embed(products, store, embedder, source_time=now_ms, republish=republishes, counts=counts)
    publish_vectors(vectors, store, publish)
    return EmbeddedShard(len(products), counts, rejected)
