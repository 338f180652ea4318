"""The products behind the graph: ids, versions, vectors, attributes; one row each, which is also its key in the graph.

A removed product keeps its row, so that an older vector cannot bring it back, until it is forgotten and the row is
given to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from inference.arrays import BoolArray, Float16Array, Float32Array, Int64Array
from inference.retrieval.filters import AttributeColumns


class ProductRows:
    """Columns that grow by half. Not safe for several threads by itself."""

    def __init__(self, dim: int) -> None:
        self.ids: list[str] = []
        self.row_of: dict[str, int] = {}
        self.versions: Int64Array = np.zeros(0, np.int64)
        self.held: BoolArray = np.zeros(0, np.bool_)  # false: removed, or only its attributes are known yet
        self.vectors: Float16Array = np.zeros((0, dim), np.float16)
        self.attributes = AttributeColumns()
        self.removed: dict[int, None] = {}  # rows of removed products, in the order of their removal
        self.free: list[int] = []  # rows of no product

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, product_id: str) -> int:
        """The product's row, a new one for a new product."""
        row = self.row_of.get(product_id)
        if row is None and self.free:
            row = self.row_of[product_id] = self.free.pop()
            self.ids[row] = product_id
        elif row is None:
            row = len(self.ids)
            if row == len(self.versions):
                self._grow(max(256, row + row // 2))
            self.row_of[product_id] = row
            self.ids.append(product_id)
        return row

    def mark_removed(self, row: int) -> None:
        """Take note that the row's product was removed last."""
        self.removed.pop(row, None)
        self.removed[row] = None

    def forget_removed(self, keep: int) -> int:
        """Free the rows of removed products that are not among the last `keep` and have no attributes."""
        forgotten = 0
        for row in list(islice(self.removed, max(0, len(self.removed) - keep))):
            if self.held[row]:
                del self.removed[row]  # came back
            elif self.attributes.is_empty(row):
                del self.removed[row], self.row_of[self.ids[row]]
                self.ids[row], self.versions[row], self.attributes.version[row] = "", 0, -1
                self.free.append(row)
                forgotten += 1
        return forgotten

    def snapshot(self) -> ProductRows:
        """A copy as of now."""
        taken, n = ProductRows(self.vectors.shape[1]), len(self)
        taken.ids, taken.row_of = list(self.ids), self.row_of  # `row_of` can be told from the ids
        taken.versions, taken.held, taken.vectors = (
            self.versions[:n].copy(),
            self.held[:n].copy(),
            self.vectors[:n].copy(),
        )
        taken.attributes = self.attributes.snapshot(n)
        taken.removed, taken.free = dict(self.removed), list(self.free)
        return taken

    def holds(self, product_id: str) -> int | None:
        """The product's row if it can be found at present."""
        row = self.row_of.get(product_id)
        return row if row is not None and self.held[row] else None

    def names(self, rows: Sequence[int]) -> list[str]:
        """The ids of these rows."""
        ids = self.ids
        return [ids[row] for row in rows]

    def _grow(self, rows: int) -> None:
        added = rows - len(self.versions)
        self.versions = np.concatenate([self.versions, np.zeros(added, np.int64)])
        self.held = np.concatenate([self.held, np.zeros(added, np.bool_)])
        self.vectors = np.concatenate([self.vectors, np.zeros((added, self.vectors.shape[1]), np.float16)])
        self.attributes.resize(rows)


def unit_rows(vectors: Float32Array) -> tuple[Float16Array, BoolArray]:
    """Vectors `[N, dim]` -> unit length as float16, and which of them could not be placed (NaN, infinity, zero)."""
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        bad = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
        return (vectors / norms).astype(np.float16), bad


def unit_queries(queries: Float32Array) -> Float32Array:
    """Finite vectors `[N, dim]` -> unit length; zero stays. They are compared in float16, which holds few lengths."""
    largest = np.abs(queries).max(1, keepdims=True)
    largest[largest == 0] = 1
    units: Float32Array = queries / largest  # so that no square overflows or vanishes
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1)  # only that of zero is below 1
    return units
