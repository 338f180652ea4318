"""The products behind the graph: ids, versions, vectors and attributes. A product's row is also its key in the graph.

A removed product keeps its row, so that an older vector cannot bring it back. Once it is forgotten, another product may
get the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from inference.arrays import BoolArray, Float16Array, Float32Array, Int64Array
from inference.retrieval.filters import AttributeColumns


class ProductRows:
    """Columns of all products, which grow by half when they are full. Not thread-safe by itself.

    Args:
        dim: Length of a vector.

    Attributes:
        ids: The product id of each row; empty for a free row.
        row_of: The row of each product id.
        versions: The catalogue version of each row's vector or removal.
        held: Whether the product can be found. False if it was removed, or if only its attributes have arrived.
        vectors: `[rows, dim]`, unit vectors.
        attributes: Attributes for filters.
        removed: Rows of removed products, in the order of their removal.
        free: Rows without a product.
    """

    def __init__(self, dim: int) -> None:
        self.ids: list[str] = []
        self.row_of: dict[str, int] = {}
        self.versions: Int64Array = np.zeros(0, np.int64)
        self.held: BoolArray = np.zeros(0, np.bool_)
        self.vectors: Float16Array = np.zeros((0, dim), np.float16)
        self.attributes = AttributeColumns()
        self.removed: dict[int, None] = {}
        self.free: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, product_id: str) -> int:
        """Return the product's row; a new product gets a free row or a new row."""
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
        """Record that the row's product is the one removed last."""
        self.removed.pop(row, None)
        self.removed[row] = None

    def forget_removed(self, keep: int) -> int:
        """Free the rows of removed products without attributes, except the last `keep`; return how many."""
        forgotten = 0
        for row in list(islice(self.removed, max(0, len(self.removed) - keep))):
            if self.held[row]:
                del self.removed[row]  # the product came back
            elif self.attributes.is_empty(row):
                del self.removed[row], self.row_of[self.ids[row]]
                self.ids[row], self.versions[row], self.attributes.version[row] = "", 0, -1
                self.free.append(row)
                forgotten += 1
        return forgotten

    def snapshot(self) -> ProductRows:
        """Return a copy of the current state. Its `row_of` is shared and may change."""
        taken, n = ProductRows(self.vectors.shape[1]), len(self)
        taken.ids, taken.row_of = list(self.ids), self.row_of
        taken.versions, taken.held, taken.vectors = (
            self.versions[:n].copy(),
            self.held[:n].copy(),
            self.vectors[:n].copy(),
        )
        taken.attributes = self.attributes.snapshot(n)
        taken.removed, taken.free = dict(self.removed), list(self.free)
        return taken

    def find(self, product_id: str) -> int | None:
        """Return the row of a product that can be found, or None."""
        row = self.row_of.get(product_id)
        return row if row is not None and self.held[row] else None

    def names(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of some rows."""
        ids = self.ids
        return [ids[row] for row in rows]

    def _grow(self, rows: int) -> None:
        added = rows - len(self.versions)
        self.versions = np.concatenate([self.versions, np.zeros(added, np.int64)])
        self.held = np.concatenate([self.held, np.zeros(added, np.bool_)])
        self.vectors = np.concatenate([self.vectors, np.zeros((added, self.vectors.shape[1]), np.float16)])
        self.attributes.resize(rows)


def unit_rows(vectors: Float32Array) -> tuple[Float16Array, BoolArray]:
    """Scale vectors to unit length.

    Args:
        vectors: `[N, dim]`.

    Returns:
        The unit vectors `[N, dim]` as float16, and which vectors are invalid `[N]` (NaN, infinity or zero).
    """
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        bad = ~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
        return (vectors / norms).astype(np.float16), bad


def unit_queries(queries: Float32Array) -> Float32Array:
    """Scale finite vectors `[N, dim]` to unit length; zero stays zero.

    The comparison runs in float16, which can represent few lengths.
    """
    largest = np.abs(queries).max(1, keepdims=True)
    largest[largest == 0] = 1
    units: Float32Array = queries / largest  # so that no square overflows or underflows
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1)  # only the zero vector has a norm below 1
    return units
