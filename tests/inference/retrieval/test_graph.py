"""The graph's answers have one shape for any number of queries."""

from __future__ import annotations

import numpy as np
import pytest

from inference.retrieval.graph import HnswSettings, Matches, nearest_rows, new_graph

VECTORS = np.eye(4, dtype=np.float16)


@pytest.mark.parametrize("queries", [1, 3])
def test_matches_have_a_row_per_query_with_the_nearest_first(queries: int) -> None:
    graph = new_graph(4, HnswSettings())
    graph.add(np.arange(4), VECTORS)
    near_second = np.array([0, 1, 0.5, 0], np.float32)
    matches = Matches(graph.search(np.tile(near_second, (queries, 1)), 2))
    assert matches.keys.shape == matches.distances.shape == (queries, 2)
    assert matches.counts == [2] * queries
    assert matches.keys[-1].tolist() == [1, 2]
    np.testing.assert_allclose(matches.distances[-1], 1 - np.array([1, 0.5]) / np.sqrt(1.25), atol=2e-3)


def test_a_search_beyond_the_last_product_counts_what_it_found() -> None:
    graph = new_graph(4, HnswSettings())
    graph.add(np.arange(2), VECTORS[:2])
    assert Matches(graph.search(VECTORS[:1].astype(np.float32), 5)).counts == [2]
    assert Matches(graph.search(VECTORS[:3].astype(np.float32), 5)).counts == [2, 2, 2]


@pytest.mark.parametrize("queries", [1, 5])
def test_a_comparison_gives_the_row_numbers_of_the_nearest_vectors(queries: int) -> None:
    rng = np.random.default_rng(0)
    vectors, asked = rng.normal(size=(50, 8)), rng.normal(size=(queries, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    matches = nearest_rows(vectors.astype(np.float16), asked.astype(np.float32), 3, threads=1)
    expected = np.argsort(-(asked @ vectors.T), axis=1)[:, :3]
    assert matches.keys.tolist() == expected.tolist()
    assert matches.counts == [3] * queries


def test_the_settings_reach_the_graph() -> None:
    graph = new_graph(4, HnswSettings(connectivity=24, expansion_add=33, expansion_search=55))
    assert (graph.connectivity, graph.expansion_add, graph.expansion_search, graph.ndim) == (24, 33, 55, 4)
