"""Building an index once gives the same result from the topics and from the feature store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feature_repo.rows import TEXT_FIELDS, ProductEmbedding, ProductFeatures
from inference.retrieval import Filter
from streaming.contracts import ProductVector
from streaming.errors import BrokerError
from streaming.kafka.codec import JSON
from streaming.vectors.offers import offer_of
from streaming.vectors.publisher import offer_publisher
from streaming.vectors.rebuild import index_from_features, index_from_topics
from tests.streaming.builders import NOW, vector_of
from tests.streaming.fakes import CompactedProducer, FakeStore
from tests.streaming.vectors.builders import vector_record
from tests.streaming.vectors.fakes import O0, P0, FakeBroker


class ScannedStore(FakeStore):
    def scan_embeddings(self, model_version: str, batch: int = 4096) -> Any:
        live = [row for row in self.embeddings[model_version].values() if not row.deleted]
        for start in range(0, len(live), 7):
            yield live[start : start + 7]


def test_the_topics_and_the_feature_store_give_the_same_index() -> None:
    store, broker, producer = ScannedStore(), FakeBroker(), CompactedProducer()
    products = [
        ProductFeatures(
            id=f"p{n}",
            version=n + 5,
            event_time=NOW,
            deleted=n % 10 == 9,
            text=dict.fromkeys(TEXT_FIELDS, "") | {"product_type": f"Home > {n % 3}"},
            amount_minor=None if n % 4 == 3 else 100 * n,
            currency=None if n % 4 == 3 else "EUR",
            availability=("in_stock", "out_of_stock", None)[n % 3],
        )
        for n in range(60)
    ]
    for product in products:
        vector = vector_of(product.id) * np.float32(1.0003)  # not quite of unit length, as float16 may leave it
        row = ProductEmbedding(
            id=product.id,
            version=product.version - product.version % 2,
            event_time=NOW,
            model_version="1",
            content_hash="h",
            vector=vector,
            deleted=product.deleted,
        )
        store.embeddings["1"][row.id] = row
        for view in store.views.values():
            view[product.id] = product
        packed = ProductVector(
            id=row.id,
            version=row.version,
            model_version="1",
            content_hash="h",
            vector=ProductVector.pack(vector),
            source_time=1,
        )
        broker.logs[P0].append(vector_record(row.id, row.version, None if row.deleted else packed))
        assert row.deleted or JSON.encode(packed)
    offer_publisher(producer, JSON)([offer_of(product, source_time=1) for product in products])
    broker.logs[O0] = [(key, value, list(headers.items())) for _, key, value, headers in producer.sent]

    a = index_from_topics(broker, "1", timeout_s=20)  # type: ignore[arg-type]
    b = index_from_features(store, "1", position=a.position)  # type: ignore[arg-type]
    ids = [p.id for p in products]
    assert (len(a), len(b)) == (54, 54)
    assert a.position == b.position
    left, right = a.vectors(ids), b.vectors(ids)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=f"the same bits of {name}")
    queries = np.stack([vector_of("query", n) for n in range(20)])
    for where in (
        None,
        Filter(in_stock=True),
        Filter(categories=("home > 1",)),
        Filter(min_price=500, max_price=3000, currency="EUR"),
    ):
        result, expected = a.search(queries, 60, where=where), b.search(queries, 60, where=where)
        assert [sorted(f.ids) for f in result] == [sorted(e.ids) for e in expected]
        assert len(result[0].ids) > 5
    for name in left:  # versions: what is older than one's is older than the other's
        version = store.embeddings["1"][name].version
        assert not a.upsert(name, version - 1, vector_of("x"))
        assert not b.upsert(name, version - 1, vector_of("x"))


def test_topics_that_are_not_read_in_time_are_an_error() -> None:
    broker = FakeBroker(failures={0: [ZeroDivisionError()]})
    with pytest.raises(BrokerError, match="not read to their ends within 1 s"):
        index_from_topics(broker, "1", timeout_s=1)  # type: ignore[arg-type]
