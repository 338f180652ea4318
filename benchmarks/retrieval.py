"""Candidates from 100,000 products: recall against exact search, and the price of our index over the bare library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from usearch.index import Index

from benchmarks.harness import Row, compared, cpu_clock, figure, in_turn
from inference.inputs import Float32Array
from inference.retrieval import RetrievalIndex

PRODUCTS = 100_000
QUERIES = 1_000
K = 10


def rows(say: Callable[[str], None]) -> list[Row]:
    """`retrieval_recall`, `retrieval_time`, `update_visible`."""
    vectors, queries = _vectors(PRODUCTS, seed=1), _vectors(QUERIES, seed=2)
    say(f"building an index of {PRODUCTS:,} products")
    ours = RetrievalIndex("1")
    for number, vector in enumerate(vectors):
        ours.upsert(f"product-{number}", 1, vector)
    bare = Index(ndim=256, metric="cos", dtype="f16", connectivity=16, expansion_add=128, expansion_search=64)
    bare.add(np.arange(PRODUCTS), vectors, threads=1)
    say("exact search")
    truth = np.argpartition(-(queries @ vectors.T), K, axis=1)[:, :K]
    expected = [{f"product-{n}" for n in row} for row in truth]
    recall = float(np.mean([len(e & set(f.ids)) / K for e, f in zip(expected, ours.search(queries, K), strict=True)]))
    say("timing")
    seconds = in_turn(
        {
            "usearch": lambda: [bare.search(q, K, threads=1) for q in queries],
            "ours": lambda: [ours.search(q[None], K) for q in queries],
        },
        runs=5,
        clock=cpu_clock,
    )
    per_query = {name: [1e3 * s / QUERIES for s in taken] for name, taken in seconds.items()}
    ours.upsert("product-0", 2, queries[0])
    visible = ours.search(queries[:1], 1)[0].ids == ["product-0"]
    return [
        figure("retrieval_recall", "recall@10", recall, at_least=0.98),
        compared("retrieval_time", "ms/query", per_query["ours"], "usearch", per_query["usearch"], at_most=1.3),
        figure("update_visible", "of the next query", float(visible), at_least=1.0),
    ]


def _vectors(number: int, seed: int) -> Float32Array:
    """Unit vectors around 2,000 common centres, as products lie around their kinds."""
    centres = np.random.default_rng(0).normal(size=(2_000, 256)).astype(np.float32)
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, len(centres), number)] + 0.8 * rng.normal(size=(number, 256)).astype(np.float32)
    unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
