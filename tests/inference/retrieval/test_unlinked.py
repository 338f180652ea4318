"""Unlinked vectors: searches find them before they are in the graph."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from inference.arrays import Float32Array
from inference.retrieval import Attributes, Filter, RetrievalIndex
from inference.retrieval.unlinked import Unlinked
from tests.inference.retrieval.vectors import DIM, best, clustered, empty, filled, recall


def changed(index: RetrievalIndex, named: dict[str, Float32Array], rng: np.random.Generator, version: int) -> None:
    """Replace a third of the products and add some; link none of them."""
    ids = [*(f"p{n}" for n in rng.choice(600, 200, replace=False)), *(f"new{version}-{n}" for n in range(20))]
    vectors = clustered(rng, len(ids))
    assert all(index.upsert_many(ids, [version] * len(ids), vectors, threads=1, link=False))
    named |= dict(zip(ids, vectors, strict=True))


@pytest.fixture
def world() -> tuple[RetrievalIndex, dict[str, Float32Array], np.random.Generator]:
    rng = np.random.default_rng(5)
    vectors = clustered(rng, 600)
    index, named = filled(vectors), {f"p{i}": v for i, v in enumerate(vectors)}
    changed(index, named, rng, 2)
    return index, named, rng


World = tuple[RetrievalIndex, dict[str, Float32Array], np.random.Generator]


def is_right(index: RetrievalIndex, named: dict[str, Float32Array], rng: np.random.Generator) -> None:
    assert len(index) == len(named)
    queries = clustered(rng, 60)
    expected = [best(named, q, 10) for q in queries]
    assert recall(index.search(queries, exact=True), expected) >= 0.995
    results = index.search(queries)
    assert recall(results, expected) >= 0.98
    for query, candidates in zip(queries, results, strict=True):
        np.testing.assert_allclose(candidates.scores, [query @ named[i] for i in candidates.ids], atol=2e-3)
        assert candidates.scores == sorted(candidates.scores, reverse=True)
        assert len(set(candidates.ids)) == 10


def test_an_unlinked_vector_is_found_at_once_and_the_one_it_replaces_is_not(world: World) -> None:
    index, named, rng = world
    assert index.unlinked == 220
    is_right(index, named, rng)
    changed(index, named, rng, 3)  # some of them are still unlinked
    is_right(index, named, rng)
    index.link()
    assert index.unlinked == 0
    is_right(index, named, rng)


def test_linking_stops_when_the_time_is_up_or_few_enough_are_left(world: World) -> None:
    index, named, rng = world
    index.link(keep=100)
    assert index.unlinked == 100
    index.link(seconds=0.0)
    assert index.unlinked == 100
    index.link(seconds=time.monotonic())
    assert index.unlinked == 0
    is_right(index, named, rng)


def test_unlinked_products_can_be_removed_replaced_and_forgotten(world: World) -> None:
    index, named, rng = world
    assert index.remove("new2-0", 2)
    assert index.remove("p0", 9)
    assert index.upsert("new2-1", 3, named["p1"])
    named |= {"new2-1": named["p1"]}
    del named["new2-0"], named["p0"]
    is_right(index, named, rng)
    index.forget_removed(0)
    index.link()
    is_right(index, named, rng)
    index.clear()
    assert (len(index), index.unlinked) == (0, 0)


def test_an_index_with_unlinked_vectors_only_answers() -> None:
    index, vectors = empty(), clustered(np.random.default_rng(1), 30)
    index.upsert_many([f"p{i}" for i in range(30)], [1] * 30, vectors, link=False)
    assert [result.ids for result in index.search(vectors, 1)] == [[f"p{i}"] for i in range(30)]
    assert len(index.search(vectors[:1], 50)[0].ids) == 30


def test_a_filter_applies_to_unlinked_vectors(world: World) -> None:
    index, named, rng = world
    passing = {}
    for number, (name, vector) in enumerate(named.items()):
        index.set_attributes(name, 1, Attributes(availability="in_stock" if number % 2 else "out_of_stock"))
        if number % 2:
            passing[name] = vector
    queries = clustered(rng, 40)
    results = index.search(queries, 5, where=Filter(in_stock=True))
    assert recall(results, [best(passing, q, 5) for q in queries]) >= 0.98
    assert all(len(set(candidates.ids)) == 5 for candidates in results)


def test_the_measured_recall_includes_unlinked_vectors(world: World) -> None:
    index, _, rng = world
    (query,) = clustered(rng, 1)
    assert index.agreement(query, 10) == (10, 10)


def test_compaction_and_saving_link_all_vectors(world: World, tmp_path: Path) -> None:
    index, named, rng = world
    index.save(tmp_path)
    assert index.unlinked == 0
    is_right(RetrievalIndex.load(tmp_path, "1", dim=DIM), named, rng)
    changed(index, named, rng, 3)
    index.compact()
    assert index.unlinked == 0
    is_right(index, named, rng)


def test_a_filter_finds_unlinked_vectors_while_the_graph_is_empty() -> None:
    rng = np.random.default_rng(9)
    vectors = clustered(rng, 400)
    index = empty()
    ids = [f"p{i}" for i in range(400)]
    index.upsert_many(ids, [1] * 400, vectors, link=False)
    for product_id in ids:
        index.set_attributes(product_id, 1, Attributes(availability="in_stock"))
    (result,) = index.search(vectors[:1], 5, where=Filter(in_stock=True))
    assert result.ids[0] == "p0"
    assert recall([result], [best(dict(zip(ids, vectors, strict=True)), vectors[0], 5)]) >= 0.8


def test_rows_keep_the_order_of_their_arrival_and_are_gathered_once_per_change() -> None:
    waiting, vectors = Unlinked(), np.arange(12, dtype=np.float16).reshape(6, 2)
    waiting.add([4, 1])
    waiting.add([1, 3])
    assert (len(waiting), waiting.first(2), 3 in waiting, 0 in waiting) == (3, [4, 1], True, False)
    rows, gathered = waiting.gather(vectors)
    assert rows.tolist() == [4, 1, 3]
    np.testing.assert_array_equal(gathered, vectors[[4, 1, 3]])
    assert waiting.gather(vectors)[0] is rows
    waiting.discard([4, 5])
    assert waiting.gather(vectors)[0].tolist() == [1, 3]
    waiting.clear()
    assert not waiting
