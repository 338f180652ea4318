"""Vectors and indexes for the tests of retrieval."""

from __future__ import annotations

import numpy as np

from inference.arrays import Float32Array
from inference.retrieval import Candidates, HnswSettings, RetrievalIndex

DIM = 64
WALKING = HnswSettings(exact_up_to=0)  # the graph is walked however few the products


def clustered(rng: np.random.Generator, rows: int, groups: int = 40) -> Float32Array:
    """Vectors in groups, as embeddings of products are."""
    centres = np.random.default_rng(99).normal(size=(groups, DIM))
    return unit(centres[rng.integers(0, groups, rows)] + 0.7 * rng.normal(size=(rows, DIM)))


def unit(vectors: np.ndarray) -> Float32Array:
    """At unit length."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def empty(model_version: str = "1") -> RetrievalIndex:
    """An index that walks its graph."""
    return RetrievalIndex(model_version, dim=DIM, settings=WALKING)


def filled(vectors: Float32Array) -> RetrievalIndex:
    """Products p0, p1, ... of version 1, added one by one."""
    index = empty()
    for row, vector in enumerate(vectors):
        assert index.upsert(f"p{row}", 1, vector)
    return index


def best(vectors: dict[str, Float32Array], query: Float32Array, k: int) -> list[str]:
    """The truth, the slow and obvious way."""
    scores = {name: float(query.astype(np.float64) @ vector) for name, vector in vectors.items()}
    return sorted(scores, key=lambda name: -scores[name])[:k]


def recall(answers: list[Candidates], expected: list[list[str]]) -> float:
    """Share of what was expected."""
    return float(np.mean([len(set(f.ids) & set(e)) / len(e) for f, e in zip(answers, expected, strict=True)]))
