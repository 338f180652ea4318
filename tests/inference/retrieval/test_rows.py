"""The rows behind the graph: a product keeps its row until it is forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from inference.retrieval import Attributes
from inference.retrieval.rows import ProductRows, unit_queries, unit_rows

DIM = 4


def filled(products: int) -> ProductRows:
    """Held products p0, p1, ... of version 1."""
    rows = ProductRows(DIM)
    for number in range(products):
        row = rows.row(f"p{number}")
        rows.versions[row], rows.held[row] = 1, True
        rows.vectors[row] = np.eye(DIM)[number % DIM]
    return rows


def remove(rows: ProductRows, product_id: str) -> int:
    row = rows.row(product_id)
    rows.held[row] = False
    rows.mark_removed(row)
    return row


def test_a_product_keeps_its_row_while_the_columns_grow() -> None:
    rows = filled(1000)
    assert [rows.row(f"p{number}") for number in range(1000)] == list(range(1000))
    assert len(rows) == 1000
    assert rows.versions[:1000].tolist() == [1] * 1000
    np.testing.assert_array_equal(rows.vectors[:1000], np.tile(np.eye(DIM), (250, 1)))
    assert len(rows.attributes.version) == len(rows.versions) >= 1000


def test_only_held_products_are_found() -> None:
    rows = filled(2)
    remove(rows, "p0")
    assert (rows.find("p0"), rows.find("p1"), rows.find("none")) == (None, 1, None)
    assert rows.names([1, 0]) == ["p1", "p0"]


def test_the_row_of_a_forgotten_product_is_used_again() -> None:
    rows = filled(3)
    freed = remove(rows, "p1")
    assert rows.forget_removed(0) == 1
    assert (rows.row("new"), len(rows), rows.versions[freed], rows.ids[freed]) == (freed, 3, 0, "new")
    assert rows.find("p1") is None


def test_the_products_removed_last_are_not_forgotten() -> None:
    rows = filled(4)
    for product_id in ("p0", "p1", "p2", "p0"):  # p0 is removed again
        remove(rows, product_id)
    assert rows.forget_removed(2) == 1
    assert "p1" not in rows.row_of
    assert list(rows.removed) == [2, 0]


def test_a_product_that_came_back_or_has_attributes_is_not_forgotten() -> None:
    rows = filled(2)
    back, priced = remove(rows, "p0"), remove(rows, "p1")
    rows.held[back] = True
    rows.attributes.set(priced, 5, Attributes(amount_minor=100, currency="EUR"))
    assert rows.forget_removed(0) == 0
    assert set(rows.row_of) == {"p0", "p1"}


def test_a_snapshot_does_not_change_with_the_rows() -> None:
    rows = filled(2)
    taken = rows.snapshot()
    rows.versions[0], rows.held[1] = 9, False
    rows.vectors[0] = 0
    rows.row("later")
    assert (len(taken), taken.versions.tolist(), taken.held.tolist()) == (2, [1, 1], [True, True])
    np.testing.assert_array_equal(taken.vectors, np.eye(DIM)[:2])


def test_vectors_that_have_no_direction_are_invalid() -> None:
    vectors = np.array([[3, 0, 4, 0], [0, 0, 0, 0], [np.nan, 1, 0, 0], [np.inf, 0, 0, 0]], np.float32)
    units, invalid = unit_rows(vectors)
    assert invalid.tolist() == [False, True, True, True]
    np.testing.assert_allclose(units[0], [0.6, 0, 0.8, 0], atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_queries_of_any_length_become_unit_vectors_and_zero_stays_zero(scale: float) -> None:
    queries = np.array([[3, 0, 4, 0], [0, 0, 0, 0]], np.float32) * np.float32(scale)
    np.testing.assert_allclose(unit_queries(queries), [[0.6, 0, 0.8, 0], [0, 0, 0, 0]], atol=1e-6)
