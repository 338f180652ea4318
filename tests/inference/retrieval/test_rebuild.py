"""A rebuild links every held row into a new graph, also those that change while it runs."""

from __future__ import annotations

import threading

import numpy as np

from inference.retrieval import HnswSettings
from inference.retrieval.graph import new_graph
from inference.retrieval.rebuild import CHUNK, Rebuild
from inference.retrieval.rows import ProductRows
from tests.inference.retrieval.vectors import DIM, clustered


def filled(products: int) -> ProductRows:
    rows = ProductRows(DIM)
    for number, vector in enumerate(clustered(np.random.default_rng(0), products)):
        row = rows.row(f"p{number}")
        rows.held[row], rows.vectors[row] = True, vector
    return rows


def rebuild_of(rows: ProductRows) -> Rebuild:
    return Rebuild(rows, new_graph(DIM, HnswSettings(connectivity=8)), threading.RLock(), threads=1)


def nearest(rebuild: Rebuild, vector: np.ndarray) -> int:
    return int(rebuild.graph.search(vector.astype(np.float32), 1).keys[0])


def test_all_rows_are_linked_chunk_by_chunk() -> None:
    rows = filled(CHUNK + 10)
    rebuild, progress = rebuild_of(rows), list[int]()
    rebuild.link(np.arange(len(rows)), progress.append)
    assert progress == [CHUNK, CHUNK + 10]
    assert len(rebuild.graph) == CHUNK + 10
    assert nearest(rebuild, rows.vectors[CHUNK + 3]) == CHUNK + 3


def test_rows_that_are_no_longer_held_are_left_out() -> None:
    rows = filled(20)
    rows.held[[3, 4]] = False
    rebuild = rebuild_of(rows)
    rebuild.link(np.arange(20), lambda done: None)
    assert len(rebuild.graph) == 18
    assert not rebuild.graph.contains(3)


def test_rows_that_changed_during_the_rebuild_have_their_new_vector() -> None:
    rows = filled(CHUNK + 100)
    rebuild = rebuild_of(rows)

    def change(done: int) -> None:
        if done == CHUNK:  # after the first chunk: row 0 has another vector, row 1 is removed, a product is new
            rows.vectors[0] = -rows.vectors[0]
            rows.held[1] = False
            new = rows.row("new")
            rows.held[new], rows.vectors[new] = True, rows.vectors[2] - rows.vectors[9]
            rebuild.note([0, 1, new])

    rebuild.link(np.arange(CHUNK + 100), change)
    rebuild.catch_up()
    assert len(rebuild.graph) == CHUNK + 100
    assert nearest(rebuild, rows.vectors[0]) == 0
    assert not rebuild.graph.contains(1)
    assert rebuild.graph.contains(rows.row("new"))


def test_many_changes_are_linked_before_the_lock_is_needed() -> None:
    rows = filled(2 * CHUNK)
    rebuild, progress = rebuild_of(rows), list[int]()
    rebuild.note(range(2 * CHUNK))
    rebuild.link(np.arange(10), progress.append)
    assert len(rebuild.graph) == 2 * CHUNK
    assert progress == [10, 10]
