"""The index: approximate against exact search, changes in place and in bulk, versions, threads, compaction."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from inference.arrays import Float32Array
from inference.errors import InputError
from inference.retrieval import Attributes, Candidates, Filter, RetrievalIndex
from tests.inference.retrieval.vectors import DIM, best, clustered, empty, filled, recall, unit
from tests.waiting import wait_until


def test_approximate_and_exact_search_find_the_nearest_with_their_cosines() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = clustered(rng, 800), clustered(rng, 40)
    index = filled(vectors)
    named = {f"p{i}": v for i, v in enumerate(vectors)}
    expected = [best(named, q, 10) for q in queries]
    exact, approximate = index.search(queries, exact=True), index.search(queries)
    assert recall(exact, expected) >= 0.995  # float16 may swap the tenth and the eleventh
    assert recall(approximate, expected) >= 0.98
    for query, result in zip(queries, approximate, strict=True):
        np.testing.assert_allclose(result.scores, [query @ named[i] for i in result.ids], atol=2e-3)
        assert result.scores == sorted(result.scores, reverse=True)


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
    assert sum(result.ids == [name] for result, name in zip(own, named, strict=True)) >= 595
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


def test_an_index_with_fewer_than_k_products_returns_each_once() -> None:
    index = filled(clustered(np.random.default_rng(4), 30))
    for row in range(25):
        index.remove(f"p{row}", 2)
    for queries in (1, 3):
        for exact in (False, True):
            for result in index.search(clustered(np.random.default_rng(5), queries), 10, exact=exact):
                assert sorted(result.ids) == [f"p{row}" for row in range(25, 30)]
                assert len(result.scores) == 5


def test_an_empty_index_an_emptied_one_and_no_query() -> None:
    index = empty()
    queries = clustered(np.random.default_rng(6), 2)
    assert index.search(queries) == [Candidates([], [])] * 2
    index.upsert("a", 1, queries[0])
    assert index.search(queries[:0]) == []
    index.remove("a", 1)
    assert index.search(queries) == [Candidates([], [])] * 2
    index.upsert("a", 1, queries[0])
    assert [c.ids for c in index.search(queries)] == [["a"], ["a"]]


def test_a_query_of_zeros_has_no_results_at_any_position() -> None:
    index = filled(clustered(np.random.default_rng(7), 20))
    queries = clustered(np.random.default_rng(8), 3)
    alone = [index.search(q[None], 3)[0].ids for q in queries]
    mixed = np.stack([queries[0], np.zeros(DIM, np.float32), queries[1], queries[2]])
    assert [c.ids for c in index.search(mixed, 3)] == [alone[0], [], alone[1], alone[2]]
    assert index.search(np.zeros((1, DIM), np.float32)) == [Candidates([], [])]


def test_an_older_version_never_replaces_a_newer_one_and_an_equal_one_does() -> None:
    first, second = clustered(np.random.default_rng(9), 2)
    index = empty()
    assert index.upsert("a", 5, first)
    assert not index.upsert("a", 4, second)
    np.testing.assert_allclose(index.vectors(["a"])["a"], first, atol=1e-3)
    assert not index.remove("a", 4)
    assert "a" in index
    assert index.upsert("a", 5, second)
    np.testing.assert_allclose(index.vectors(["a"])["a"], second, atol=1e-3)


def test_a_removal_is_remembered_even_for_a_product_never_seen() -> None:
    vector = clustered(np.random.default_rng(10), 1)[0]
    index = empty()
    assert index.remove("a", 5)
    assert not index.upsert("a", 4, vector)
    assert "a" not in index
    assert index.remove("a", 6)
    assert index.upsert("a", 6, vector)
    assert index.remove("a", 6)
    assert len(index) == 0


def test_stored_vectors_are_returned_for_held_products_only() -> None:
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


@pytest.mark.parametrize("length", [1e-30, 1e-6, 1e6, 1e30])
def test_the_length_of_a_query_does_not_matter(length: float) -> None:
    vectors = clustered(np.random.default_rng(4), 200)
    index = filled(vectors)
    (unit_found,), (result,) = index.search(vectors[:1]), index.search(vectors[:1] * np.float32(length))
    assert result.ids == unit_found.ids
    np.testing.assert_allclose(result.scores, unit_found.scores, atol=2e-3)
    assert index.agreement(vectors[0] * np.float32(length), 10) == (10, 10)


def test_k_is_at_least_one() -> None:
    with pytest.raises(InputError, match=r"k \(0\) must be at least 1"):
        empty().search(np.ones((1, DIM), np.float32), 0)


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
                for result in index.search(own, 10):
                    assert len(result.ids) == len(set(result.ids)) == 10
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


def test_so_few_products_that_comparing_costs_no_more_are_compared_one_by_one() -> None:
    """Vectors without any structure are the graph's hardest case; a small shop's are found all the same."""
    rng = np.random.default_rng(15)
    vectors, queries = unit(rng.normal(size=(3_000, DIM))), unit(rng.normal(size=(100, DIM)))
    index = RetrievalIndex("1", dim=DIM)
    index.upsert_many([f"p{i}" for i in range(3_000)], [1] * 3_000, vectors)
    assert index.search(queries) == index.search(queries, exact=True)


def test_a_batch_on_several_threads_is_answered_as_one_by_one() -> None:
    rng = np.random.default_rng(16)
    index, queries = filled(clustered(rng, 500)), clustered(rng, 60)
    alone = [index.search(query[None], 5)[0] for query in queries]
    for threads in (0, 1, 3):
        assert index.search(queries, 5, threads=threads) == alone


def test_products_in_bulk_are_held_like_products_one_by_one() -> None:
    rng = np.random.default_rng(17)
    vectors, queries = clustered(rng, 1_500), clustered(rng, 50)
    one_by_one, bulk = filled(vectors), empty()
    assert all(bulk.upsert_many([f"p{i}" for i in range(1_500)], [1] * 1_500, vectors, threads=2))
    assert len(bulk) == 1_500
    expected = one_by_one.search(queries, exact=True)
    assert bulk.search(queries, exact=True) == expected
    assert recall(bulk.search(queries), [e.ids for e in expected]) >= 0.98


def test_in_bulk_the_highest_version_counts_and_the_last_of_equals() -> None:
    a, b, c, d = clustered(np.random.default_rng(18), 4)
    index = empty()
    index.upsert("old", 5, a)
    index.remove("gone", 5)
    ids, versions = ["x", "x", "x", "old", "gone", "y"], [2, 3, 3, 4, 4, 1]
    taken = index.upsert_many(ids, versions, np.stack([a, b, c, d, d, d]))
    assert taken == [False, False, True, False, False, True]
    held = index.vectors(["x", "old", "gone", "y"])
    assert list(held) == ["x", "old", "y"]
    for name, vector in (("x", c), ("old", a), ("y", d)):
        np.testing.assert_allclose(held[name], vector, atol=1e-3)
    assert index.upsert_many([], [], np.zeros((0, DIM), np.float32)) == []


def test_a_bad_vector_in_bulk_is_named_and_nothing_of_the_batch_is_added() -> None:
    vectors = clustered(np.random.default_rng(19), 700)
    vectors[650, 3] = np.nan
    index = empty()
    with pytest.raises(InputError, match="the vector of product 'p650' must be 64 finite numbers"):
        index.upsert_many([f"p{i}" for i in range(700)], [1] * 700, vectors)
    assert len(index) == 0
    with pytest.raises(InputError, match="2 products need as many versions, and vectors"):
        index.upsert_many(["a", "b"], [1], vectors[:2])
    with pytest.raises(InputError, match=r"product 'b' must be 64 finite numbers, not all zero; has shape \(3,\)"):
        index.extend([("a", 1, vectors[0]), ("b", 1, vectors[0, :3])])


def test_a_lost_index_is_rebuilt_from_a_scan() -> None:
    vectors = clustered(np.random.default_rng(20), 230)
    scan = ((f"p{i}", i + 1, vector) for i, vector in enumerate(vectors))
    index = empty()
    assert index.extend(scan, batch=100) == 230
    # By exact search: which products are there is the claim; the graph, built by several threads, may miss one.
    assert [result.ids for result in index.search(vectors, 1, exact=True)] == [[f"p{i}"] for i in range(230)]
    assert not index.upsert("p9", 9, vectors[0]), "versions came along"


def test_vectors_of_another_model_are_refused() -> None:
    vector = clustered(np.random.default_rng(21), 1)[0]
    index = empty("itemsage-3")
    assert index.upsert("a", 1, vector, model_version="itemsage-3")
    refusal = "'itemsage-4' cannot be added to the index of version 'itemsage-3'"
    with pytest.raises(InputError, match=refusal):
        index.upsert("a", 2, vector, model_version="itemsage-4")
    with pytest.raises(InputError, match=refusal):
        index.upsert_many(["a"], [2], vector[None], model_version="itemsage-4")
    with pytest.raises(InputError, match=refusal):
        index.extend([("a", 2, vector)], model_version="itemsage-4")
    assert index.upsert("a", 1, vector), "the refused version has left no mark"


def test_the_same_vector_again_does_not_wear_the_graph() -> None:
    vectors = clustered(np.random.default_rng(22), 100)
    index = filled(vectors)
    for version in (2, 3):
        for row, vector in enumerate(vectors):
            assert index.upsert(f"p{row}", version, 2 * vector)
    assert index.wear == 0
    assert not index.upsert("p5", 2, vectors[6]), "the newer version counts although the vector stayed"
    index.upsert("p5", 4, vectors[6])
    index.remove("p6", 4)
    assert index.wear == 2 / 99


def test_compaction_brings_a_worn_graph_back() -> None:
    rng = np.random.default_rng(23)
    hard = unit(rng.normal(size=(1_500, DIM)))
    index = filled(hard)
    ids = [f"p{i}" for i in range(1_500)]
    for version in range(2, 5):
        index.upsert_many(ids, [version] * 1_500, unit(rng.normal(size=(1_500, DIM))))
    for row in range(0, 1_500, 3):
        index.remove(f"p{row}", 9)
    queries = unit(rng.normal(size=(100, DIM)))
    expected = index.search(queries, exact=True)
    assert index.wear == (3 * 1_500 + 500) / 1_000
    index.compact(threads=1)  # several, preempted at the wrong moment, may leave a few products badly linked
    assert index.wear == 0
    assert index.search(queries, exact=True) == expected
    assert recall(index.search(queries), [e.ids for e in expected]) >= 0.98
    assert not index.upsert("p0", 8, hard[0]), "removals are remembered"


def test_changes_during_a_rebuild_are_in_the_new_graph() -> None:
    """Rows change between the steps of the rebuild, before and after they were copied."""
    rng = np.random.default_rng(24)
    vectors = clustered(rng, 2_000)
    named = {f"p{i}": v for i, v in enumerate(vectors)}
    index = filled(vectors)
    version = iter(range(2, 10_000))

    def change(linked: int) -> None:
        number = next(version)
        if number > 6:  # enough changes: the rebuild must come to an end
            return
        for row in rng.choice(2_000, 150, replace=False):
            named[f"p{row}"] = clustered(rng, 1)[0]
            index.upsert(f"p{row}", number, named[f"p{row}"])
        for row in rng.choice(2_000, 20, replace=False):
            index.remove(f"p{row}", number)
            named.pop(f"p{row}", None)
        named[f"new{number}"] = clustered(rng, 1)[0]
        index.upsert(f"new{number}", 1, named[f"new{number}"])

    index.compact(on_progress=change)
    assert next(version) > 5, "the rebuild has several steps"
    assert len(index) == len(named)
    queries = clustered(rng, 100)
    expected = [best(named, q, 10) for q in queries]
    assert recall(index.search(queries, exact=True), expected) >= 0.995
    assert recall(index.search(queries), expected) >= 0.98
    assert not index.compacting


def test_agreement_counts_how_many_of_the_nearest_the_graph_finds() -> None:
    vectors = clustered(np.random.default_rng(25), 300)
    index = filled(vectors)
    assert index.agreement(vectors[0], 10) == (10, 10)
    for row in range(20):
        index.set_attributes(f"p{row}", 1, Attributes(availability="in_stock"))
    assert index.agreement(vectors[0], 50, Filter(in_stock=True)) == (20, 20)
    assert empty().agreement(vectors[0], 10) == (0, 0)

    class Forgetful(RetrievalIndex):
        def search(self, queries: Float32Array, k: int = 10, *, exact: bool = False, **rest: Any) -> list[Candidates]:
            result = super().search(queries, k, exact=True, **rest)
            return result if exact else [Candidates(c.ids[1::2], c.scores[1::2]) for c in result]

    forgetful = Forgetful("1", dim=DIM)
    forgetful.upsert_many([f"p{i}" for i in range(300)], [1] * 300, vectors)
    assert forgetful.agreement(vectors[0], 20) == (10, 20)


def test_unaligned_and_read_only_vectors_are_accepted() -> None:
    """Vectors from a feature store are neither aligned nor writable."""
    raw = b"\x00" + np.eye(4, dtype="<f4").tobytes()
    vectors = np.frombuffer(raw, "<f4", offset=1).reshape(4, 4)
    assert not vectors.flags.aligned
    few, many = RetrievalIndex("1", dim=4), RetrievalIndex("1", dim=4)  # exact search, and the graph
    others = -np.abs(np.random.default_rng(1).normal(size=(9_000, 4))).astype(np.float32)
    many.upsert_many([f"p{i}" for i in range(9_000)], [1] * 9_000, others)
    for index in (few, many):
        assert index.upsert("odd", 2, vectors[0])
        assert index.search(vectors[:1], 1)[0].ids == ["odd"]


def test_rows_of_forgotten_products_are_reused_and_the_last_removed_are_remembered() -> None:
    vectors = clustered(np.random.default_rng(26), 200)
    index = filled(vectors[:100])
    for row in range(60):
        index.remove(f"p{row}", 5)
    index.upsert("p0", 6, vectors[0])
    index.set_attributes("p1", 1, Attributes(availability="in_stock"))
    assert index.forget_removed(keep=10) == 60 - 10 - 2, "not what came back, nor what is still in the catalogue"
    assert index.upsert("p30", 4, vectors[30]), "forgotten: taken as new"
    assert not index.upsert("p59", 4, vectors[59]), "removed last"
    assert not index.upsert("p1", 4, vectors[1]), "still in the catalogue"
    rows = index.row_count
    for row in range(100, 140):
        index.upsert(f"p{row}", 1, vectors[row])
    assert index.row_count == rows
    named = {f"p{row}": vectors[row] for row in (0, 30, *range(60, 140))}
    queries = clustered(np.random.default_rng(27), 50)
    expected = [best(named, q, 10) for q in queries]
    assert recall(index.search(queries, exact=True), expected) >= 0.995
    assert recall(index.search(queries), expected) >= 0.98
    assert index.forget_removed(keep=10) == 0


def test_a_row_that_is_reused_during_a_rebuild_belongs_to_the_new_product() -> None:
    vectors = clustered(np.random.default_rng(28), 1_200)
    index = filled(vectors[:600])
    step = iter(range(100))

    def change(linked: int) -> None:
        if next(step) == 0:
            for row in range(50):
                index.remove(f"p{row}", 2)
            index.forget_removed(keep=0)
            for row in range(600, 650):
                index.upsert(f"p{row}", 1, vectors[row])

    index.compact(on_progress=change)
    assert len(index) == 600
    assert [c.ids[0] for c in index.search(vectors[600:650], 1)] == [f"p{row}" for row in range(600, 650)]
    assert not any({"p0", "p49"} & set(c.ids) for c in index.search(vectors[:50], 10))


def test_a_cleared_index_is_as_new() -> None:
    vectors = clustered(np.random.default_rng(29), 50)
    index = filled(vectors)
    index.remove("p3", 9)
    index.position = {"log/0": 7}
    index.clear()
    assert (len(index), index.position, index.wear) == (0, {}, 0)
    assert index.search(vectors[:1]) == [Candidates([], [])]
    assert index.upsert("p3", 1, vectors[3])


def test_searches_do_not_wait_while_changes_do() -> None:
    """This is the case while the index is saved and while its recall is measured."""
    vectors = clustered(np.random.default_rng(30), 300)
    index = filled(vectors)
    changed = threading.Event()

    def change() -> None:
        index.upsert("new", 1, vectors[0])
        changed.set()

    with index.changes_paused():
        writer = threading.Thread(target=change)
        writer.start()
        results: list[list[Candidates]] = []
        reader = threading.Thread(target=lambda: results.append(index.search(vectors[:1], 1, where=Filter())))
        reader.start()
        reader.join(10)
        assert [c.ids for c in results[0]] == [["p0"]]
        assert not changed.is_set()
    writer.join(10)
    assert changed.is_set()


def test_a_search_waits_for_one_step_of_a_writer_and_not_for_all_of_them() -> None:
    """A search that waited for the whole write would always see 400 products; on a busy machine some attempts do."""
    vectors = clustered(np.random.default_rng(31), 400)
    assert any(products_at_a_search_during_a_write(vectors) < 400 for _ in range(10))


def products_at_a_search_during_a_write(vectors: Float32Array) -> int:
    index = filled(vectors[:100])
    sizes: list[int] = []

    def search_during_the_write() -> None:
        wait_until(lambda: len(index) >= 140, "ten of the writer's 75 steps", pause_s=0)
        index.search(vectors[:1], 1)
        sizes.append(len(index))

    searcher = threading.Thread(target=search_during_the_write)
    searcher.start()
    index.upsert_many([f"n{row}" for row in range(300)], [1] * 300, vectors[100:], threads=1)
    searcher.join(30)
    return sizes[0]
