"""The index: approximate against exact, changes in place for a long time, versions, threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from inference.errors import InputError
from inference.inputs import Float32Array
from inference.retrieval import Candidates, RetrievalIndex

DIM = 64


def clustered(rng: np.random.Generator, rows: int, groups: int = 40) -> Float32Array:
    """Vectors in groups, as embeddings of products are."""
    centres = np.random.default_rng(99).normal(size=(groups, DIM))
    vectors = centres[rng.integers(0, groups, rows)] + 0.7 * rng.normal(size=(rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def filled(vectors: Float32Array) -> RetrievalIndex:
    index = RetrievalIndex("1", dim=DIM)
    for row, vector in enumerate(vectors):
        assert index.upsert(f"p{row}", 1, vector)
    return index


def best(vectors: dict[str, Float32Array], query: Float32Array, k: int) -> list[str]:
    scores = {name: float(query.astype(np.float64) @ vector) for name, vector in vectors.items()}
    return sorted(scores, key=lambda name: -scores[name])[:k]


def recall(found: list[Candidates], expected: list[list[str]]) -> float:
    return float(np.mean([len(set(f.ids) & set(e)) / len(e) for f, e in zip(found, expected, strict=True)]))


def test_approximate_and_exact_search_find_the_nearest_with_their_cosines() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = clustered(rng, 800), clustered(rng, 40)
    index = filled(vectors)
    named = {f"p{i}": v for i, v in enumerate(vectors)}
    expected = [best(named, q, 10) for q in queries]
    exact, approximate = index.search(queries, exact=True), index.search(queries)
    assert recall(exact, expected) >= 0.995  # float16 may swap the tenth and the eleventh
    assert recall(approximate, expected) >= 0.98
    for query, found in zip(queries, approximate, strict=True):
        np.testing.assert_allclose(found.scores, [query @ named[i] for i in found.ids], atol=2e-3)
        assert found.scores == sorted(found.scores, reverse=True)


def test_the_length_of_queries_and_products_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    vectors, queries = clustered(rng, 100), clustered(rng, 5)
    assert [c.ids for c in filled(3 * vectors).search(7 * queries)] == [c.ids for c in filled(vectors).search(queries)]


def test_thousands_of_changes_in_place_lose_no_product_and_no_recall() -> None:
    rng = np.random.default_rng(2)
    vectors = clustered(rng, 600)
    index = filled(vectors)
    named = {f"p{i}": v for i, v in enumerate(vectors)}
    for version in range(2, 8):
        for row in rng.permutation(600):
            named[f"p{row}"] = clustered(rng, 1)[0]
            assert index.upsert(f"p{row}", version, named[f"p{row}"])
        for row in rng.choice(600, 60, replace=False):  # some leave and come back
            assert index.remove(f"p{row}", version)
            assert f"p{row}" not in index
            assert index.upsert(f"p{row}", version, named[f"p{row}"])
    assert len(index) == 600
    queries = clustered(rng, 100)
    expected = [best(named, q, 10) for q in queries]
    assert recall(index.search(queries), expected) >= 0.98
    own = index.search(np.stack(list(named.values())), 1)
    assert sum(found.ids == [name] for found, name in zip(own, named, strict=True)) >= 595
    assert sorted(index.search(queries[:1], 600, exact=True)[0].ids) == sorted(named)


def test_a_change_is_visible_to_the_next_query_and_a_removal_too() -> None:
    rng = np.random.default_rng(3)
    index = filled(clustered(rng, 200))
    moved = clustered(rng, 1)[0]
    index.upsert("p7", 2, moved)
    assert index.search(moved[None], 1)[0].ids == ["p7"]
    index.remove("p7", 3)
    assert "p7" not in index.search(moved[None], 200)[0].ids
    assert len(index) == 199


def test_fewer_products_than_asked_for_are_all_found_once() -> None:
    index = filled(clustered(np.random.default_rng(4), 30))
    for row in range(25):
        index.remove(f"p{row}", 2)
    for queries in (1, 3):
        for exact in (False, True):
            for found in index.search(clustered(np.random.default_rng(5), queries), 10, exact=exact):
                assert sorted(found.ids) == [f"p{row}" for row in range(25, 30)]
                assert len(found.scores) == 5


def test_an_empty_index_an_emptied_one_and_no_query() -> None:
    index = RetrievalIndex("1", dim=DIM)
    queries = clustered(np.random.default_rng(6), 2)
    assert index.search(queries) == [Candidates([], [])] * 2
    index.upsert("a", 1, queries[0])
    assert index.search(queries[:0]) == []
    index.remove("a", 1)
    assert index.search(queries) == [Candidates([], [])] * 2
    index.upsert("a", 1, queries[0])
    assert [c.ids for c in index.search(queries)] == [["a"], ["a"]]


def test_a_query_of_zeros_finds_nothing_wherever_it_stands() -> None:
    index = filled(clustered(np.random.default_rng(7), 20))
    queries = clustered(np.random.default_rng(8), 3)
    alone = [index.search(q[None], 3)[0].ids for q in queries]
    mixed = np.stack([queries[0], np.zeros(DIM, np.float32), queries[1], queries[2]])
    assert [c.ids for c in index.search(mixed, 3)] == [alone[0], [], alone[1], alone[2]]
    assert index.search(np.zeros((1, DIM), np.float32)) == [Candidates([], [])]


def test_an_older_version_never_replaces_a_newer_one_and_an_equal_one_does() -> None:
    first, second = clustered(np.random.default_rng(9), 2)
    index = RetrievalIndex("1", dim=DIM)
    assert index.upsert("a", 5, first)
    assert not index.upsert("a", 4, second)
    np.testing.assert_allclose(index.vectors(["a"])["a"], first, atol=1e-3)
    assert not index.remove("a", 4)
    assert "a" in index
    assert index.upsert("a", 5, second)
    np.testing.assert_allclose(index.vectors(["a"])["a"], second, atol=1e-3)


def test_a_removal_is_remembered_even_for_a_product_never_seen() -> None:
    vector = clustered(np.random.default_rng(10), 1)[0]
    index = RetrievalIndex("1", dim=DIM)
    assert index.remove("a", 5)
    assert not index.upsert("a", 4, vector)
    assert "a" not in index
    assert index.remove("a", 6)
    assert index.upsert("a", 6, vector)
    assert index.remove("a", 6)
    assert len(index) == 0


def test_stored_vectors_are_given_for_what_is_held() -> None:
    vectors = clustered(np.random.default_rng(11), 3)
    index = filled(2 * vectors)
    index.remove("p1", 2)
    held = index.vectors(["p2", "p1", "nobody", "p0", "p2"])
    assert list(held) == ["p2", "p0"]
    np.testing.assert_allclose(held["p2"], vectors[2], atol=1e-3)
    assert held["p2"].dtype == np.float32


@pytest.mark.parametrize(
    "vector",
    [np.zeros(DIM), np.full(DIM, np.nan), np.full(DIM, np.inf), np.ones(DIM - 1), np.ones((1, DIM))],
)
def test_a_vector_that_cannot_be_placed_is_refused_and_the_old_one_stays(vector: np.ndarray) -> None:
    index = filled(clustered(np.random.default_rng(12), 2))
    before = index.vectors(["p1"])["p1"]
    with pytest.raises(InputError, match="the vector of product 'p1' must be 64 finite numbers"):
        index.upsert("p1", 9, vector.astype(np.float32))
    np.testing.assert_array_equal(index.vectors(["p1"])["p1"], before)
    assert index.upsert("p1", 2, before), "the refused version has left no mark"


@pytest.mark.parametrize(
    "queries", [np.ones((1, DIM + 1)), np.ones(DIM), np.full((2, DIM), np.nan), np.full((1, DIM), np.inf)]
)
def test_queries_that_are_no_queries_are_refused(queries: np.ndarray) -> None:
    with pytest.raises(InputError, match="queries must be finite numbers"):
        filled(clustered(np.random.default_rng(13), 2)).search(queries.astype(np.float32))


def test_k_is_at_least_one() -> None:
    with pytest.raises(InputError, match=r"k \(0\) must be at least 1"):
        RetrievalIndex("1", dim=DIM).search(np.ones((1, DIM), np.float32), 0)


def test_searches_and_changes_from_several_threads_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(14)
    vectors = clustered(rng, 400)
    index = filled(vectors[:200])
    failures: list[BaseException] = []
    done = threading.Event()

    def write(first: int) -> None:
        try:
            for version in range(2, 6):
                for row in range(first, 400, 2):
                    index.upsert(f"p{row}", version, vectors[row])
                    if row % 10 == first:
                        index.remove(f"p{row}", version)
        except BaseException as error:
            failures.append(error)

    def read(seed: int) -> None:
        own = clustered(np.random.default_rng(seed), 4)
        try:
            while not done.is_set():
                for found in index.search(own, 10):
                    assert len(found.ids) == len(set(found.ids)) == 10
                index.vectors(["p1", "p399"])
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in (1, 2)]
    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert failures == []
    gone = {row for row in range(400) if row % 10 in (0, 1)}
    assert {row for row in range(400) if f"p{row}" not in index} == gone
    named = {f"p{row}": vectors[row] for row in range(400) if row not in gone}
    queries = clustered(rng, 50)
    assert recall(index.search(queries), [best(named, q, 10) for q in queries]) >= 0.98
