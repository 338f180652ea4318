"""Exact vector search over the views of one guarded store.

A search has two steps. `VectorMatrix` compares the query with every vector of the view in memory and names candidates;
100,000 vectors of 256 dimensions take about 9 ms. `VectorSearch` then reads the candidates' rows from the store and
computes the distances from the vectors in those rows. So vector, features and tombstone of a result always have the
same version, even if the matrix has missed a change.

The matrix follows the store:

* A search sees all earlier writes of this process.
* A background thread compares versions with the store and so finds what other processes wrote. It takes at most a
  twentieth of the time. A search that comes `MAX_AGE_S` or more after the last comparison waits for the next one. (A
  vector that another process corrected under its old version is searched for at its old place.)
* A process that searches needs about 1.1 kB of memory per row of 256 dimensions.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np
from feast import FeatureView, Field, RepoConfig
from numpy.typing import NDArray

from feature_repo.errors import InvalidFeatureError
from feature_repo.online_row import OnlineRow
from feature_repo.values import decode_vector

log = logging.getLogger(__name__)

MAX_AGE_S: Final = 60.0
_SHARE_OF_TIME: Final = 0.05  # that following the store may take while it is searched
_PAUSE_S: Final = 1.0  # shortest time between two comparisons with the store
_EXTRA: Final = 16  # candidates beyond `top_k`: other processes may have deleted or moved some
_READ_KEYS: Final = 4096
_BLOCK_ROWS: Final = 8192  # rows whose difference to the query is in memory at a time
_FIRST_ROWS: Final = 1024
_TINY: Final = np.finfo(np.float32).tiny

Vectors = NDArray[np.float32]
VectorRows = Iterable[tuple[bytes, int, Vectors]]
"""Key, version and vector [dim] of live rows."""


class RowSource(Protocol):
    """The reading half of a guarded online store."""

    def read(
        self, config: RepoConfig, columns: Sequence[tuple[FeatureView, Sequence[str]]], keys: Collection[bytes]
    ) -> list[dict[bytes, OnlineRow]]:
        """Read rows; see `feature_repo.stores.base.GuardedOnlineStore.read`."""

    def page(
        self, config: RepoConfig, view: FeatureView, columns: Sequence[str], after: bytes = b""
    ) -> list[OnlineRow]:
        """Read live rows; see `feature_repo.stores.base.GuardedOnlineStore.page`."""


class VectorSearch:
    """The vector searches of one process over one store. Threads may share one."""

    def __init__(self, store: RowSource) -> None:
        self._store = store
        self._matrices: dict[tuple[str, str, str, int], VectorMatrix] = {}
        self._making = threading.Lock()

    def nearest(
        self,
        config: RepoConfig,
        view: FeatureView,
        query: Sequence[float] | Vectors,
        top_k: int,
        metric: str | None,
        columns: Sequence[str],
    ) -> list[tuple[float, OnlineRow]]:
        """Return the `top_k` live rows nearest to a query, nearest first, with their distances.

        Args:
            config: Feast's configuration.
            view: A view with a vector feature.
            query: The query [dim].
            top_k: The number of rows.
            metric: cosine, L2 or inner_product; None for the metric of the view.
            columns: The payload columns of the rows.

        Raises:
            InvalidFeatureError: The view has no vector, or the query, `top_k` or the metric is invalid.
        """
        field = next((feature for feature in view.features if feature.vector_index), None)
        if field is None:
            raise InvalidFeatureError(f"View {view.name} has no vector to search: mark one vector_index=True.")
        vector = np.asarray(query, dtype=np.float32)
        if vector.shape != (field.vector_length,) or not np.isfinite(vector).all():
            raise InvalidFeatureError(
                f"The query for view {view.name} must be {field.vector_length} finite numbers, not {vector.shape}."
            )
        if top_k < 1:
            raise InvalidFeatureError(f"top_k is {top_k}: ask for at least one row.")
        name = (metric or field.vector_search_metric or "cosine").lower()
        if name not in _DISTANCES:
            raise InvalidFeatureError(f"Unknown distance {name!r}: use cosine, L2 or inner_product.")
        selected = [field.name, *(column for column in columns if column != field.name)]
        results = self._search(config, view, self.matrix(config, view, field), vector, top_k, name, selected)
        order = [selected.index(column) for column in columns]
        return [(distance, row._replace(values=[row.values[i] for i in order])) for distance, row in results]

    def written(self, view: FeatureView, keys: Collection[bytes]) -> None:
        """Record that this process wrote rows of a view: its next search sees them."""
        for name, matrix in list(self._matrices.items()):
            if name[0] == view.name and not matrix.inherited:
                matrix.written(keys)

    def matrix(self, config: RepoConfig, view: FeatureView, field: Field) -> VectorMatrix:
        """Return this process's matrix of a view's vectors; the first search fills it."""
        name = (view.name, config.project, field.name, field.vector_length)
        matrix = self._matrices.get(name)
        if matrix is None or matrix.inherited:
            with self._making:
                matrix = self._matrices.get(name)
                if matrix is None or matrix.inherited:
                    matrix = self._matrices[name] = self._make_matrix(config, view, field)
        return matrix

    def _make_matrix(self, config: RepoConfig, view: FeatureView, field: Field) -> VectorMatrix:
        def versions() -> Iterator[tuple[bytes, int]]:
            return ((row.key, row.version) for page in self._pages(config, view, []) for row in page)

        def vectors(keys: Sequence[bytes] | None) -> Iterator[tuple[bytes, int, Vectors]]:
            columns = [field.name]
            batches = self._pages(config, view, columns) if keys is None else self._rows(config, view, columns, keys)
            for rows in batches:
                for row in rows:
                    vector = decode_vector(row.values[0], field.vector_length)
                    if len(vector) == field.vector_length and not row.deleted:
                        yield row.key, row.version, vector

        return VectorMatrix(field.vector_length, versions, vectors)

    def _search(
        self,
        config: RepoConfig,
        view: FeatureView,
        matrix: VectorMatrix,
        query: Vectors,
        top_k: int,
        metric: str,
        columns: Sequence[str],
    ) -> list[tuple[float, OnlineRow]]:
        count = 2 * top_k + _EXTRA
        while True:
            keys = matrix.nearest(query, count, metric)
            rows = [row for batch in self._rows(config, view, columns, keys) for row in batch if not row.deleted]
            results = sorted(_with_distances(rows, query, metric), key=lambda result: result[0])
            if len(results) >= top_k or count >= len(matrix):
                return results[:top_k]
            count *= 4  # other processes have deleted that many rows since the last comparison

    def _pages(self, config: RepoConfig, view: FeatureView, columns: Sequence[str]) -> Iterator[list[OnlineRow]]:
        after = b""
        while page := self._store.page(config, view, columns, after):
            yield page
            after = page[-1].key

    def _rows(
        self, config: RepoConfig, view: FeatureView, columns: Sequence[str], keys: Sequence[bytes]
    ) -> Iterator[list[OnlineRow]]:
        for start in range(0, len(keys), _READ_KEYS):
            (rows,) = self._store.read(config, [(view, columns)], keys[start : start + _READ_KEYS])
            yield list(rows.values())


def _with_distances(rows: Sequence[OnlineRow], query: Vectors, metric: str) -> list[tuple[float, OnlineRow]]:
    """Return the rows whose first value is a vector of the query's length, each with its distance."""
    pairs = [(decode_vector(row.values[0], len(query)), row) for row in rows]
    pairs = [(vector, row) for vector, row in pairs if len(vector) == len(query)]
    if not pairs:
        return []
    vectors = np.stack([vector for vector, _ in pairs])
    distances = _DISTANCES[metric](vectors, np.linalg.norm(vectors, axis=1), query)
    return [(float(distance), row) for distance, (_, row) in zip(distances, pairs, strict=True)]


def run_in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a background thread."""
    threading.Thread(target=work, name="vector-search", daemon=True).start()


class VectorMatrix:
    """The vectors of one view in memory. Threads may share one.

    Args:
        dim: Dimension of the vectors.
        versions: Returns key and version of every live row of the store.
        vectors: Returns the live rows of these keys; None stands for all keys.
        clock: Monotonic clock in seconds.
        background: Runs a function while searches continue.
    """

    def __init__(
        self,
        dim: int,
        versions: Callable[[], Iterable[tuple[bytes, int]]],
        vectors: Callable[[Sequence[bytes] | None], VectorRows],
        clock: Callable[[], float] = time.monotonic,
        background: Callable[[Callable[[], None]], None] = run_in_thread,
    ) -> None:
        self._read_versions, self._read_vectors = versions, vectors
        self._clock, self._background = clock, background
        self._rows = np.zeros((0, dim), np.float32)  # the first `len(self)` are in use
        self._norms = np.zeros(0, np.float32)
        self._keys: list[bytes] = []  # by place in the matrix
        self._places: dict[bytes, tuple[int, int]] = {}  # key -> place, version
        self._written: set[bytes] = set()  # by this process, not read back yet
        self._filled = self._following = False
        self._compared_at = self._due_at = 0.0
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._keys)

    @property
    def capacity(self) -> int:
        """The number of vectors that the allocated memory holds."""
        return len(self._rows)

    @property
    def inherited(self) -> bool:
        """Whether a fork copied this matrix from the parent process: its lock may be held, its thread is missing."""
        return self._pid != os.getpid()

    def written(self, keys: Iterable[bytes]) -> None:
        """Record that this process wrote rows of these keys: the next search reads them first."""
        with self._lock:
            self._written.update(keys)

    def nearest(self, query: Vectors, count: int, metric: str = "cosine") -> list[bytes]:
        """Return the keys of the `count` vectors nearest to `query` [dim], nearest first.

        Args:
            query: The query [dim].
            count: The number of keys.
            metric: cosine, l2 or inner_product.
        """
        with self._lock:
            self._fill()
            due = self._clock() >= self._due_at and not self._following
            self._following |= due
            must_wait = self._clock() - self._compared_at >= MAX_AGE_S
        if due and must_wait:
            self.follow()
        elif due:
            self._background(self._follow_in_background)
        with self._lock:
            self._take_written()
            return [self._keys[place] for place in self._nearest_places(query, count, metric)]

    def follow(self) -> None:
        """Compare with the store; add, replace or remove vectors. Searches wait for the last step only."""
        try:
            started = self._clock()
            with self._lock:
                before = dict(self._places)
            stored = dict(self._read_versions())
            changed = [key for key, version in stored.items() if before.get(key, (0, -1))[1] != version]
            rows = list(self._read_vectors(changed)) if changed else []
            with self._lock:
                # A row that this process wrote in the meantime is newer than the row read above.
                self._put(row for row in rows if self._version(row[0]) == before.get(row[0], (0, -1))[1])
                for key, (_, version) in before.items():
                    if key not in stored and self._version(key) == version:
                        self._remove(key)
                self._schedule(started)
        finally:
            self._following = False

    def _follow_in_background(self) -> None:
        try:
            self.follow()
        except Exception as error:  # searches continue; the next comparison is soon, and a late search gets its error
            log.warning("vector search continues with its last known vectors: %s", error)

    def _fill(self) -> None:
        if not self._filled:
            started = self._clock()
            self._written.clear()
            self._put(self._read_vectors(None))
            self._filled = True
            self._schedule(started)

    def _take_written(self) -> None:
        if self._written:
            keys = list(self._written)
            rows = {row[0]: row for row in self._read_vectors(keys)}
            self._put(rows.values())
            for key in keys:
                if key not in rows and key in self._places:
                    self._remove(key)
            self._written.clear()

    def _schedule(self, started: float) -> None:
        self._compared_at = self._clock()
        self._due_at = self._compared_at + max(_PAUSE_S, (self._compared_at - started) / _SHARE_OF_TIME)

    def _version(self, key: bytes) -> int:
        return self._places.get(key, (0, -1))[1]

    def _put(self, rows: VectorRows) -> None:
        for key, version, vector in rows:
            place = self._places[key][0] if key in self._places else self._append(key)
            self._rows[place] = vector
            self._norms[place] = np.linalg.norm(vector)
            self._places[key] = place, version

    def _append(self, key: bytes) -> int:
        place = len(self._keys)
        if place == len(self._rows):
            more = max(_FIRST_ROWS, place // 2)
            self._rows = np.concatenate([self._rows, np.zeros((more, self._rows.shape[1]), np.float32)])
            self._norms = np.concatenate([self._norms, np.zeros(more, np.float32)])
        self._keys.append(key)
        return place

    def _remove(self, key: bytes) -> None:
        """Remove a vector; the last one takes its place, so that the used rows have no gap."""
        place, _ = self._places.pop(key)
        last_key = self._keys.pop()
        if last_key != key:
            last = len(self._keys)
            self._rows[place], self._norms[place] = self._rows[last], self._norms[last]
            self._keys[place] = last_key
            self._places[last_key] = place, self._places[last_key][1]

    def _nearest_places(self, query: Vectors, count: int, metric: str) -> list[int]:
        used = len(self._keys)
        if not used:
            return []
        distances = _DISTANCES[metric](self._rows[:used], self._norms[:used], query)
        nearest = np.argpartition(distances, count)[:count] if count < used else np.arange(used)
        places: list[int] = nearest[np.argsort(distances[nearest], kind="stable")].tolist()
        return places


def _cosine(vectors: Vectors, norms: Vectors, query: Vectors) -> Vectors:
    lengths = norms * np.linalg.norm(query)
    return np.asarray(1.0 - vectors @ query / np.maximum(lengths, _TINY), np.float32)


def _l2(vectors: Vectors, norms: Vectors, query: Vectors) -> Vectors:
    blocks = range(0, len(vectors), _BLOCK_ROWS)
    return np.concatenate([np.linalg.norm(vectors[at : at + _BLOCK_ROWS] - query, axis=1) for at in blocks])


def _inner_product(vectors: Vectors, norms: Vectors, query: Vectors) -> Vectors:
    return np.asarray(-(vectors @ query), np.float32)


# Vectors [n, d], their lengths [n], query [d] -> distances [n]; smaller is nearer.
_DISTANCES: Final[dict[str, Callable[[Vectors, Vectors, Vectors], Vectors]]] = {
    "cosine": _cosine,
    "l2": _l2,
    "inner_product": _inner_product,
}
