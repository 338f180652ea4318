"""The index in memory: what it finds one by one and by its graph, and how it follows a store that changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from feature_repo.errors import StoreBusyError
from feature_repo.stores import vector_index
from feature_repo.stores.vector_index import OLD_S, VectorIndex

DIM = 16


class Rows:
    """A store's live rows; counts how often its versions were read."""

    def __init__(self, number: int = 0) -> None:
        self.rows: dict[bytes, tuple[int, NDArray[np.float32]]] = {}
        self.now = 0.0
        self.looks = 0
        self.takes_s = 0.0
        for n in range(number):
            self.put(f"p{n}", vector(n))

    def put(self, name: str, vector: NDArray[np.float32]) -> None:
        key = name.encode()
        self.rows[key] = (self.rows[key][0] + 1 if key in self.rows else 1), vector

    def remove(self, name: str) -> None:
        del self.rows[name.encode()]

    def versions(self) -> Iterator[tuple[bytes, int]]:
        self.looks += 1
        self.now += self.takes_s
        return ((key, version) for key, (version, _) in self.rows.items())

    def vectors(self, keys: Sequence[bytes] | None) -> Iterator[tuple[bytes, int, NDArray[np.float32]]]:
        return ((key, *self.rows[key]) for key in (self.rows if keys is None else keys) if key in self.rows)

    def index(self, metric: str = "cosine") -> VectorIndex:
        return VectorIndex(DIM, metric, self.versions, self.vectors, lambda: self.now, lambda work: work())


def vector(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


def found(index: VectorIndex, query: NDArray[np.float32], count: int) -> list[str]:
    return [key.decode() for key in index.nearest(query, count)]


@pytest.fixture
def small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "GRAPH_FROM", 200)


@pytest.mark.parametrize(
    ("metric", "distance"),
    [
        ("cosine", lambda rows, q: 1 - rows @ q / np.linalg.norm(rows, axis=1) / np.linalg.norm(q)),
        ("l2", lambda rows, q: np.linalg.norm(rows - q, axis=1)),
        ("inner_product", lambda rows, q: -(rows @ q)),
    ],
)
def test_few_rows_are_found_exactly_by_every_metric(metric: str, distance: Any) -> None:
    store = Rows(100)
    matrix = np.stack([row for _, row in store.rows.values()])
    nearest = np.argsort(distance(matrix, vector(999)))[:5]
    assert found(store.index(metric), vector(999), 5) == [f"p{n}" for n in nearest]


def test_an_empty_store_and_too_many_wanted_rows_are_no_trouble() -> None:
    assert found(Rows().index(), vector(1), 5) == []
    assert sorted(found(Rows(3).index(), vector(1), 50)) == ["p0", "p1", "p2"]


def test_lengths_beyond_half_precision_do_not_matter() -> None:
    store = Rows()
    store.put("long", vector(1) * np.float32(1e8))
    store.put("other", vector(2))
    assert found(store.index(), vector(1), 1) == ["long"]
    assert found(store.index("l2"), vector(1) * np.float32(1e8), 1) == ["long"]


def test_what_changed_in_the_store_is_found_where_it_is_now() -> None:
    store = Rows(20)
    index = store.index()
    assert found(index, vector(3), 1) == ["p3"]
    store.put("p3", vector(100))
    store.put("new", vector(101))
    store.remove("p4")
    index.follow()
    assert found(index, vector(100), 1) == ["p3"]
    assert found(index, vector(101), 1) == ["new"]
    assert "p4" not in found(index, vector(4), 20)
    assert len(index) == 20


def test_a_place_that_is_free_is_used_again() -> None:
    store = Rows(2000)
    index = store.index()
    index.nearest(vector(0), 1)
    for n in range(1500):
        store.remove(f"p{n}")
    index.follow()
    assert len(found(index, vector(0), 500)) == 500, "free places are no answer"
    for n in range(1500):
        store.put(f"q{n}", vector(5000 + n))
    index.follow()
    assert found(index, vector(5007), 1) == ["q7"]
    assert len(index._keys) == 2000


def test_following_takes_a_twentieth_of_the_time_however_often_it_is_searched() -> None:
    store = Rows(20)
    store.takes_s = 0.5
    index = store.index()
    index.nearest(vector(0), 1)
    for _ in range(1000):
        store.now += 0.1
        index.nearest(vector(0), 1)
    assert 0.04 <= store.looks * store.takes_s / store.now <= 0.05


@pytest.mark.parametrize("waits", [True, False])
def test_what_others_wrote_is_found_a_minute_later_at_the_latest(waits: bool) -> None:
    """A search that comes late waits for the look at the store; one that comes sooner is answered meanwhile."""
    store, later = Rows(20), []
    index = VectorIndex(DIM, "cosine", store.versions, store.vectors, lambda: store.now, later.append)
    store.takes_s = 1.0
    index.nearest(vector(0), 1)
    store.put("late", vector(500))
    store.now += OLD_S if waits else OLD_S - 1
    assert (found(index, vector(500), 1) == ["late"]) is waits
    assert len(later) == (0 if waits else 1)
    for work in later:
        work()
    assert found(index, vector(500), 1) == ["late"]


def test_what_this_process_wrote_is_found_at_once_without_a_look_at_all_the_store() -> None:
    store = Rows(20)
    index = store.index()
    index.nearest(vector(0), 1)
    store.now = -1.0  # nothing is due
    store.put("p3", vector(100))
    store.put("new", vector(101))
    store.remove("p4")
    index.written([b"p3", b"new", b"p4", b"never was"])
    assert found(index, vector(100), 1) == ["p3"]
    assert found(index, vector(101), 1) == ["new"]
    assert "p4" not in found(index, vector(4), 20)
    assert store.looks == 0


def test_a_store_that_cannot_be_looked_at_is_told_to_those_who_wait_for_it_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Rows(3)
    index = store.index()
    index.nearest(vector(0), 1)

    def locked() -> Iterator[tuple[bytes, int]]:
        raise StoreBusyError("locked")

    index._versions = locked
    store.now += 1
    assert found(index, vector(1), 1) == ["p1"]
    assert "goes on with what it knows: locked" in caplog.text
    store.now += OLD_S
    with pytest.raises(StoreBusyError):
        index.nearest(vector(1), 1)


@pytest.mark.usefixtures("small_graphs")
def test_a_graph_takes_over_when_it_is_built_and_finds_the_same() -> None:
    store, later = Rows(1500), []
    index = VectorIndex(DIM, "cosine", store.versions, store.vectors, lambda: store.now, later.append)
    exact = [found(index, vector(9000 + n), 10) for n in range(50)]
    assert not index.has_graph
    for work in later:
        work()
    assert index.has_graph
    walked = [found(index, vector(9000 + n), 10) for n in range(50)]
    agreed = sum(len(set(a) & set(b)) for a, b in zip(exact, walked, strict=True))
    assert agreed >= 0.98 * 500


@pytest.mark.usefixtures("small_graphs")
def test_what_changes_while_the_graph_is_built_is_in_it() -> None:
    store, later = Rows(300), []
    index = VectorIndex(DIM, "cosine", store.versions, store.vectors, lambda: store.now, later.append)
    index.nearest(vector(0), 1)
    store.put("p7", vector(1007))
    store.put("late", vector(1008))
    store.remove("p9")
    index.follow()
    assert len(later) == 1
    assert not index.has_graph
    later.pop()()
    assert index.has_graph
    assert found(index, vector(1007), 1) == ["p7"]
    assert found(index, vector(1008), 1) == ["late"]
    assert "p9" not in found(index, vector(9), 50)


@pytest.mark.usefixtures("small_graphs")
def test_a_graph_follows_changes_and_is_built_anew_when_it_is_worn() -> None:
    store = Rows(300)
    index = store.index()
    index.nearest(vector(0), 1)
    first = index._graph
    for n in range(100):
        store.put(f"p{n}", vector(2000 + n))
    index.follow()
    assert found(index, vector(2042), 1) == ["p42"]
    assert index._graph is first
    for n in range(100):
        store.put(f"p{n}", vector(3000 + n))
    index.follow()
    assert index.has_graph
    assert index._graph is not first
    assert found(index, vector(3042), 1) == ["p42"]


def test_searches_from_threads_go_on_while_the_real_threads_build_and_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "GRAPH_FROM", 200)
    store, errors = Rows(1000), []
    index = VectorIndex(DIM, "cosine", store.versions, store.vectors)
    deadline = time.monotonic() + 60

    def search() -> None:
        try:
            while not index.has_graph and time.monotonic() < deadline:
                assert found(index, vector(5), 1) == ["p5"]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not errors
    assert index.has_graph


def test_an_index_knows_that_it_came_over_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Rows(3).index()
    assert not index.inherited
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert index.inherited
