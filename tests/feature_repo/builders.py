"""Products and embeddings for tests, and how to compare them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import numpy as np

from feature_repo.rows import EMBEDDING_DIM, TEXT_FIELDS, ProductEmbedding, ProductFeatures

NOON = datetime(2026, 3, 1, 12, 0, 0, 123_457, tzinfo=UTC)


def event_time(version: int) -> datetime:
    """The event time of a version."""
    return NOON + timedelta(microseconds=version % 10**6)


def make_product(id: str = "a1", version: int = 1, images: int = 2, **changes: Any) -> ProductFeatures:
    """A product whose values all depend on its id and version, so that a mix-up is visible."""
    rng = np.random.default_rng(crc32(f"{id!a}{version}".encode()))
    fields: dict[str, Any] = {
        "id": id,
        "version": version,
        "event_time": event_time(version),
        "text": {name: f"{name} of {id} at {version}" for name in TEXT_FIELDS},
        "image_urls": [f"https://shop.example/{id}/{i}.jpg" for i in range(images)],
        "image_hashes": [f"{id}-{version}-{i}" for i in range(images)],
        "image_vectors": rng.normal(size=(images, EMBEDDING_DIM)).astype(np.float32),
        "visual_version": "lite0-1",
        "amount_minor": 100 * version,
        "currency": "EUR",
        "availability": "in_stock",
    }
    return ProductFeatures(**fields | changes)


def make_embedding(id: str = "a1", version: int = 1, model_version: str = "m1", **changes: Any) -> ProductEmbedding:
    vector = np.random.default_rng(crc32(f"{id!a}{version}".encode())).normal(size=EMBEDDING_DIM).astype(np.float32)
    fields: dict[str, Any] = {
        "id": id,
        "version": version,
        "event_time": event_time(version),
        "model_version": model_version,
        "content_hash": f"hash of {id} at {version}",
        "vector": vector / np.linalg.norm(vector),
    }
    return ProductEmbedding(**fields | changes)


def same(left: ProductFeatures | ProductEmbedding, right: ProductFeatures | ProductEmbedding) -> bool:
    """Whether all fields are equal, arrays bit by bit."""
    fields = left.__struct_fields__
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in fields)
