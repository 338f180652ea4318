"""From features to embeddings in the store, for the consumer and for re-embedding a whole catalogue.

Both may run at the same time, each in its own process. The store refuses the older of two embeddings;
`streaming.vectors.embeddings` publishes the stored one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import EmbeddingState, ProductEmbedding, ProductFeatures
from inference.errors import InputError
from inference.inputs import VECTOR_DIM, ProductInput, content_hash
from inference.triton.client import Embedded
from streaming.feature_store import EmbeddingStore
from streaming.vectors.embeddings import vector_of
from streaming.vectors.publisher import OutgoingVector


class Embedder(Protocol):
    """The live model, as `inference.triton.embedder.ItemEmbedder` serves it."""

    @property
    def model_version(self) -> str:
        """Version of the model."""

    def embed_products(self, products: Sequence[ProductInput]) -> Embedded:
        """Return vectors, and the rejected rows with reasons."""


def embed(
    products: Sequence[ProductFeatures],
    store: EmbeddingStore,
    embedder: Embedder,
    *,
    source_time: Callable[[str], int],
    republish: Callable[[str, EmbeddingState], bool],
    counts: Counter[str],
) -> tuple[list[OutgoingVector], dict[str, str]]:
    """Embed the products whose model inputs changed since their stored embedding.

    Args:
        products: The products; each id once.
        store: The feature store.
        embedder: The model.
        source_time: Called with a product id; returns the arrival of the product's update in Kafka, in milliseconds
            since the epoch.
        republish: Called with the id and the stored state of an unchanged embedding; true publishes it again.
        counts: Counts of `embedded` and `embedding_unchanged` products; increased.

    Returns:
        What to publish, and the rejected products with reasons. The stored embedding of a rejected product is deleted:
        it was made from the old text and images.
    """
    if not products:
        return [], {}
    version = embedder.model_version
    stored = store.embedding_states(version, [p.id for p in products])
    hashes = {p.id: inputs_hash(p) for p in products}
    changed, unpublished = [], []
    for product in products:
        state = stored.get(product.id)
        if state is None or state.deleted or state.content_hash != hashes[product.id]:
            changed.append(product)
            continue
        counts["embedding_unchanged"] += 1
        if republish(product.id, state):
            unpublished.append(product.id)
    rows, rejected = _embed_and_write(changed, hashes, store, embedder, counts)
    tombstones = [
        _tombstone(product, version)
        for product in changed
        if product.id in rejected
        and (state := stored.get(product.id))
        and (not state.deleted or republish(product.id, state))
    ]
    if tombstones:
        stale = store.write_embeddings(version, tombstones)
        rows += [row for row in tombstones if row.id not in stale]
    if unpublished:
        rows += store.read_embeddings(version, unpublished).values()
    return [vector_of(row, source_time(row.id)) for row in rows], rejected


def _embed_and_write(
    products: Sequence[ProductFeatures],
    hashes: Mapping[str, str],
    store: EmbeddingStore,
    embedder: Embedder,
    counts: Counter[str],
) -> tuple[list[ProductEmbedding], dict[str, str]]:
    """Embed and write products; a batch that is refused as a whole is halved until one product is alone.

    Returns:
        The embeddings that the store accepted, and the rejected products with reasons.
    """
    if not products:
        return [], {}
    try:
        answer = embedder.embed_products([ProductInput(p.id, p.text, p.image_vectors) for p in products])
        embedded = [
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
        stale = store.write_embeddings(embedder.model_version, embedded)
    except (InvalidFeatureError, InputError) as error:
        if len(products) == 1:
            return [], {products[0].id: str(error)}
    else:
        counts["embedded"] += len(embedded)
        rejected = {products[row].id: reason for row, reason in answer.rejected.items()}
        return [row for row in embedded if row.id not in stale], rejected
    middle = len(products) // 2
    first, first_rejected = _embed_and_write(products[:middle], hashes, store, embedder, counts)
    second, second_rejected = _embed_and_write(products[middle:], hashes, store, embedder, counts)
    return [*first, *second], {**first_rejected, **second_rejected}


def inputs_hash(product: ProductFeatures) -> str:
    """Return the hash of a product's model inputs, which is stored with its vector."""
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
