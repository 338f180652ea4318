"""Vectors of the index that are not in the graph yet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from inference.arrays import Float16Array, Int64Array


class Unlinked:
    """Rows whose vectors wait to be linked into the graph, in the order of their arrival.

    A search compares the query with each of these vectors. Not thread-safe by itself.
    """

    def __init__(self) -> None:
        self._rows: dict[int, None] = {}  # an ordered set
        self._gathered: tuple[Int64Array, Float16Array] | None = None  # since the last change

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def add(self, rows: Iterable[int]) -> None:
        """Add rows; a row that is waiting already keeps its place."""
        self._rows.update(dict.fromkeys(rows))
        self._gathered = None

    def discard(self, rows: Iterable[int]) -> None:
        """Remove rows; ignore those that are not waiting."""
        for row in rows:
            self._rows.pop(row, None)
        self._gathered = None

    def clear(self) -> None:
        """Remove all rows."""
        self.discard(list(self._rows))

    def first(self, count: int) -> list[int]:
        """Return up to `count` rows that have waited longest."""
        return list(islice(self._rows, count))

    def gather(self, vectors: Float16Array) -> tuple[Int64Array, Float16Array]:
        """Return the waiting rows and their vectors; both are kept for the next search.

        Args:
            vectors: The vectors of all rows `[rows, dim]`.
        """
        if self._gathered is None:
            rows = np.fromiter(self._rows, np.int64, len(self._rows))
            self._gathered = rows, vectors[rows]
        return self._gathered
