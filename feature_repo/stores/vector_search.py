"""Vector search over the views of one guarded store: what is nearest, with each row's own features and distance.

Candidates come from an index in memory (`feature_repo.stores.vector_index`); their rows are read from the store at
once, and
the distances computed from the vectors in them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from feature_repo.errors import InvalidFeatureError
from feature_repo.stores.vector_index import VectorIndex
from feature_repo.values import decode_vector

if TYPE_CHECKING:
    from feature_repo.stores.base import GuardedOnlineStore, OnlineRow

# Beyond `top_k`: an index at half precision, or by a graph, may have the last ones in another order.
_MORE: Final = 16
_READ: Final = 4096


class VectorSearch:
    """Searches of one process over one store. Safe to share between threads."""

    def __init__(self, store: GuardedOnlineStore) -> None:
        self._store = store
        self._indexes: dict[tuple[Any, ...], VectorIndex] = {}
        self._making = threading.Lock()

    def nearest(
        self, config: Any, view: Any, query: Any, top_k: int, metric: str | None, columns: Sequence[str]
    ) -> list[tuple[float, OnlineRow]]:
        """The `top_k` live rows nearest to `query`, nearest first, with their distances and `columns`.

        By another metric than the view's, which no index is of, every row is compared.

        Raises:
            InvalidFeatureError: the view has no vector, or the query or the metric cannot be.
        """
        field = next((f for f in view.features if f.vector_index), None)
        if field is None:
            raise InvalidFeatureError(f"View {view.name} has no vector to search: mark one vector_index=True.")
        query = np.asarray(query, dtype=np.float32)
        if query.shape != (field.vector_length,) or not np.isfinite(query).all():
            raise InvalidFeatureError(
                f"The query for view {view.name} must be {field.vector_length} finite numbers, not {query.shape}."
            )
        if top_k < 1:
            raise InvalidFeatureError(f"top_k is {top_k}: ask for at least one row.")
        own = (field.vector_search_metric or "cosine").lower()
        metric = (metric or own).lower()
        if metric not in _DISTANCES:
            raise InvalidFeatureError(f"Unknown distance {metric!r}: use cosine, L2 or inner_product.")
        wanted = [field.name, *(column for column in columns if column != field.name)]
        look = partial(_by_distance, query=query, metric=metric)
        if metric == own:
            found = self._by_index(config, view, field, query, top_k, wanted, look)
        else:
            found = []
            for page in self._pages(config, view, wanted):
                found = sorted([*found, *look(page)], key=_distance)[:top_k]
        order = [wanted.index(column) for column in columns]
        return [(distance, row._replace(values=[row.values[i] for i in order])) for distance, row in found]

    def written(self, view: Any, keys: Iterable[bytes]) -> None:
        """This process wrote rows of this view: its next search is to see them."""
        for name, index in list(self._indexes.items()):
            if name[0] == view.name and not index.inherited:
                index.written(keys)

    def index(self, config: Any, view: Any, field: Any) -> VectorIndex:
        """The index over a view's vectors, filled when it is first asked; each process has its own."""
        name = (view.name, config.project, field.name, field.vector_length)
        index = self._indexes.get(name)
        if index is None or index.inherited:
            with self._making:
                index = self._indexes.get(name)
                if index is None or index.inherited:
                    index = self._indexes[name] = self._make(config, view, field)
        return index

    def _make(self, config: Any, view: Any, field: Any) -> VectorIndex:
        def versions() -> Iterator[tuple[bytes, int]]:
            return ((row.key, row.version) for page in self._pages(config, view, []) for row in page)

        def vectors(keys: Sequence[bytes] | None) -> Iterator[tuple[bytes, int, Any]]:
            every = self._pages(config, view, [field.name])
            for rows in every if keys is None else self._reads(config, view, [field.name], keys):
                for row in rows:
                    vector = decode_vector(row.values[0], field.vector_length)
                    if len(vector) == field.vector_length and not row.deleted:
                        yield row.key, row.version, vector

        metric = (field.vector_search_metric or "cosine").lower()
        return VectorIndex(field.vector_length, metric, versions, vectors)

    def _by_index(
        self, config: Any, view: Any, field: Any, query: Any, top_k: int, columns: Sequence[str], look: Any
    ) -> list[tuple[float, OnlineRow]]:
        index, count = self.index(config, view, field), 2 * top_k + _MORE
        while True:
            keys = index.nearest(query, count)
            rows = [row for some in self._reads(config, view, columns, keys) for row in some]
            found = sorted(look([row for row in rows if not row.deleted]), key=_distance)
            if len(found) >= top_k or count >= len(index):
                return found[:top_k]
            count *= 4  # so many were deleted since the index looked

    def _pages(self, config: Any, view: Any, columns: Sequence[str]) -> Iterator[list[OnlineRow]]:
        after = b""
        while page := self._store.page(config, view, columns, after):
            yield page
            after = page[-1].key

    def _reads(
        self, config: Any, view: Any, columns: Sequence[str], keys: Sequence[bytes]
    ) -> Iterator[list[OnlineRow]]:
        for start in range(0, len(keys), _READ):
            (rows,) = self._store.read(config, [(view, columns)], keys[start : start + _READ])
            yield list(rows.values())


def _distance(found: tuple[float, OnlineRow]) -> float:
    return found[0]


def _by_distance(rows: Sequence[OnlineRow], query: Any, metric: str) -> list[tuple[float, OnlineRow]]:
    """Rows whose first value is a vector of the query's length, each with its distance."""
    vectors = [decode_vector(row.values[0], len(query)) for row in rows]
    fit = [i for i, vector in enumerate(vectors) if len(vector) == len(query)]
    if not fit:
        return []
    distances = _DISTANCES[metric](np.stack([vectors[i] for i in fit]), query)
    return [(float(distance), rows[i]) for distance, i in zip(distances, fit, strict=True)]


def _cosine(vectors: Any, query: Any) -> Any:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return 1.0 - vectors @ query / np.maximum(lengths, np.finfo(np.float32).tiny)


# Vectors [n, d], query [d] -> distances [n]; smaller is nearer.
_DISTANCES: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "cosine": _cosine,
    "l2": lambda vectors, query: np.linalg.norm(vectors - query, axis=1),
    "inner_product": lambda vectors, query: -(vectors @ query),
}
