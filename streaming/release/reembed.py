"""Embed a whole catalogue under the live model: what a release needs before and after its switch.

The catalogue is cut into shards of a thousand products. Each is read, embedded, written and published by itself, in
any order and in any process: one after the other here, or in the executors of a cluster (`Elsewhere`), by one code.

Only products whose stored embedding was made of other inputs are embedded, so the work can be broken off and begun
again, and a second pass after the switch catches what changed during the first. In the end `reconcile` reads both
sides back: every live product has a vector of its present inputs, or is known to be rejected.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial, reduce
from itertools import islice
from operator import xor
from typing import Any, NamedTuple, Protocol, TypeVar
from zlib import crc32

import msgspec

from feature_repo.rows import EmbeddingState, ProductFeatures
from streaming.catalogue.embed import Embedder, EmbeddingStore, Publish, embed, inputs_hash, publish_newest

SHARD_PRODUCTS = 1024
_ROUNDS = 3  # of comparing, for what changes meanwhile

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class ScannableStore(EmbeddingStore, Protocol):
    """A feature store whose products can be listed and read."""

    def product_ids(self) -> Iterable[str]: ...
    def read_features(self, ids: Iterable[str]) -> Mapping[str, ProductFeatures]: ...


class Parts(NamedTuple):
    """What a process needs to embed."""

    store: ScannableStore
    embedder: Embedder
    publish: Publish


class Engine(Protocol):
    """Where shards are worked on, such as `feature_repo.jobs.spark.SparkEngine`."""

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """The results of `work`, in any order, each as soon as it is there. `work` can be pickled."""


class Elsewhere(NamedTuple):
    """Other processes that embed. Each calls `open_parts` with the model version once; it can be pickled."""

    engine: Engine
    open_parts: Callable[[str], Parts]


class Shard(NamedTuple):
    number: int
    ids: list[str]


class EmbeddedShard(NamedTuple):
    """`products` are those that were alive; `rejected` those whom the model refuses, with reasons."""

    products: int
    counts: Counter[str]
    rejected: dict[str, str]


class ComparedShard(NamedTuple):
    """Checksums of (product, hash of inputs) by the catalogue and by the embeddings, and who differs.

    `missing`: products without a vector, and what each adds to the catalogue's checksum. `stale`: those whose vector
    was made of other inputs.
    """

    shard: Shard
    products: int
    catalogue: int
    embeddings: int
    missing: dict[str, int]
    stale: list[str]


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """All live products against the vectors of one model version; `products = embedded + rejected` when all is well."""

    products: int
    embedded: int  # with a vector of their present inputs
    rejected: int  # without one, as the model refuses them
    missing: int
    stale: int  # with a vector of other inputs
    shards: int
    checksum: str  # of the catalogue's products and inputs, without the rejected ones
    differing_shards: list[dict[str, Any]]

    @property
    def ok(self) -> bool:
        return not (self.missing or self.stale)


def reembed(
    store: ScannableStore,
    embedder: Embedder,
    publish: Publish,
    *,
    republish: bool = True,
    shard_products: int = SHARD_PRODUCTS,
    elsewhere: Elsewhere | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[Counter[str], dict[str, str]]:
    """Returns counts (`embedded`, `embedding_unchanged`) and the rejected products with reasons.

    `republish` puts stored embeddings on the topic again: the run that made them may have been broken off before.
    """
    counts: Counter[str] = Counter()
    rejected: dict[str, str] = {}
    done = 0
    work = partial(embed_shard, republish=republish)
    for shard in _run(work, shards(store, shard_products), Parts(store, embedder, publish), elsewhere):
        counts.update(shard.counts)
        rejected |= shard.rejected
        done += shard.products
        on_progress(done)
    return counts, rejected


def reconcile(
    store: ScannableStore,
    embedder: Embedder,
    publish: Publish,
    rejected: dict[str, str],
    *,
    shard_products: int = SHARD_PRODUCTS,
    elsewhere: Elsewhere | None = None,
) -> Reconciliation:
    """Compare the catalogue with the vectors of the embedder's model version, shard by shard.

    What differs is embedded and compared again, a few times: products change meanwhile. `rejected` are those of the
    passes before; those of now are added to it.
    """
    parts = Parts(store, embedder, publish)
    settled: list[ComparedShard] = []
    left: Iterable[Shard] = shards(store, shard_products)
    for last in [False] * (_ROUNDS - 1) + [True]:
        compared = list(_run(compare_shard, left, parts, elsewhere))
        settled += [shard for shard in compared if last or not _differs(shard, rejected)]
        left = [] if last else [shard.shard for shard in compared if _differs(shard, rejected)]
        for shard in _run(partial(embed_shard, republish=False), left, parts, elsewhere):
            rejected |= shard.rejected
    return _summed(settled, rejected)


def shards(store: ScannableStore, shard_products: int = SHARD_PRODUCTS) -> Iterator[Shard]:
    """The live products in the store's order; of each only the id is read."""
    ids = iter(store.product_ids())
    number = 0
    while some := list(islice(ids, shard_products)):
        yield Shard(number, some)
        number += 1


def embed_shard(parts: Parts, shard: Shard, *, republish: bool) -> EmbeddedShard:
    """Embed, write and publish those products of a shard that need it; the rest is published if `republish` says so."""

    def now(_: str) -> int:
        return int(time.time() * 1000)

    def again(_: str, __: EmbeddingState) -> bool:
        return republish

    store, embedder, publish = parts
    counts: Counter[str] = Counter()
    products = _live(store, shard)
    vectors, rejected = embed(products, store, embedder, source_time=now, republish=again, counts=counts)
    publish_newest(vectors, store, publish)
    return EmbeddedShard(len(products), counts, rejected)


def compare_shard(parts: Parts, shard: Shard) -> ComparedShard:
    """Read a shard's products and what their vectors were made of."""
    products = _live(parts.store, shard)
    states = parts.store.embedding_states(parts.embedder.model_version, [product.id for product in products])
    catalogue = embeddings = 0
    missing, stale = {}, []
    for product in products:
        wanted = inputs_hash(product)
        known = states.get(product.id)
        catalogue ^= _checksum(product.id, wanted)
        if known is None or known.deleted:
            missing[product.id] = _checksum(product.id, wanted)
            continue
        embeddings ^= _checksum(product.id, known.content_hash)
        if known.content_hash != wanted:
            stale.append(product.id)
    return ComparedShard(shard, len(products), catalogue, embeddings, missing, stale)


def _run(
    work: Callable[[Parts, Any], _Result], tasks: Iterable[Any], here: Parts, elsewhere: Elsewhere | None
) -> Iterator[_Result]:
    if elsewhere is None:
        return map(partial(work, here), tasks)
    there = pickle.dumps(partial(elsewhere.open_parts, here.embedder.model_version))
    return elsewhere.engine.map(partial(_work_there, there, work), tasks)


def _work_there(open_parts: bytes, work: Callable[[Parts, Any], _Result], task: Any) -> _Result:
    return work(_opened(open_parts), task)


@lru_cache(maxsize=1)
def _opened(open_parts: bytes) -> Parts:
    """The parts of this process: opened once, not for every shard."""
    opened: Parts = pickle.loads(open_parts)()
    return opened


def _live(store: ScannableStore, shard: Shard) -> list[ProductFeatures]:
    return [product for product in store.read_features(shard.ids).values() if not product.deleted]


def _checksum(product_id: str, inputs: str) -> int:
    return crc32(f"{product_id}\0{inputs}".encode())


def _differs(shard: ComparedShard, rejected: Mapping[str, str]) -> bool:
    return bool(shard.stale or shard.missing.keys() - rejected.keys())


def _summed(compared: list[ComparedShard], rejected: Mapping[str, str]) -> Reconciliation:
    differing = []
    missing = stale = refused = checksum = 0
    for shard in sorted(compared, key=lambda one: one.shard.number):
        known = shard.missing.keys() & rejected.keys()
        catalogue = reduce(xor, (shard.missing[product_id] for product_id in known), shard.catalogue)
        lost = len(shard.missing) - len(known)
        refused += len(known)
        checksum ^= catalogue
        missing += lost
        stale += len(shard.stale)
        if catalogue != shard.embeddings:
            sums = {"catalogue": f"{catalogue:08x}", "embeddings": f"{shard.embeddings:08x}"}
            differing.append({"shard": shard.shard.number, **sums, "missing": lost, "stale": len(shard.stale)})
    products = sum(shard.products for shard in compared)
    return Reconciliation(
        products=products,
        embedded=products - refused - missing - stale,
        rejected=refused,
        missing=missing,
        stale=stale,
        shards=len(compared),
        checksum=f"{checksum:08x}",
        differing_shards=differing,
    )
