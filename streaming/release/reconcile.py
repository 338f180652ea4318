"""Compare the whole catalogue with the vectors of one model version, shard by shard.

The comparison reads both sides from the store. Every live product must have a vector of its current inputs, unless the
model rejects the product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial, reduce
from operator import xor
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from streaming.catalogue.embed import inputs_hash
from streaming.release.catalogue_shards import (
    SHARD_PRODUCTS,
    CatalogueShard,
    EmbeddingContext,
    EmbeddingWorkers,
    catalogue_shards,
    live_products,
    run_on_shards,
)
from streaming.release.reembed import embed_shard

_ROUNDS = 3  # products may change during a round


class ComparedShard(NamedTuple):
    """The comparison of one shard. A checksum covers the pairs of product id and hash of the model's inputs.

    Attributes:
        shard: The shard.
        products: Number of live products.
        catalogue: Checksum of the catalogue.
        embeddings: Checksum of the vectors' inputs.
        missing: Products without a vector: id -> share of the catalogue's checksum.
        stale: Ids of products whose vector was made from other inputs.
    """

    shard: CatalogueShard
    products: int
    catalogue: int
    embeddings: int
    missing: dict[str, int]
    stale: list[str]

    def differs(self, rejected: Mapping[str, str]) -> bool:
        """Return whether a product is stale, or is missing without being rejected."""
        return bool(self.stale or self.missing.keys() - rejected.keys())


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """All live products compared with the vectors of one model version.

    If nothing is missing or stale, `products = embedded + rejected`.

    Attributes:
        products: Number of live products.
        embedded: Products with a vector of their present inputs.
        rejected: Products without a vector, because the model rejects them.
        missing: Products without a vector that the model does not reject.
        stale: Products with a vector of other inputs.
        shards: Number of shards.
        checksum: Checksum of product ids and inputs, without the rejected products, as 8 hex digits.
        differing_shards: Number, checksums, missing and stale products of each shard whose two sides differ.
    """

    products: int
    embedded: int
    rejected: int
    missing: int
    stale: int
    shards: int
    checksum: str
    differing_shards: list[dict[str, Any]]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing or stale."""
        return not (self.missing or self.stale)


def reconcile(
    context: EmbeddingContext,
    rejected: Mapping[str, str],
    *,
    shard_products: int = SHARD_PRODUCTS,
    workers: EmbeddingWorkers | None = None,
) -> tuple[Reconciliation, dict[str, str]]:
    """Compare the catalogue with the vectors of the context's model version.

    Products change during the comparison, so shards that differ are embedded and compared again, a few times.

    Args:
        context: Store, model and publisher.
        rejected: Products that the model rejected in earlier passes: id -> reason.
        shard_products: Number of products in a shard.
        workers: Other processes that embed and compare; None works in this process.

    Returns:
        The comparison, and all rejected products including those of `rejected`.
    """
    all_rejected = dict(rejected)
    finished: list[ComparedShard] = []
    remaining: Iterable[CatalogueShard] = catalogue_shards(context.store, shard_products)
    for is_last in [False] * (_ROUNDS - 1) + [True]:
        compared = list(run_on_shards(compare_shard, remaining, context, workers))
        differing = [] if is_last else [shard for shard in compared if shard.differs(all_rejected)]
        numbers = {shard.shard.number for shard in differing}
        finished += [shard for shard in compared if shard.shard.number not in numbers]
        remaining = [shard.shard for shard in differing]
        for embedded in run_on_shards(partial(embed_shard, republish=False), remaining, context, workers):
            all_rejected |= embedded.rejected
    return _total(finished, all_rejected), all_rejected


def compare_shard(context: EmbeddingContext, shard: CatalogueShard) -> ComparedShard:
    """Compare the products of a shard with the inputs that their vectors were made from."""
    products = live_products(context.store, shard)
    states = context.store.embedding_states(context.embedder.model_version, [product.id for product in products])
    catalogue = embeddings = 0
    missing, stale = {}, []
    for product in products:
        inputs = inputs_hash(product)
        state = states.get(product.id)
        catalogue ^= _checksum(product.id, inputs)
        if state is None or state.deleted:
            missing[product.id] = _checksum(product.id, inputs)
            continue
        embeddings ^= _checksum(product.id, state.content_hash)
        if state.content_hash != inputs:
            stale.append(product.id)
    return ComparedShard(shard, len(products), catalogue, embeddings, missing, stale)


def _checksum(product_id: str, inputs: str) -> int:
    return crc32(f"{product_id}\0{inputs}".encode())


def _total(shards: list[ComparedShard], rejected: Mapping[str, str]) -> Reconciliation:
    differing = []
    missing = stale = without_vector = checksum = 0
    for shard in sorted(shards, key=lambda one: one.shard.number):
        excused = shard.missing.keys() & rejected.keys()
        catalogue = reduce(xor, (shard.missing[product_id] for product_id in excused), shard.catalogue)
        missing_of_shard = len(shard.missing) - len(excused)
        without_vector += len(excused)
        checksum ^= catalogue
        missing += missing_of_shard
        stale += len(shard.stale)
        if catalogue != shard.embeddings:
            sums = {"catalogue": f"{catalogue:08x}", "embeddings": f"{shard.embeddings:08x}"}
            counts = {"missing": missing_of_shard, "stale": len(shard.stale)}
            differing.append({"shard": shard.shard.number, **sums, **counts})
    products = sum(shard.products for shard in shards)
    return Reconciliation(
        products=products,
        embedded=products - without_vector - missing - stale,
        rejected=without_vector,
        missing=missing,
        stale=stale,
        shards=len(shards),
        checksum=f"{checksum:08x}",
        differing_shards=differing,
    )
