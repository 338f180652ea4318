"""The graph: usearch's HNSW (Malkov and Yashunin, 2018) with our settings, and its answers in one form."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from usearch.compiled import MetricKind
from usearch.index import Index
from usearch.index import search as search_matrix

from inference.arrays import Float16Array, Float32Array


class HnswSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The graph's parameters. `docs/research/log.md` has the figures that they were chosen by."""

    connectivity: int = 48  # links per node (M); twice as many in the lowest layer
    expansion_add: int = 128  # candidates looked at when a node is linked (efConstruction)
    expansion_search: int = 128  # and when neighbours are looked for (ef)
    exact_up_to: int = 8_000  # so few products are compared one by one about as quickly as the graph is walked


class Matches:
    """What usearch found, of one query or many in the same form: row `i` holds `counts[i]` keys, the nearest first."""

    def __init__(self, found: Any) -> None:
        self.keys: Any = np.atleast_2d(found.keys)
        self.distances: Any = np.atleast_2d(found.distances)
        # For a single query usearch answers with one row, cut to size, and no counts.
        self.counts: list[int] = found.counts.tolist() if hasattr(found, "counts") else [len(found)]


def new_graph(dim: int, settings: HnswSettings) -> Any:
    """An empty graph over cosines."""
    return Index(
        ndim=dim,
        metric=MetricKind.Cos,
        dtype="f16",  # half the memory of float32, and the topic carries no more
        connectivity=settings.connectivity,
        expansion_add=settings.expansion_add,
        expansion_search=settings.expansion_search,
    )


def nearest_rows(vectors: Float16Array, queries: Float32Array, k: int, threads: int) -> Matches:
    """The `k` nearest of the rows `[N, dim]`, by comparing each query with each; keys are row numbers."""
    return Matches(search_matrix(vectors, queries, k, MetricKind.Cos, exact=True, threads=threads))
