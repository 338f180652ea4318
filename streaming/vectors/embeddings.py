"""Embeddings on their way to `product.embeddings`: from a stored embedding to its message, and publishing.

Several processes may embed and publish the same product at the same time, and a consumer may have lost its partitions
without noticing yet. The store refuses an older embedding; the topic cannot. So each publisher compares its records
with the store afterwards, and publishes the stored embedding where they differ, until topic and store agree. The last
publisher compares after all others have written, so the last record of a product agrees with the store.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from feature_repo.rows import EmbeddingState, ProductEmbedding
from streaming.contracts import ProductVector
from streaming.feature_store import EmbeddingStore
from streaming.vectors.publisher import OutgoingVector, publish_until_current


def vector_of(row: ProductEmbedding, source_time: int) -> OutgoingVector:
    """Return the record of a stored embedding for `product.embeddings`, a tombstone for a deleted one.

    Args:
        row: The stored embedding.
        source_time: When the update that caused the record arrived in Kafka, in milliseconds since the epoch.
    """
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


def publish_vectors(
    vectors: Sequence[OutgoingVector],
    store: EmbeddingStore,
    publish: Callable[[Sequence[OutgoingVector]], None],
    clock: Callable[[], float] = time.time,
) -> None:
    """Publish the vectors that were just written to the store; see `publish_until_current`.

    Args:
        vectors: The vectors and tombstones.
        store: The feature store that they were written to.
        publish: Sends records and returns when the broker has them all.
        clock: Returns seconds since the epoch: the `source_time` of vectors that are published again.

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
            differ = [i for i, state in states.items() if not _agrees(state, vectors_of[i].message)]
            for row in store.read_embeddings(model_version, differ).values() if differ else ():
                yield vector_of(row, now_ms)

    publish_until_current(vectors, publish, overtaken)


def _agrees(state: EmbeddingState, vector: ProductVector | None) -> bool:
    return state.deleted if vector is None else not state.deleted and state.content_hash == vector.content_hash
