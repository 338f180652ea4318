"""The graph: usearch's HNSW (Malkov and Yashunin, 2018) with our settings, and its answers in a uniform shape."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from usearch.compiled import MetricKind
from usearch.index import Index
from usearch.index import search as search_matrix

from inference.arrays import Float16Array, Float32Array


class HnswSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the graph. `docs/research/log.md` has the measurements behind the defaults."""

    connectivity: int = 48  # links per node (M); twice as many in the lowest layer
    expansion_add: int = 128  # candidates considered when a node is linked (efConstruction)
    expansion_search: int = 128  # candidates considered by a search (ef)
    exact_up_to: int = 8_000  # up to this many products, comparing with each is about as fast as walking the graph


class Matches:
    """The matches of usearch, in the same shape for one query and for many.

    Attributes:
        keys: `[B, k]`; row `i` has `counts[i]` keys, the nearest first.
        distances: `[B, k]`, one minus the cosine.
        counts: `[B]`, the number of matches of each query.
    """

    def __init__(self, answer: Any) -> None:
        self.keys: Any = np.atleast_2d(answer.keys)
        self.distances: Any = np.atleast_2d(answer.distances)
        # For a single query usearch returns one row of the right length, and no counts.
        self.counts: list[int] = answer.counts.tolist() if hasattr(answer, "counts") else [len(answer)]


def new_graph(dim: int, settings: HnswSettings) -> Any:
    """Return an empty graph with the cosine metric."""
    return Index(
        ndim=dim,
        metric=MetricKind.Cos,
        dtype="f16",  # half the memory of float32; the topic has no more precision
        connectivity=settings.connectivity,
        expansion_add=settings.expansion_add,
        expansion_search=settings.expansion_search,
    )


def nearest_rows(vectors: Float16Array, queries: Float32Array, k: int, threads: int) -> Matches:
    """Return the `k` nearest of `[N, dim]` vectors by comparing each query with each vector; keys are row numbers."""
    return Matches(search_matrix(vectors, queries, k, MetricKind.Cos, exact=True, threads=threads))
