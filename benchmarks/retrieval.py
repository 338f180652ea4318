"""Retrieval from 100,000 products: recall against exact search, and time against the bare usearch library.

The goals are a recall@10 of at least 0.98 (0.95 with filters), at most 1.3 times the library's CPU time per query and
per update, and that every update is visible at once. Also measures building, saving and loading, changes in place, and
vectors without structure.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, Say, compared, cpu_clock, figure, in_turn
from inference.arrays import Float32Array
from inference.retrieval import Attributes, Candidates, Filter, RetrievalIndex

PRODUCTS = 100_000
HARD_PRODUCTS = 20_000
QUERIES = 1_000
FILTERED_QUERIES = 200
UPDATES = 200
CHURNED = 20_000
K = 10


def rows(say: Say) -> list[Row]:
    """Measure recall, time, updates, filters, disk, changes in place, and vectors without structure."""
    vectors, queries = _vectors(PRODUCTS, seed=1), _vectors(QUERIES, seed=2)
    ids = [f"product-{number}" for number in range(PRODUCTS)]
    say(f"building an index of {PRODUCTS:,} products")
    ours = RetrievalIndex("1")
    started = time.perf_counter()
    ours.upsert_many(ids, [1] * PRODUCTS, vectors)
    built = time.perf_counter() - started
    bare = ours._graph.copy()  # the same graph in the library alone
    say("recall and time")
    measured = [
        figure("retrieval_recall", "recall@10", _recall(ours, queries), at_least=0.98),
        _time(ours, bare, queries),
        *_update(ours, bare, queries),
        figure("build_rate", "products/s, all cores", PRODUCTS / built),
        _bulk(say),
    ]
    say("filters")
    measured += _filtered(ours, queries[:FILTERED_QUERIES])
    say("saving and loading")
    measured += _disk(ours)
    say(f"{CHURNED:,} changes in place")
    chosen = np.random.default_rng(3).permutation(PRODUCTS)[:CHURNED]
    ours.upsert_many([ids[n] for n in chosen], [3] * CHURNED, _vectors(CHURNED, seed=4))
    measured.append(figure("churned_recall", "recall@10", _recall(ours, queries), at_least=0.98))
    say("vectors without any structure")
    hard = RetrievalIndex("1")
    hard.upsert_many(ids[:HARD_PRODUCTS], [1] * HARD_PRODUCTS, _noise(HARD_PRODUCTS, seed=5))
    measured.append(figure("unstructured_recall", "recall@10", _recall(hard, _noise(FILTERED_QUERIES, seed=6))))
    return measured


def _recall(index: RetrievalIndex, queries: Float32Array, where: Filter | None = None) -> float:
    expected = index.search(queries, K, exact=True, where=where, threads=0)
    return _agreement(index.search(queries, K, where=where), expected)


def _agreement(actual: Sequence[Candidates], expected: Sequence[Candidates]) -> float:
    return float(np.mean([len(set(f.ids) & set(e.ids)) / len(e.ids) for f, e in zip(actual, expected, strict=True)]))


def _time(ours: RetrievalIndex, bare: Any, queries: Float32Array) -> Row:
    search = bare.search
    seconds = in_turn(
        {
            "usearch": lambda: [search(q, K, threads=1) for q in queries],
            "ours": lambda: [ours.search(q[None], K) for q in queries],
        },
        runs=5,
        clock=cpu_clock,
    )
    per_query = {name: [1e3 * s / len(queries) for s in taken] for name, taken in seconds.items()}
    return compared("retrieval_time", "ms/query", per_query["ours"], "usearch", per_query["usearch"], at_most=1.3)


def _update(ours: RetrievalIndex, bare: Any, queries: Float32Array) -> list[Row]:
    """Give each product a query's vector, and check that it is that query's nearest at once."""
    vectors = queries[:UPDATES]
    version = itertools.count(2)
    visible: list[bool] = []

    def update_ours() -> None:
        now = next(version)
        for row, vector in enumerate(vectors):
            ours.upsert(f"product-{row}", now, _turned(vector, now))

    def update_bare() -> None:
        now = next(version)
        for row, vector in enumerate(vectors):
            bare.remove(row)
            bare.add(row, _turned(vector, now).astype(np.float16), threads=1)

    seconds = in_turn({"usearch": update_bare, "ours": update_ours}, runs=5, clock=cpu_clock)
    now = next(version)
    for row, vector in enumerate(vectors):
        ours.upsert(f"product-{row}", now, vector)
        visible.append(ours.search(vector[None], 1)[0].ids == [f"product-{row}"])
    each = {name: [1e3 * s / len(vectors) for s in taken] for name, taken in seconds.items()}
    return [
        compared("retrieval_update", "ms/update", each["ours"], "usearch", each["usearch"], at_most=1.3),
        figure("update_visible", "of the next queries", float(np.mean(visible)), at_least=1.0),
    ]


def _turned(vector: Float32Array, number: int) -> Float32Array:
    """Return another unit vector for each number, because an equal vector would cost us nothing."""
    return np.roll(vector, number)


def _bulk(say: Say) -> Row:
    say("one by one against in bulk")
    vectors = _vectors(5_000, seed=7)
    ids = [str(number) for number in range(len(vectors))]

    def one_by_one() -> None:
        index = RetrievalIndex("1")
        for product_id, vector in zip(ids, vectors, strict=True):
            index.upsert(product_id, 1, vector)

    seconds = in_turn(
        {
            "one by one": one_by_one,
            "bulk": lambda: RetrievalIndex("1").upsert_many(ids, [1] * len(ids), vectors),
        },
        runs=3,
        warmup=0,
    )
    rates = {name: [len(ids) / s for s in taken] for name, taken in seconds.items()}
    return compared("bulk_rate", "products/s, all cores", rates["bulk"], "one by one", rates["one by one"])


def _filtered(ours: RetrievalIndex, queries: Float32Array) -> list[Row]:
    """The price is drawn apart from the vector: what passes lies everywhere. Exact search compares with all of that."""
    prices = np.random.default_rng(8).permutation(PRODUCTS)
    for number, price in enumerate(prices.tolist()):
        ours.set_attributes(f"product-{number}", 1, Attributes(amount_minor=price, currency="EUR"))
    recalls, times = [], []
    for percent in (1, 10, 50):
        where = Filter(max_price=PRODUCTS * percent // 100 - 1, currency="EUR")
        recalls.append(_recall(ours, queries, where))
        seconds = in_turn(
            {
                "exact": partial(_one_by_one, ours, queries, where, exact=True),
                "ours": partial(_one_by_one, ours, queries, where, exact=False),
            },
            runs=3,
            clock=cpu_clock,
        )
        each = {name: [1e3 * s / len(queries) for s in taken] for name, taken in seconds.items()}
        name = f"retrieval_filtered_time_{percent}_percent"
        times.append(compared(name, "ms/query", each["ours"], "exact", each["exact"]))
    named = zip((1, 10, 50), recalls, strict=True)
    return [
        figure("retrieval_filtered", "smallest recall@10", min(recalls), at_least=0.95),
        *(figure(f"retrieval_filtered_recall_{percent}_percent", "recall@10", recall) for percent, recall in named),
        *times,
    ]


def _one_by_one(ours: RetrievalIndex, queries: Float32Array, where: Filter, *, exact: bool) -> None:
    for query in queries:
        ours.search(query[None], K, where=where, exact=exact)


def _disk(ours: RetrievalIndex) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ours.save(Path(folder))
        saved = time.perf_counter()
        RetrievalIndex.load(Path(folder), "1")
        loaded = time.perf_counter()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return [
        figure("save_time", "s", saved - started),
        figure("load_time", "s", loaded - saved),
        figure("disk", "bytes/product", size / len(ours)),
    ]


def _vectors(number: int, seed: int) -> Float32Array:
    """Return unit vectors around 2,000 common centres, as products lie around their kinds."""
    centres = np.random.default_rng(0).normal(size=(2_000, 256)).astype(np.float32)
    rng = np.random.default_rng(seed)
    return _unit(centres[rng.integers(0, len(centres), number)] + 0.8 * rng.normal(size=(number, 256)))


def _noise(number: int, seed: int) -> Float32Array:
    """Return unit vectors in uniform directions: the hardest case."""
    return _unit(np.random.default_rng(seed).normal(size=(number, 256)))


def _unit(vectors: np.ndarray) -> Float32Array:
    unit: Float32Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
