"""From features to vectors on `product.embeddings`: shared by the consumer and the re-embedding of a whole catalogue.

Both may be at work at once, each in a process of its own, and a consumer may lose its partitions without having noticed
yet. The store refuses an older embedding; the topic cannot. So whoever publishes looks afterwards whether the store
still holds what was published, and publishes what it holds instead until the two agree: whoever comes last on the topic
looks after all others have written, hence the last record of a product is the store's.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import EmbeddingState, ProductEmbedding, ProductFeatures
from inference.errors import InputError
from inference.inputs import VECTOR_DIM, ProductInput, content_hash
from inference.triton.client import Embedded
from streaming.contracts import ProductVector
from streaming.vectors.publisher import OutgoingVector, publish_until_current


class EmbeddingStore(Protocol):
    """The part of `feature_repo.store.ProductFeatureStore` that embeddings need."""

    def embedding_states(self, model_version: str, ids: Iterable[str]) -> dict[str, EmbeddingState]: ...
    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> dict[str, ProductEmbedding]: ...
    def write_embeddings(self, model_version: str, embeddings: Sequence[ProductEmbedding]) -> set[str]: ...


class Embedder(Protocol):
    """The live model, as `inference.triton.embedder.ItemEmbedder` serves it."""

    @property
    def model_version(self) -> str: ...
    def embed_products(self, products: Sequence[ProductInput]) -> Embedded: ...


def embed(
    products: Sequence[ProductFeatures],
    store: EmbeddingStore,
    embedder: Embedder,
    *,
    source_time: Callable[[str], int],
    republish: Callable[[str, EmbeddingState], bool],
    counts: Counter[str],
) -> tuple[list[OutgoingVector], dict[str, str]]:
    """Embed those products whose inputs changed since their stored embedding.

    Args:
        products: each id once.
        source_time: of a product's update, for the messages.
        republish: whether a stored embedding that still holds goes on the topic again.

    Returns:
        what is to be published, and who was rejected and why. A rejected product's earlier embedding is deleted: it is
        that of what the product no longer is.
    """
    if not products:
        return [], {}
    version = embedder.model_version
    stored = store.embedding_states(version, [p.id for p in products])
    hashes = {p.id: inputs_hash(p) for p in products}
    fresh, again = [], []
    for product in products:
        known = stored.get(product.id)
        if known is None or known.deleted or known.content_hash != hashes[product.id]:
            fresh.append(product)
            continue
        counts["embedding_unchanged"] += 1
        if republish(product.id, known):
            again.append(product.id)
    rows, rejected = _made(fresh, hashes, store, embedder, counts)
    gone = [
        _tombstone(product, version)
        for product in fresh
        if product.id in rejected
        and (known := stored.get(product.id))
        and (not known.deleted or republish(product.id, known))
    ]
    if gone:
        stale = store.write_embeddings(version, gone)
        rows += [row for row in gone if row.id not in stale]
    if again:
        rows += store.read_embeddings(version, again).values()
    return [_outgoing(row, source_time(row.id)) for row in rows], rejected


def publish_newest(
    vectors: Sequence[OutgoingVector],
    store: EmbeddingStore,
    publish: Callable[[Sequence[OutgoingVector]], None],
    clock: Callable[[], float] = time.time,
) -> None:
    """Publish the vectors that were just written to the store; see `publish_until_current`.

    Args:
        vectors: The vectors and tombstones.
        store: The feature store that holds them.
        publish: Sends records and returns when the broker has them all.
        clock: Returns seconds since the epoch; gives the `source_time` of what the store holds instead.

    Raises:
        BrokerError: The broker did not accept all records.
    """

    def overtaken(published: Mapping[str, OutgoingVector]) -> Iterable[OutgoingVector]:
        by_model: dict[str, dict[str, OutgoingVector]] = defaultdict(dict)
        for vector in published.values():
            by_model[vector.model_version][vector.product_id] = vector
        now_ms = int(clock() * 1000)
        for model_version, vectors_of in by_model.items():
            states = store.embedding_states(model_version, vectors_of)
            differ = [i for i, state in states.items() if not _holds(state, vectors_of[i].message)]
            for row in store.read_embeddings(model_version, differ).values() if differ else ():
                yield _outgoing(row, now_ms)

    publish_until_current(vectors, publish, overtaken)


def _holds(state: EmbeddingState, vector: ProductVector | None) -> bool:
    return state.deleted if vector is None else not state.deleted and state.content_hash == vector.content_hash


def _made(
    products: Sequence[ProductFeatures],
    hashes: Mapping[str, str],
    store: EmbeddingStore,
    embedder: Embedder,
    counts: Counter[str],
) -> tuple[list[ProductEmbedding], dict[str, str]]:
    """Embeddings that the store took, and who was rejected. What is refused as a whole is halved until one is alone."""
    if not products:
        return [], {}
    try:
        answer = embedder.embed_products([ProductInput(p.id, p.text, p.image_vectors) for p in products])
        made = [
            ProductEmbedding(
                id=p.id,
                version=p.version,
                event_time=p.event_time,
                model_version=embedder.model_version,
                content_hash=hashes[p.id],
                vector=vector,
            )
            for row, (p, vector) in enumerate(zip(products, answer.vectors, strict=True))
            if row not in answer.rejected
        ]
        stale = store.write_embeddings(embedder.model_version, made)
    except (InvalidFeatureError, InputError) as error:
        if len(products) == 1:
            return [], {products[0].id: str(error)}
    else:
        counts["embedded"] += len(made)
        rejected = {products[row].id: reason for row, reason in answer.rejected.items()}
        return [row for row in made if row.id not in stale], rejected
    middle = len(products) // 2
    first, first_rejected = _made(products[:middle], hashes, store, embedder, counts)
    second, second_rejected = _made(products[middle:], hashes, store, embedder, counts)
    return [*first, *second], {**first_rejected, **second_rejected}


def inputs_hash(product: ProductFeatures) -> str:
    """Hash of what the model reads of a product; kept with the vector that was made of it."""
    return content_hash(product.text, [h for h in product.image_hashes if h], product.visual_version)


def _tombstone(product: ProductFeatures, model_version: str) -> ProductEmbedding:
    return ProductEmbedding(
        id=product.id,
        version=product.version,
        event_time=product.event_time,
        model_version=model_version,
        content_hash="",
        vector=np.zeros(VECTOR_DIM, np.float32),
        deleted=True,
    )


def _outgoing(row: ProductEmbedding, source_time: int) -> OutgoingVector:
    if row.deleted:
        return OutgoingVector(row.model_version, row.id, row.version, None)
    vector = ProductVector(
        id=row.id,
        version=row.version,
        model_version=row.model_version,
        content_hash=row.content_hash,
        vector=ProductVector.pack(row.vector),
        source_time=source_time,
    )
    return OutgoingVector(row.model_version, row.id, row.version, vector)
