"""Vector search through Feast's own API, on the real SQLite store: right pairs, whatever the index knows or misses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from feature_repo.errors import InvalidFeatureError
from feature_repo.rows import Deletion
from feature_repo.store import ProductFeatureStore
from tests.feature_repo.builders import NOON, make_embedding

VIEW = "product_embedding_m1"


@pytest.fixture
def store(open_store: Callable[[], Any]) -> Any:
    store = open_store()
    store.ensure_model_version("m1")
    return store


def search(store: ProductFeatureStore, query: Any, top_k: int, features: Sequence[str] = ("content_hash",)) -> Any:
    names = [f"{VIEW}:{name}" for name in features]
    return store.feast.retrieve_online_documents_v2(features=names, query=query.tolist(), top_k=top_k).to_dict()


def nearest(store: ProductFeatureStore, query: Any, top_k: int = 1) -> list[str]:
    found = search(store, query, top_k)
    pairs = sorted(zip(found["distance"], found["product_id"], strict=True)) if found.get("product_id") else []
    return [id for _, id in pairs]


def test_every_row_comes_with_its_own_features_and_its_exact_distance(store: ProductFeatureStore) -> None:
    rows = {f"p{n}": make_embedding(f"p{n}") for n in range(200)}
    store.write_embeddings("m1", list(rows.values()))
    query = make_embedding("query").vector
    found = search(store, query, 50, ("vector", "content_hash", "version"))
    distances = {id: 1 - float(row.vector @ query) for id, row in rows.items()}
    assert sorted(found["product_id"]) == sorted(sorted(distances, key=lambda id: distances[id])[:50])
    for at, id in enumerate(found["product_id"]):
        assert found["content_hash"][at] == rows[id].content_hash
        assert np.array_equal(np.array(found["vector"][at], np.float32), rows[id].vector)
        assert found["version"][at] == 1
        assert found["distance"][at] == pytest.approx(distances[id], abs=1e-6)


def test_what_this_process_writes_the_next_search_finds(store: ProductFeatureStore) -> None:
    store.write_embeddings("m1", [make_embedding(f"p{n}") for n in range(20)])
    late = make_embedding("late", 1)
    assert nearest(store, late.vector) != ["late"]
    store.write_embeddings("m1", [late])
    assert nearest(store, late.vector) == ["late"]
    moved = make_embedding("late", 2)
    store.write_embeddings("m1", [moved])
    assert nearest(store, moved.vector) == ["late"]


def test_what_another_process_deleted_is_not_found_though_the_index_has_it(
    store: ProductFeatureStore, open_store: Callable[[], Any]
) -> None:
    rows = [make_embedding(f"p{n}") for n in range(100)]
    store.write_embeddings("m1", rows)
    query = rows[0].vector
    assert nearest(store, query) == ["p0"]
    index_of(store)._due = float("inf")  # it does not look at the store again
    gone = [Deletion(id=f"p{n}", version=2, event_time=NOON) for n in range(95)]
    open_store().delete(gone)
    assert sorted(nearest(store, query, 5)) == ["p95", "p96", "p97", "p98", "p99"]


def test_what_another_process_wrote_is_found_when_the_index_looks_again(
    store: ProductFeatureStore, open_store: Callable[[], Any]
) -> None:
    store.write_embeddings("m1", [make_embedding(f"p{n}") for n in range(20)])
    late = make_embedding("late")
    assert nearest(store, late.vector) != ["late"]
    open_store().write_embeddings("m1", [late])
    index_of(store).follow()
    assert nearest(store, late.vector) == ["late"]


def test_an_empty_view_answers_with_nothing(store: ProductFeatureStore) -> None:
    assert nearest(store, make_embedding().vector, 3) == []


def test_more_rows_than_there_are_gives_them_all(store: ProductFeatureStore) -> None:
    store.write_embeddings("m1", [make_embedding(id) for id in "ab"])
    assert sorted(nearest(store, make_embedding().vector, 1000)) == ["a", "b"]


@pytest.mark.parametrize(
    ("query", "top_k", "told"),
    [
        (np.zeros(255), 1, "must be 256 finite numbers"),
        (np.full(256, np.inf), 1, "must be 256 finite numbers"),
        (np.zeros(256), 0, "ask for at least one row"),
    ],
)
def test_bad_searches_are_refused(store: ProductFeatureStore, query: Any, top_k: int, told: str) -> None:
    with pytest.raises(InvalidFeatureError, match=told):
        search(store, query, top_k)


def test_a_view_without_a_vector_is_named(store: ProductFeatureStore) -> None:
    with pytest.raises(InvalidFeatureError, match="View product_text has no vector"):
        store.feast.retrieve_online_documents_v2(features=["product_text:title"], query=[1.0], top_k=1)


def index_of(store: ProductFeatureStore) -> Any:
    view = store.feast.get_feature_view(VIEW)
    field = next(field for field in view.features if field.vector_index)
    return store.feast.provider.online_store.vector_search.index(store.feast.config, view, field)
