"""An index in memory over one view's vectors, for vector search behind Feast's own API.

It names candidates only. Whoever asks reads their rows from the store, where vector, features and deletion are of one
moment, and computes the distances from those; so what the index has missed can cost a candidate, never a pairing.

* Vectors are compared one by one at first, which is exact; from `GRAPH_FROM` rows on, a graph (HNSW, from usearch) is
  built meanwhile in a thread of its own, and takes over when it is done.
* What this process writes the next search finds. What others write it finds by comparing versions with the store's, in
  a thread of its own, as often as costs a twentieth of the time; a search that comes `OLD_S` after the last look waits
  for the next. (A vector that others corrected under its old version is looked for where it was.)
* A process that searches holds about 1 kB a row of 256 dimensions, 1.7 kB with the graph, 2.2 kB while that is built.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

OLD_S: Final = 60.0
GRAPH_FROM: Final = 20_000  # rows: below, one by one takes no more than 2 ms
_SHARE_OF_TIME: Final = 0.05  # that following the store may take while it is searched
_PAUSE_S: Final = 1.0  # between two looks, however quick they are
_WEAR: Final = 0.5  # of the rows replaced since the graph was built: then it is built anew
_CHUNK: Final = 1024  # rows added to the graph between two looks at whether it is still wanted
_CONNECTIVITY: Final = 16
_EXPANSION: Final = 96  # candidates looked at, both when a row is linked and when it is looked for
_FEW: Final = 1000  # candidates: who wants more of them is served one by one

# (key, version, vector) of live rows; the vectors of one view are all of one length.
Rows = Iterable[tuple[bytes, int, NDArray[np.float32]]]


def _in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="vector-index", daemon=True).start()


class VectorIndex:
    """Candidates of one view by vector. Safe to share between threads.

    Args:
        metric: cosine, l2 or inner_product.
        versions: key and version of every live row of the store.
        vectors: the live rows of these keys that are there; of all, when None is given.
        clock: seconds.
        aside: does something while searches go on.
    """

    def __init__(
        self,
        dim: int,
        metric: str,
        versions: Callable[[], Iterable[tuple[bytes, int]]],
        vectors: Callable[[Sequence[bytes] | None], Rows],
        clock: Callable[[], float] = time.monotonic,
        aside: Callable[[Callable[[], None]], None] = _in_a_thread,
    ) -> None:
        self._metric = metric
        self._versions, self._vectors, self._clock, self._aside = versions, vectors, clock, aside
        # Half precision where lengths do not count: they might be beyond its range.
        self._dtype = np.float16 if metric == "cosine" else np.float32
        self._matrix = np.zeros((0, dim), self._dtype)
        self._keys: list[bytes | None] = []  # of each row of the matrix
        self._places: dict[bytes, tuple[int, int]] = {}  # key -> row, version
        self._free: list[int] = []
        self._graph: Any = None
        self._building: set[int] | None = None  # rows that changed since the graph that is being built was begun
        self._replaced = 0
        self._written: set[bytes] = set()  # by this process, not looked at yet
        self._filled = self._following = False
        self._looked = self._due = 0.0
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def has_graph(self) -> bool:
        return self._graph is not None

    @property
    def inherited(self) -> bool:
        """Whether this process has it from its parent: without the thread, perhaps with the lock held."""
        return self._pid != os.getpid()

    def written(self, keys: Iterable[bytes]) -> None:
        """This process wrote rows of these keys: the next search looks at them first."""
        with self._lock:
            self._written.update(keys)

    def nearest(self, query: NDArray[np.float32], count: int) -> list[bytes]:
        """Keys of the `count` rows nearest to `query` [dim], nearest first."""
        with self._lock:
            self._fill()
            if now_due := self._clock() >= self._due and not self._following:
                self._following = True
            waits = self._clock() - self._looked >= OLD_S
        if now_due and waits:
            self.follow()
        elif now_due:
            self._aside(self._follow_aside)
        with self._lock:
            self._take_written()
            places = self._walk(query, count) if self._graph and count <= _FEW else self._compare(query, count)
            return [key for key in (self._keys[place] for place in places) if key is not None][:count]

    # Looking.

    def _walk(self, query: NDArray[np.float32], count: int) -> Any:
        return self._graph.search(query.astype(self._dtype), count).keys.tolist()

    def _compare(self, query: NDArray[np.float32], count: int) -> Any:
        from usearch.index import search

        rows = self._matrix[: len(self._keys)]
        if not self._places:
            return []
        some = min(count + len(self._free), len(rows))  # rows that are free are found, too
        found = search(rows, query.astype(self._dtype)[None], some, self._kind(), exact=True, threads=1)
        return np.ravel(found.keys).tolist()

    def _kind(self) -> Any:
        from usearch.compiled import MetricKind

        return {"cosine": MetricKind.Cos, "l2": MetricKind.L2sq, "inner_product": MetricKind.IP}[self._metric]

    # Following the store.

    def _fill(self) -> None:
        if not self._filled:
            started = self._clock()
            self._written.clear()
            self._put(self._vectors(None))
            self._filled = True
            self._rest(started)

    def follow(self) -> None:
        """Compare with the store, and take over what is new, changed or gone. Searches wait for the last step only."""
        try:
            started = self._clock()
            with self._lock:
                before = dict(self._places)
            now = dict(self._versions())
            changed = [key for key, version in now.items() if before.get(key, (0, -1))[1] != version]
            rows = list(self._vectors(changed)) if changed else []
            with self._lock:
                # What this process wrote meanwhile is newer than what was read.
                self._put(row for row in rows if self._places.get(row[0]) == before.get(row[0]))
                for key in [key for key, there in before.items() if key not in now and self._places.get(key) == there]:
                    self._take_out(key)
                self._rest(started)
        finally:
            self._following = False

    def _follow_aside(self) -> None:
        try:
            self.follow()
        except Exception as error:  # the searches go on; the next look is soon, and if that fails too they are told
            log.warning("vector search goes on with what it knows: %s", error)

    def _take_written(self) -> None:
        if self._written:
            keys = list(self._written)
            rows = {row[0]: row for row in self._vectors(keys)}
            self._put(rows.values())
            for key in keys:
                if key not in rows and key in self._places:
                    self._take_out(key)
            self._written.clear()

    def _rest(self, started: float) -> None:
        self._looked = self._clock()
        self._due = self._looked + max(_PAUSE_S, (self._looked - started) / _SHARE_OF_TIME)
        if self._graph and self._replaced > _WEAR * max(len(self), GRAPH_FROM):
            self._graph = None
        if len(self) >= GRAPH_FROM and self._graph is None and self._building is None:
            self._build()

    def _put(self, rows: Rows) -> None:
        for key, version, vector in rows:
            place, _ = self._places.get(key, (-1, 0))
            if place < 0:
                place = self._free.pop() if self._free else self._grow()
            self._matrix[place] = self._scaled(vector)
            self._keys[place] = key
            self._places[key] = place, version
            self._changed(place)

    def _take_out(self, key: bytes) -> None:
        place, _ = self._places.pop(key)
        self._keys[place] = None
        self._free.append(place)
        self._changed(place)

    def _changed(self, place: int) -> None:
        if self._building is not None:
            self._building.add(place)
        if self._graph is not None:
            self._replace(self._graph, place)

    def _replace(self, graph: Any, place: int) -> None:
        if place in graph:
            graph.remove(place)
            self._replaced += 1
        if self._keys[place] is not None:
            graph.add(place, self._matrix[place], threads=1)

    def _grow(self) -> int:
        place = len(self._keys)
        if place == len(self._matrix):
            room = np.zeros((max(1024, place // 2), self._matrix.shape[1]), self._dtype)
            self._matrix = np.concatenate([self._matrix, room])
        self._keys.append(None)
        return place

    def _scaled(self, vector: NDArray[np.float32]) -> Any:
        if self._metric != "cosine":
            return vector
        return vector / max(float(np.linalg.norm(vector)), float(np.finfo(np.float32).tiny))

    # The graph.

    def _build(self) -> None:
        self._building = set()
        places = np.array([place for place, _ in self._places.values()], dtype=np.uint64)
        rows = self._matrix[places]  # a copy: the matrix goes on changing
        self._aside(lambda: self._link(places, rows))

    def _link(self, places: Any, rows: Any) -> None:
        from usearch.index import Index

        graph = Index(
            ndim=rows.shape[1],
            metric=self._kind(),
            dtype="f16" if self._dtype is np.float16 else "f32",
            connectivity=_CONNECTIVITY,
            expansion_add=_EXPANSION,
            expansion_search=_EXPANSION,
        )
        for start in range(0, len(places), _CHUNK):
            graph.add(places[start : start + _CHUNK], rows[start : start + _CHUNK], threads=1)
        with self._lock:
            for place in self._building or ():
                self._replace(graph, place)
            self._graph, self._building, self._replaced = graph, None, 0
