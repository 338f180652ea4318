"""Find the nearest products in the graph and among the unlinked vectors. Nothing may change during a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from inference.arrays import BoolArray, Float16Array, Float32Array, Int64Array
from inference.retrieval.candidates import Candidates, merge_best
from inference.retrieval.filters import Filter
from inference.retrieval.graph import Matches, nearest_rows
from inference.retrieval.rows import ProductRows
from inference.retrieval.unlinked import Unlinked

_COMPARISONS_AT_ONCE = 4_000_000  # 16 bytes each while they are sorted


class Source(NamedTuple):
    """The data that a search reads."""

    rows: ProductRows
    graph: Any
    unlinked: Unlinked

    def __len__(self) -> int:
        return len(self.graph) + len(self.unlinked)


class SearchCost(NamedTuple):
    """When a filtered search walks the graph, and how far.

    Attributes:
        oversampling: The walk reads `oversampling * k / selectivity` neighbours. Far from the query the graph is less
            exact than near it: recall is 0.95 with an oversampling of 1.5, and 0.98 or more with 3.
        vectors_per_neighbour: Time to read one neighbour (13 microseconds) divided by the time to compare one vector
            with the query (0.2 microseconds).
    """

    oversampling: int = 3
    vectors_per_neighbour: int = 60


class Request(NamedTuple):
    """A batch of queries.

    Attributes:
        queries: `[B, dim]` unit vectors.
        k: Number of products per query.
        threads: Number of threads that share the batch.
    """

    queries: Float32Array
    k: int
    threads: int = 1


def search_all(source: Source, request: Request, *, exact: bool) -> list[Candidates]:
    """Return the nearest of all products for each query.

    Args:
        source: What to search.
        request: The queries.
        exact: Whether to compare with every vector of the graph instead of walking it.
    """
    answers = [Candidates([], []) for _ in request.queries]
    if size := len(source.graph):
        matches = Matches(
            source.graph.search(request.queries, min(request.k, size), exact=exact, threads=request.threads)
        )
        answers = [
            _named(source.rows, matches.keys[at, :n], matches.distances[at, :n]) for at, n in enumerate(matches.counts)
        ]
    return _merge_unlinked(source, request.queries, request.k, answers)


def search_filtered(
    source: Source, request: Request, where: Filter, *, exact: bool, cost: SearchCost
) -> list[Candidates]:
    """Return the nearest products that pass a filter for each query.

    Args:
        source: What to search.
        request: The queries.
        where: The filter.
        exact: Whether to compare with every passing vector instead of walking the graph.
        cost: When walking the graph is cheaper.
    """
    passing = passing_rows(source.rows, where)
    pool = np.flatnonzero(passing)
    if exact or len(pool) <= request.k:
        return compare(source.rows, request, pool, source.rows.vectors[pool])
    return _walk(source, request, pool, passing, cost)


def passing_rows(rows: ProductRows, where: Filter | None) -> BoolArray:
    """Return the rows of the products that pass the filter."""
    held = rows.held[: len(rows)]
    return held if where is None else rows.attributes.matching(where, len(rows)) & held


def compare(products: ProductRows, request: Request, rows: Int64Array, vectors: Float16Array) -> list[Candidates]:
    """Return the nearest of some rows for each query, by comparing the query with each row.

    Args:
        products: All products, for their ids.
        request: The queries.
        rows: `[n]`, the rows to compare with.
        vectors: `[n, dim]`, the vectors of these rows.
    """
    answers: list[Candidates] = []
    at_once = max(1, _COMPARISONS_AT_ONCE // max(1, len(rows)))
    for start in range(0, len(request.queries), at_once):
        queries = request.queries[start : start + at_once]
        if not len(rows):
            answers += [Candidates([], []) for _ in queries]
            continue
        matches = nearest_rows(vectors, queries, min(request.k, len(rows)), request.threads)
        answers += [
            _named(products, rows[matches.keys[at, :n]], matches.distances[at, :n])
            for at, n in enumerate(matches.counts)
        ]
    return answers


def _walk(source: Source, request: Request, pool: Int64Array, passing: BoolArray, cost: SearchCost) -> list[Candidates]:
    """Read more neighbours than needed and keep those that pass; read four times as many if they are too few.

    If that costs more than comparing with all passing vectors, compare with them instead: from the start at a low
    selectivity (up to 13 % with 100,000 products and k = 10), otherwise for a query far from all passing products.
    """
    queries, k, threads = request
    graph = source.graph
    answers: list[Candidates | None] = [None] * len(queries)
    pending = np.arange(len(queries))
    fetch = math.ceil(cost.oversampling * k * len(source) / len(pool)) + k
    while len(pending) and len(graph) and fetch * cost.vectors_per_neighbour < len(pool):
        matches = Matches(graph.search(queries[pending], min(fetch, len(graph)), threads=threads))
        for at, query in enumerate(pending):
            keys = matches.keys[at, : matches.counts[at]]
            good = np.flatnonzero(passing[keys])[:k]
            if len(good) == k:
                named = _named(source.rows, keys[good], matches.distances[at, good])
                (answers[query],) = _merge_unlinked(source, queries[query][None], k, [named], passing)
        pending = np.array([query for query in pending if answers[query] is None], np.int64)
        fetch *= 4
    if len(pending):
        rest = compare(source.rows, Request(queries[pending], k, threads), pool, source.rows.vectors[pool])
        for query, answer in zip(pending, rest, strict=True):
            answers[query] = answer
    return [answer for answer in answers if answer is not None]


def _merge_unlinked(
    source: Source, queries: Float32Array, k: int, answers: Sequence[Candidates], passing: BoolArray | None = None
) -> list[Candidates]:
    """Merge the graph's answers with the nearest unlinked vectors that pass."""
    if not source.unlinked:
        return list(answers)
    rows, vectors = source.unlinked.gather(source.rows.vectors)
    if passing is not None:
        rows, vectors = rows[passing[rows]], vectors[passing[rows]]
    nearest = compare(source.rows, Request(queries, k), rows, vectors)
    return [merge_best(k, *both) for both in zip(answers, nearest, strict=True)]


def _named(products: ProductRows, rows: Any, distances: Any) -> Candidates:
    return Candidates(products.names(rows.tolist()), (1.0 - distances).tolist())
