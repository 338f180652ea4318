"""Messages and records of `product.embeddings` and `product.offers`.

A record is a tuple (key, value, headers), as `FakeBroker` keeps it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from feature_repo.rows import TEXT_FIELDS, ProductFeatures
from inference.retrieval import Filter, RetrievalIndex
from streaming.contracts import ProductOffer, ProductVector
from streaming.kafka.codec import JSON
from tests.streaming.builders import NOW, vector_of

LAMP = ProductFeatures(
    id="lamp",
    version=7,
    event_time=NOW,
    text=dict.fromkeys(TEXT_FIELDS, "") | {"product_type": "Home > Lamps"},
    amount_minor=1999,
    currency="EUR",
    availability="in_stock",
)


def vector_message(id: str, version: int, model: str = "1") -> ProductVector:
    return ProductVector(
        id=id,
        version=version,
        model_version=model,
        content_hash="h",
        vector=ProductVector.pack(vector_of(id, version)),
        source_time=1000,
    )


def vector_record(id: str, version: int, vector: ProductVector | None, model: str = "1") -> tuple[Any, ...]:
    return f"{model}/{id}".encode(), vector and JSON.encode(vector), [("sagelift-version", str(version).encode())]


def offer_record(id: str, version: int, cents: int | None = None, **fields: Any) -> tuple[Any, ...]:
    currency = None if cents is None else "EUR"
    value = ProductOffer(id=id, version=version, amount_minor=cents, currency=currency, source_time=1000, **fields)
    return id.encode(), JSON.encode(value), [("sagelift-version", str(version).encode())]


def tombstone_record(id: str, version: int) -> tuple[Any, ...]:
    return id.encode(), None, [("sagelift-version", str(version).encode())]


def found_ids(index: RetrievalIndex, where: Filter) -> set[str]:
    return set(index.search(np.ones((1, 256), np.float32), 100, where=where)[0].ids)
