"""Vector search among 100,000 products through Feast's API, against a bare client; also recall and correctness.

Measures the milliseconds per search against an exact search in NumPy plus one SQLite statement for the rows of the
result. `search_time_matrix` is the search in memory alone, without the store and Feast's API. The goals are a recall@10
of at least 0.999 and no product with the content hash or distance of another one.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, Say, compared, figure, in_turn

MODEL = "bench"
VIEW = f"product_embedding_{MODEL}"
PRODUCTS = 100_000
QUERIES = 200
K = 10
PAIRS = 10_000  # of product and content hash; 100 per query
_BATCH = 4096
_RUNS = 100


def rows(say: Say) -> list[Row]:
    """Measure the search, its recall and correctness, the first search, and a search after a write."""
    from feature_repo.store import ProductFeatureStore

    vectors, queries = _vectors(PRODUCTS, seed=1), _vectors(QUERIES, seed=2)
    ids = [f"product-{n:06d}" for n in random.Random(3).sample(range(10**6), PRODUCTS)]
    with tempfile.TemporaryDirectory() as folder, ProductFeatureStore.open(Path(folder)) as store:
        say(f"writing {PRODUCTS:,} embeddings")
        store.ensure_model_version(MODEL)
        for start in range(0, PRODUCTS, _BATCH):
            store.write_embeddings(MODEL, _embeddings(ids, vectors, range(start, min(start + _BATCH, PRODUCTS))))
        return _measured(say, store, ids, vectors, queries)


def _measured(say: Say, store: Any, ids: list[str], vectors: Any, queries: Any) -> list[Row]:
    def search(query: Any, top_k: int = K) -> dict[str, Any]:
        answer: dict[str, Any] = store.feast.retrieve_online_documents_v2(
            features=[f"{VIEW}:content_hash"], query=query.tolist(), top_k=top_k
        ).to_dict()
        return answer

    say("the first search reads all vectors")
    started = time.perf_counter()
    search(queries[0])
    first = time.perf_counter() - started
    turn = itertools.cycle(queries)
    view = store.view(VIEW)
    field = next(feature for feature in view.features if feature.vector_index)
    matrix = store.online.vector_search.matrix(store.config, view, field)
    bare = _bare_client(store, ids, vectors)
    say("time, against NumPy and one SQLite statement")
    seconds = in_turn({"bare": lambda: bare(next(turn)), "ours": lambda: search(next(turn))}, runs=_RUNS, warmup=10)
    in_memory = in_turn({"matrix": lambda: matrix.nearest(next(turn), K)}, runs=_RUNS)["matrix"]
    say("recall")
    recalls = []
    for query in queries:
        nearest = np.argpartition(-(vectors @ query), K)[:K]
        recalls.append(len({ids[n] for n in nearest} & set(search(query)["product_id"])) / K)
    say(f"{PAIRS:,} pairs")
    wrong = sum(_wrong(search(query, 100), query, ids, vectors) for query in queries[: PAIRS // 100])
    say("following a write")
    followed = []
    for number in range(5):
        store.write_embeddings(MODEL, _embeddings(ids, vectors, range(number, number + 1), version=2))
        started = time.perf_counter()
        search(queries[number])
        followed.append(time.perf_counter() - started)
    ms = {name: [1e3 * s for s in taken] for name, taken in seconds.items()}
    return [
        compared("search_time", "ms", ms["ours"], "numpy_and_sqlite", ms["bare"]),
        figure("search_recall", f"recall@{K}", float(np.mean(recalls)), at_least=0.999),
        figure("search_wrong_ids", f"of {PAIRS:,}", wrong, at_most=0),
        figure("search_time_matrix", "ms", [1e3 * s for s in in_memory]),
        figure("search_first", "s", first),
        figure("search_after_write", "ms", [1e3 * s for s in followed]),
    ]


def _wrong(answer: dict[str, Any], query: Any, ids: list[str], vectors: Any) -> int:
    """Count the products with the content hash or distance of another one."""
    numbers = {id: n for n, id in enumerate(ids)}
    wrong = 0
    for id, content_hash, distance in zip(
        answer["product_id"], answer["content_hash"], answer["distance"], strict=True
    ):
        n = numbers[id]
        wrong += content_hash != f"{n:064x}" or abs(distance - (1 - float(vectors[n] @ query))) > 1e-5
    return wrong


def _bare_client(store: Any, ids: list[str], vectors: Any) -> Callable[[Any], object]:
    """Return an exact search by hand: the nearest vectors by NumPy, and their rows by one statement."""
    from feature_repo.values import encode_key

    keys = [encode_key(id) for id in ids]
    connection = sqlite3.connect(store.home / "online.db")
    statement = f'select entity_key, content_hash from "sagelift_{VIEW}" where entity_key in ({",".join("?" * K)})'

    def search(query: Any) -> object:
        nearest = np.argpartition(-(vectors @ query), K)[:K]
        return connection.execute(statement, [keys[n] for n in nearest]).fetchall()

    return search


def _embeddings(ids: list[str], vectors: Any, numbers: range, version: int = 1) -> list[Any]:
    from feature_repo.rows import ProductEmbedding

    now = datetime.now(UTC)
    return [
        ProductEmbedding(
            id=ids[n], version=version, event_time=now, model_version=MODEL, content_hash=f"{n:064x}", vector=vectors[n]
        )
        for n in numbers
    ]


def _vectors(number: int, seed: int) -> Any:
    """Return unit vectors around 2,000 common centres, as products lie around their kinds."""
    centres = np.random.default_rng(0).normal(size=(2_000, 256)).astype(np.float32)
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, len(centres), number)] + 0.8 * rng.normal(size=(number, 256)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
