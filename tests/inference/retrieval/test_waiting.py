"""Vectors that are found before they are in the graph."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from inference.arrays import Float32Array
from inference.retrieval import Attributes, Filter, RetrievalIndex
from tests.inference.retrieval.vectors import DIM, best, clustered, empty, filled, recall


def changed(index: RetrievalIndex, named: dict[str, Float32Array], rng: np.random.Generator, version: int) -> None:
    """A third of the products anew, some new ones, none linked."""
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
    found = index.search(queries)
    assert recall(found, expected) >= 0.98
    for query, candidates in zip(queries, found, strict=True):
        np.testing.assert_allclose(candidates.scores, [query @ named[i] for i in candidates.ids], atol=2e-3)
        assert candidates.scores == sorted(candidates.scores, reverse=True)
        assert len(set(candidates.ids)) == 10


def test_what_waits_is_found_at_once_and_the_vector_before_it_no_more(world: World) -> None:
    index, named, rng = world
    assert index.waiting == 220
    is_right(index, named, rng)
    changed(index, named, rng, 3)  # some of them while they wait
    is_right(index, named, rng)
    index.link()
    assert index.waiting == 0
    is_right(index, named, rng)


def test_linking_stops_when_time_is_up_or_few_enough_wait(world: World) -> None:
    index, named, rng = world
    index.link(keep=100)
    assert index.waiting == 100
    index.link(seconds=0.0)
    assert index.waiting == 100
    index.link(seconds=time.monotonic())
    assert index.waiting == 0
    is_right(index, named, rng)


def test_what_waits_can_be_removed_replaced_and_forgotten(world: World) -> None:
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
    assert (len(index), index.waiting) == (0, 0)


def test_an_index_of_nothing_but_waiting_vectors_answers() -> None:
    index, vectors = empty(), clustered(np.random.default_rng(1), 30)
    index.upsert_many([f"p{i}" for i in range(30)], [1] * 30, vectors, link=False)
    assert [found.ids for found in index.search(vectors, 1)] == [[f"p{i}"] for i in range(30)]
    assert len(index.search(vectors[:1], 50)[0].ids) == 30


def test_a_filter_holds_for_what_waits(world: World) -> None:
    index, named, rng = world
    passing = {}
    for number, (name, vector) in enumerate(named.items()):
        index.set_attributes(name, 1, Attributes(availability="in_stock" if number % 2 else "out_of_stock"))
        if number % 2:
            passing[name] = vector
    queries = clustered(rng, 40)
    found = index.search(queries, 5, where=Filter(in_stock=True))
    assert recall(found, [best(passing, q, 5) for q in queries]) >= 0.98
    assert all(len(set(candidates.ids)) == 5 for candidates in found)


def test_the_judge_of_recall_sees_what_waits(world: World) -> None:
    index, _, rng = world
    (query,) = clustered(rng, 1)
    assert index.agreement(query, 10) == (10, 10)


def test_compaction_and_saving_link_what_waits(world: World, tmp_path: Path) -> None:
    index, named, rng = world
    index.save(tmp_path)
    assert index.waiting == 0
    is_right(RetrievalIndex.load(tmp_path, "1", dim=DIM), named, rng)
    changed(index, named, rng, 3)
    index.compact()
    assert index.waiting == 0
    is_right(index, named, rng)


def test_a_filter_finds_what_waits_before_anything_is_in_the_graph() -> None:
    rng = np.random.default_rng(9)
    vectors = clustered(rng, 400)
    index = empty()
    ids = [f"p{i}" for i in range(400)]
    index.upsert_many(ids, [1] * 400, vectors, link=False)
    for product_id in ids:
        index.set_attributes(product_id, 1, Attributes(availability="in_stock"))
    (found,) = index.search(vectors[:1], 5, where=Filter(in_stock=True))
    assert found.ids[0] == "p0"
    assert recall([found], [best(dict(zip(ids, vectors, strict=True)), vectors[0], 5)]) >= 0.8
