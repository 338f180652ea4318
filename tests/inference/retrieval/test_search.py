"""A search finds the products of the graph and the unlinked ones, by comparison or by walking the graph."""

from __future__ import annotations

import numpy as np
import pytest

from inference.arrays import Float32Array
from inference.retrieval import Attributes, Candidates, Filter, HnswSettings
from inference.retrieval.graph import new_graph
from inference.retrieval.rows import ProductRows
from inference.retrieval.search import (
    Request,
    SearchCost,
    Source,
    compare,
    passing_rows,
    search_all,
    search_filtered,
)
from inference.retrieval.unlinked import Unlinked
from tests.inference.retrieval.vectors import DIM, clustered

PRODUCTS, UNLINKED = 400, 40
ALWAYS_WALK = SearchCost(vectors_per_neighbour=0)
NEVER_WALK = SearchCost(vectors_per_neighbour=10**9)
CHEAP = Filter(max_price=99, currency="EUR")


class CountingGraph:
    """A graph that counts its searches."""

    def __init__(self, graph: object) -> None:
        self._graph = graph
        self.searches = 0

    def __len__(self) -> int:
        return len(self._graph)  # type: ignore[arg-type]

    def search(self, *arguments: object, **options: object) -> object:
        self.searches += 1
        return self._graph.search(*arguments, **options)  # type: ignore[attr-defined]


@pytest.fixture
def source() -> Source:
    """Products p0, p1, ..., of which the last are unlinked, row 5 was removed, and every second one is cheap."""
    rows, graph, unlinked = ProductRows(DIM), new_graph(DIM, HnswSettings()), Unlinked()
    for number, vector in enumerate(clustered(np.random.default_rng(0), PRODUCTS)):
        row = rows.row(f"p{number}")
        rows.held[row], rows.vectors[row] = number != 5, vector
        rows.attributes.set(row, 1, Attributes(amount_minor=50 if number % 2 else 500, currency="EUR"))
    linked = np.array([row for row in range(PRODUCTS - UNLINKED) if row != 5])
    graph.add(linked, rows.vectors[linked])
    unlinked.add(range(PRODUCTS - UNLINKED, PRODUCTS))
    return Source(rows, CountingGraph(graph), unlinked)


@pytest.fixture
def queries() -> Float32Array:
    return clustered(np.random.default_rng(1), 20)


def truth(source: Source, queries: Float32Array, k: int, *, cheap: bool = False) -> list[list[str]]:
    rows = [row for row in range(PRODUCTS) if row != 5 and (row % 2 or not cheap)]
    scores = queries @ source.rows.vectors[rows].astype(np.float32).T
    return [[f"p{rows[at]}" for at in np.argsort(-line)[:k]] for line in scores]


def recall(answers: list[Candidates], expected: list[list[str]]) -> float:
    return float(np.mean([len({*a.ids} & {*e}) / len(e) for a, e in zip(answers, expected, strict=True)]))


@pytest.mark.parametrize("exact", [True, False])
def test_all_products_are_searched_linked_and_unlinked(source: Source, queries: Float32Array, exact: bool) -> None:
    answers = search_all(source, Request(queries, 10), exact=exact)
    assert recall(answers, truth(source, queries, 10)) > 0.97
    assert any(int(id[1:]) >= PRODUCTS - UNLINKED for answer in answers for id in answer.ids)
    assert all(answer.scores == sorted(answer.scores, reverse=True) for answer in answers)
    assert len(source) == PRODUCTS - 1


@pytest.mark.parametrize(("exact", "cost"), [(True, ALWAYS_WALK), (False, ALWAYS_WALK), (False, NEVER_WALK)])
def test_a_filtered_search_finds_only_products_that_pass(
    source: Source, queries: Float32Array, exact: bool, cost: SearchCost
) -> None:
    answers = search_filtered(source, Request(queries, 10), CHEAP, exact=exact, cost=cost)
    assert recall(answers, truth(source, queries, 10, cheap=True)) > 0.97
    assert all(int(id[1:]) % 2 for answer in answers for id in answer.ids)
    assert "p5" not in {id for answer in answers for id in answer.ids}
    assert all(len(answer.ids) == len(set(answer.ids)) == 10 for answer in answers)


def test_the_graph_is_walked_only_where_that_is_cheaper(source: Source, queries: Float32Array) -> None:
    request = Request(queries, 10)
    search_filtered(source, request, CHEAP, exact=True, cost=ALWAYS_WALK)
    search_filtered(source, request, CHEAP, exact=False, cost=NEVER_WALK)
    assert source.graph.searches == 0
    search_filtered(source, request, CHEAP, exact=False, cost=ALWAYS_WALK)
    assert source.graph.searches >= 1


def test_a_filter_that_few_products_pass_gives_them_all(source: Source, queries: Float32Array) -> None:
    for number in (7, 3):
        source.rows.attributes.set(number, 2, Attributes(amount_minor=1, currency="EUR"))
    request = Request(queries, 10)
    one_cent, in_dollars = Filter(max_price=1, currency="EUR"), Filter(min_price=1, currency="USD")
    answers = search_filtered(source, request, one_cent, exact=False, cost=ALWAYS_WALK)
    assert {frozenset(answer.ids) for answer in answers} == {frozenset(("p3", "p7"))}
    answers = search_filtered(source, request, in_dollars, exact=False, cost=ALWAYS_WALK)
    assert answers == [Candidates([], [])] * len(queries)


def test_rows_pass_when_their_product_is_held_and_meets_the_filter(source: Source) -> None:
    assert np.flatnonzero(~passing_rows(source.rows, None)).tolist() == [5]
    assert np.flatnonzero(passing_rows(source.rows, CHEAP)).tolist() == [n for n in range(1, PRODUCTS, 2) if n != 5]


def test_an_empty_source_has_no_answers(queries: Float32Array) -> None:
    source = Source(ProductRows(DIM), new_graph(DIM, HnswSettings()), Unlinked())
    nothing = [Candidates([], [])] * len(queries)
    assert search_all(source, Request(queries, 10), exact=False) == nothing
    assert search_filtered(source, Request(queries, 10), CHEAP, exact=False, cost=ALWAYS_WALK) == nothing


def test_a_comparison_in_parts_equals_one_of_all_queries(source: Source, queries: Float32Array) -> None:
    """More comparisons than fit in memory at once are made in several parts."""
    rows = np.arange(PRODUCTS)
    many = np.tile(queries, (600, 1))  # 12,000 queries x 400 rows
    answers = compare(source.rows, Request(many, 3), rows, source.rows.vectors[rows])
    assert answers[: len(queries)] == answers[-len(queries) :]
    assert len(answers) == len(many)
