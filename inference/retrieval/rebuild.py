"""Build a new graph while the index changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from inference.arrays import Int64Array
from inference.retrieval.rows import ProductRows

CHUNK = 512  # products linked at a time; the index may change between two chunks


class Rebuild:
    """A new graph over all held rows, and the rows that changed since its start.

    Args:
        rows: The products.
        graph: The new, empty graph.
        changing: The lock that protects changes of the rows.
        threads: Number of threads that link; 0 for all cores.
    """

    def __init__(self, rows: ProductRows, graph: Any, changing: threading.RLock, threads: int) -> None:
        self.graph = graph
        self._rows, self._changing, self._threads = rows, changing, threads
        self._changed: set[int] = set()

    def note(self, rows: Iterable[int]) -> None:
        """Record changed rows. The caller holds the lock."""
        self._changed.update(rows)

    def link(self, rows: Int64Array, on_progress: Callable[[int], None]) -> None:
        """Link rows chunk by chunk, then most rows that changed during this. The index may change between chunks.

        Args:
            rows: The rows that were held at the beginning.
            on_progress: Called after each chunk with the number of rows linked so far.
        """
        for start in range(0, len(rows), CHUNK):
            self._link(rows[start : start + CHUNK])
            on_progress(min(start + CHUNK, len(rows)))
        while True:
            with self._changing:
                if len(self._changed) <= CHUNK:
                    return
                changed, self._changed = self._changed, set()
            self._relink(changed)
            on_progress(len(rows))

    def catch_up(self) -> None:
        """Link all rows that changed. The caller holds the lock, so that nothing more can change."""
        changed, self._changed = self._changed, set()
        self._relink(changed)

    def _relink(self, changed: set[int]) -> None:
        if changed:
            rows = np.fromiter(changed, np.int64, len(changed))
            self.graph.remove(rows[self.graph.contains(rows)])
            self._link(rows)

    def _link(self, rows: Int64Array) -> None:
        """Add the rows that are held now."""
        with self._changing:
            rows = rows[self._rows.held[rows]]
            vectors = self._rows.vectors[rows]
        if len(rows):
            self.graph.add(rows, vectors, threads=self._threads)
