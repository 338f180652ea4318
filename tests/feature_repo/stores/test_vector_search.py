"""Vector search: through Feast's own API on the real SQLite store, and the matrix that follows a changing store."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from feature_repo.errors import InvalidFeatureError, StoreBusyError
from feature_repo.rows import Deletion
from feature_repo.store import ProductFeatureStore
from feature_repo.stores.vector_search import MAX_AGE_S, VectorMatrix, Vectors, run_in_thread
from tests.feature_repo.builders import NOON, make_embedding
from tests.waiting import wait_until

VIEW = "product_embedding_m1"


@pytest.fixture
def store(open_store: Callable[[], Any]) -> Any:
    store = open_store()
    store.ensure_model_version("m1")
    return store


def search(store: ProductFeatureStore, query: Any, top_k: int, features: Sequence[str] = ("content_hash",)) -> Any:
    names = [f"{VIEW}:{name}" for name in features]
    return store.feast.retrieve_online_documents_v2(features=names, query=query.tolist(), top_k=top_k).to_dict()


def nearest(store: ProductFeatureStore, query: Any, top_k: int = 1) -> list[str]:
    results = search(store, query, top_k)
    pairs = sorted(zip(results["distance"], results["product_id"], strict=True)) if results.get("product_id") else []
    return [id for _, id in pairs]


def test_every_row_comes_with_its_own_features_and_its_exact_distance(store: ProductFeatureStore) -> None:
    rows = {f"p{n}": make_embedding(f"p{n}") for n in range(200)}
    store.write_embeddings("m1", list(rows.values()))
    query = make_embedding("query").vector
    results = search(store, query, 50, ("vector", "content_hash", "version"))
    distances = {id: 1 - float(row.vector @ query) for id, row in rows.items()}
    assert sorted(results["product_id"]) == sorted(sorted(distances, key=lambda id: distances[id])[:50])
    for at, id in enumerate(results["product_id"]):
        assert results["content_hash"][at] == rows[id].content_hash
        assert np.array_equal(np.array(results["vector"][at], np.float32), rows[id].vector)
        assert results["version"][at] == 1
        assert results["distance"][at] == pytest.approx(distances[id], abs=1e-6)


def test_the_next_search_finds_the_writes_of_this_process(store: ProductFeatureStore) -> None:
    store.write_embeddings("m1", [make_embedding(f"p{n}") for n in range(20)])
    late = make_embedding("late", 1)
    assert nearest(store, late.vector) != ["late"]
    store.write_embeddings("m1", [late])
    assert nearest(store, late.vector) == ["late"]
    moved = make_embedding("late", 2)
    store.write_embeddings("m1", [moved])
    assert nearest(store, moved.vector) == ["late"]


def test_a_product_that_another_process_deleted_is_not_found_although_the_matrix_has_it(
    store: ProductFeatureStore, open_store: Callable[[], Any]
) -> None:
    rows = [make_embedding(f"p{n}") for n in range(100)]
    store.write_embeddings("m1", rows)
    query = rows[0].vector
    assert nearest(store, query) == ["p0"]
    gone = [Deletion(id=f"p{n}", version=2, event_time=NOON) for n in range(95)]
    open_store().delete(gone)
    assert len(matrix_of(store)) == 100
    assert sorted(nearest(store, query, 5)) == ["p95", "p96", "p97", "p98", "p99"]


def test_a_product_that_another_process_wrote_is_found_after_the_next_comparison(
    store: ProductFeatureStore, open_store: Callable[[], Any]
) -> None:
    store.write_embeddings("m1", [make_embedding(f"p{n}") for n in range(20)])
    late = make_embedding("late")
    assert nearest(store, late.vector) != ["late"]
    open_store().write_embeddings("m1", [late])
    matrix_of(store).follow()
    assert nearest(store, late.vector) == ["late"]


def test_a_search_of_an_empty_view_has_no_results(store: ProductFeatureStore) -> None:
    assert nearest(store, make_embedding().vector, 3) == []


def test_a_search_for_more_rows_than_the_view_has_returns_all_rows(store: ProductFeatureStore) -> None:
    store.write_embeddings("m1", [make_embedding(id) for id in "ab"])
    assert sorted(nearest(store, make_embedding().vector, 1000)) == ["a", "b"]


@pytest.mark.parametrize(
    ("query", "top_k", "says"),
    [
        (np.zeros(255), 1, "must be 256 finite numbers"),
        (np.full(256, np.inf), 1, "must be 256 finite numbers"),
        (np.zeros(256), 0, "ask for at least one row"),
    ],
)
def test_bad_searches_are_refused(store: ProductFeatureStore, query: Any, top_k: int, says: str) -> None:
    with pytest.raises(InvalidFeatureError, match=says):
        search(store, query, top_k)


def test_a_view_without_a_vector_is_named(store: ProductFeatureStore) -> None:
    with pytest.raises(InvalidFeatureError, match="View product_text has no vector"):
        store.feast.retrieve_online_documents_v2(features=["product_text:title"], query=[1.0], top_k=1)


def matrix_of(store: ProductFeatureStore) -> VectorMatrix:
    view = store.view(VIEW)
    field = next(field for field in view.features if field.vector_index)
    return store.online.vector_search.matrix(store.config, view, field)


# The matrix.

DIM = 16


class Rows:
    """The live rows of a store; counts how often its versions were read."""

    def __init__(self, number: int = 0) -> None:
        self.rows: dict[bytes, tuple[int, Vectors]] = {}
        self.now = 0.0
        self.comparisons = 0
        self.takes_s = 0.0
        self.error: Exception | None = None
        for n in range(number):
            self.put(f"p{n}", vector(n))

    def put(self, name: str, vector: Vectors) -> None:
        key = name.encode()
        self.rows[key] = (self.rows[key][0] + 1 if key in self.rows else 1), vector

    def remove(self, name: str) -> None:
        del self.rows[name.encode()]

    def versions(self) -> Iterator[tuple[bytes, int]]:
        if self.error:
            raise self.error
        self.comparisons += 1
        self.now += self.takes_s
        return ((key, version) for key, (version, _) in self.rows.items())

    def vectors(self, keys: Sequence[bytes] | None) -> Iterator[tuple[bytes, int, Vectors]]:
        return ((key, *self.rows[key]) for key in (self.rows if keys is None else keys) if key in self.rows)

    def matrix(self, background: Callable[[Callable[[], None]], None] = lambda work: work()) -> VectorMatrix:
        return VectorMatrix(DIM, self.versions, self.vectors, lambda: self.now, background)


def vector(seed: int) -> Vectors:
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


def names(matrix: VectorMatrix, query: Vectors, count: int, metric: str = "cosine") -> list[str]:
    return [key.decode() for key in matrix.nearest(query, count, metric)]


@pytest.mark.parametrize(
    ("metric", "distance"),
    [
        ("cosine", lambda rows, q: 1 - rows @ q / np.linalg.norm(rows, axis=1) / np.linalg.norm(q)),
        ("l2", lambda rows, q: np.linalg.norm(rows - q, axis=1)),
        ("inner_product", lambda rows, q: -(rows @ q)),
    ],
)
@pytest.mark.parametrize("number", [100, 10_000])
def test_the_nearest_vectors_are_exact_by_every_metric(metric: str, distance: Any, number: int) -> None:
    store = Rows(number)
    rows = np.stack([row for _, row in store.rows.values()])
    nearest = np.argsort(distance(rows, vector(99_999)))[:5]
    assert names(store.matrix(), vector(99_999), 5, metric) == [f"p{n}" for n in nearest]


def test_a_search_beyond_the_number_of_rows_returns_all_rows() -> None:
    assert names(Rows().matrix(), vector(1), 5) == []
    assert sorted(names(Rows(3).matrix(), vector(1), 50)) == ["p0", "p1", "p2"]


def test_long_vectors_are_compared_like_short_ones() -> None:
    store = Rows()
    store.put("long", vector(1) * np.float32(1e8))
    store.put("other", vector(2))
    assert names(store.matrix(), vector(1), 1) == ["long"]
    assert names(store.matrix(), vector(1) * np.float32(1e8), 1, "l2") == ["long"]


def test_a_changed_vector_is_found_at_its_new_position() -> None:
    store = Rows(20)
    matrix = store.matrix()
    assert names(matrix, vector(3), 1) == ["p3"]
    store.put("p3", vector(100))
    store.put("new", vector(101))
    store.remove("p4")
    matrix.follow()
    assert names(matrix, vector(100), 1) == ["p3"]
    assert names(matrix, vector(101), 1) == ["new"]
    assert "p4" not in names(matrix, vector(4), 20)
    assert len(matrix) == 20


def test_the_memory_of_removed_vectors_is_used_again() -> None:
    store = Rows(2000)
    matrix = store.matrix()
    matrix.nearest(vector(0), 1)
    capacity = matrix.capacity
    for n in range(1500):
        store.remove(f"p{n}")
    matrix.follow()
    assert sorted(names(matrix, vector(0), 1000)) == [f"p{n}" for n in range(1500, 2000)]
    for n in range(1500):
        store.put(f"q{n}", vector(5000 + n))
    matrix.follow()
    assert names(matrix, vector(5007), 1) == ["q7"]
    assert names(matrix, vector(1777), 1) == ["p1777"]
    assert (len(matrix), matrix.capacity) == (2000, capacity)


def test_following_takes_a_twentieth_of_the_time_however_often_it_is_searched() -> None:
    store = Rows(20)
    store.takes_s = 0.5
    matrix = store.matrix()
    matrix.nearest(vector(0), 1)
    for _ in range(1000):
        store.now += 0.1
        matrix.nearest(vector(0), 1)
    assert 0.04 <= store.comparisons * store.takes_s / store.now <= 0.05


@pytest.mark.parametrize("waits", [True, False])
def test_writes_of_other_processes_are_found_within_a_minute(waits: bool) -> None:
    """A search that comes late waits for the comparison; one that comes sooner does not."""
    store, later = Rows(20), list[Callable[[], None]]()
    matrix = store.matrix(later.append)
    store.takes_s = 1.0
    matrix.nearest(vector(0), 1)
    store.put("late", vector(500))
    store.now += MAX_AGE_S if waits else MAX_AGE_S - 1
    assert (names(matrix, vector(500), 1) == ["late"]) is waits
    assert len(later) == (0 if waits else 1)
    for work in later:
        work()
    assert names(matrix, vector(500), 1) == ["late"]


def test_writes_of_this_process_are_found_at_once_without_a_comparison() -> None:
    store = Rows(20)
    matrix = store.matrix()
    matrix.nearest(vector(0), 1)
    store.now = -1.0  # no comparison is due
    store.put("p3", vector(100))
    store.put("new", vector(101))
    store.remove("p4")
    matrix.written([b"p3", b"new", b"p4", b"never was"])
    assert names(matrix, vector(100), 1) == ["p3"]
    assert names(matrix, vector(101), 1) == ["new"]
    assert "p4" not in names(matrix, vector(4), 20)
    assert store.comparisons == 0


def test_a_failed_comparison_is_an_error_for_those_who_wait_for_it_only(caplog: pytest.LogCaptureFixture) -> None:
    store = Rows(3)
    matrix = store.matrix()
    matrix.nearest(vector(0), 1)
    store.error = StoreBusyError("locked")
    store.now += 1
    assert names(matrix, vector(1), 1) == ["p1"]
    assert "continues with its last known vectors: locked" in caplog.text
    store.now += MAX_AGE_S
    with pytest.raises(StoreBusyError):
        matrix.nearest(vector(1), 1)


def test_searches_go_on_while_a_real_thread_follows_the_store() -> None:
    """The background comparison hangs until the searches are done; none of them waits for it."""
    store, released = Rows(100), threading.Event()

    def run_when_released(work: Callable[[], None]) -> None:
        run_in_thread(lambda: (released.wait(30), work())[1])

    matrix = store.matrix(run_when_released)
    matrix.nearest(vector(0), 1)
    store.now += 1
    store.put("late", vector(500))
    assert [names(matrix, vector(n), 1) for n in range(20)] == [[f"p{n}"] for n in range(20)]
    released.set()
    wait_until(lambda: len(matrix) == 101, "the new row in the matrix")
    assert names(matrix, vector(500), 1) == ["late"]


def test_threads_search_while_a_real_thread_follows_the_store() -> None:
    store, errors = Rows(1000), list[BaseException]()
    matrix = VectorMatrix(DIM, store.versions, store.vectors, lambda: next(seconds))
    seconds = itertools.count()  # a comparison is due at every search

    def search_and_write(thread: int) -> None:
        try:
            for n in range(100):
                store.put(f"p{thread}", vector(1000 * (thread + 1) + n))
                matrix.written([f"p{thread}".encode()])
                assert names(matrix, vector(1000 * (thread + 1) + n), 1) == [f"p{thread}"]
                assert names(matrix, vector(500 + n), 1) == [f"p{500 + n}"]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search_and_write, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not errors
    assert store.comparisons > 0


def test_a_matrix_detects_that_a_fork_copied_it(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = Rows(3).matrix()
    assert not matrix.inherited
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert matrix.inherited
