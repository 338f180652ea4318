"""Build an index once: from the topics, or from the feature store. The index is the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from inference.arrays import Float32Array
from inference.retrieval import RetrievalIndex
from streaming.errors import BrokerError
from streaming.feature_store import IndexSource
from streaming.kafka.connection import Connection
from streaming.vectors.follower import IndexFollower
from streaming.vectors.offers import filter_attributes, offer_of


def index_from_topics(connection: Connection, model_version: str, *, timeout_s: float = 3600.0) -> RetrievalIndex:
    """Build an index of all products that are on the topics now.

    Raises:
        TopicError: A topic does not exist.
        BrokerError: The broker does not answer, denies access, or does not return everything in time.
    """
    index = RetrievalIndex(model_version)
    with IndexFollower(connection, index) as follower:
        if not follower.catch_up(timeout_s):
            raise BrokerError(f"the topics were not read to their ends within {timeout_s:g} s")
        index.position = follower.position()
    return index


def index_from_features(
    store: IndexSource, model_version: str, *, position: Mapping[str, int] | None = None
) -> RetrievalIndex:
    """Build an index of all products in the feature store.

    Args:
        store: The feature store.
        model_version: Model version of the vectors.
        position: Position on the topics at which a follower of this index resumes: `end_position`, read before the
            call. A product is written to the store before it is published, so the follower misses nothing.

    Raises:
        UnknownModelVersionError: The store has no embeddings of this model version.
    """
    index = RetrievalIndex(model_version)
    index.position = dict(position or {})
    for page in store.scan_embeddings(model_version):
        index.upsert_many(
            [row.id for row in page],
            [row.version for row in page],
            np.stack([_as_published(row.vector) for row in page]),
            model_version=model_version,
        )
        for product in store.read_features([row.id for row in page]).values():
            offer = offer_of(product, source_time=0).message
            if offer is not None:
                index.set_attributes(product.id, product.version, filter_attributes(offer))
    return index


def _as_published(vector: Float32Array) -> Float32Array:
    """Round a vector as its message does, so that both builds have the same bits."""
    return vector.astype(np.float16).astype(np.float32)
