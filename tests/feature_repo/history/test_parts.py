"""Rows of parts are read by their numbers, for parts in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import HistoryError
from feature_repo.history.compaction import compact
from feature_repo.history.parts import MERGED_PARTS, PartGoneError, PartsReader, is_sorted_by_key
from feature_repo.history.writer import History
from feature_repo.jobs.journal import Journal
from feature_repo.jobs.plan import Window, make_plan
from tests.feature_repo.history.builders import SCHEMA, rows


def unsorted_part(history: History, table: Any) -> Path:
    """A part as a writer leaves it that does not sort rows by key."""
    part = history.folder / "part-00000000000000009-other.parquet"
    pq.write_table(table, part)
    return part


def ids(table: Any) -> list[str]:
    values: list[str] = table["product_id"].to_pylist()
    return values


def shards(history: History, shard_rows: int, merged_parts: int = MERGED_PARTS) -> list[list[str]]:
    """The ids of each shard that a plan makes of all parts."""
    journal = Journal(None, "")
    try:
        plan = make_plan(journal.database, history.parts(), Window("product_id"), shard_rows, merged_parts)
        reader = PartsReader(64, merged_parts)
        return [ids(reader.read(plan.shard(number).pieces, SCHEMA)) for number in plan.shards]
    finally:
        journal.close()


def test_a_shard_is_a_range_of_keys_over_all_parts(history: History) -> None:
    names = np.random.default_rng(3).permutation([f"p{i:03}" for i in range(300)]).tolist()
    for start in range(0, 300, 100):
        history.append(rows(*((name, 1, "x") for name in names[start : start + 100])))
    written = shards(history, 64)
    assert [sorted(shard) for shard in written] == [
        [f"p{i:03}" for i in range(a, min(a + 64, 300))] for a in range(0, 300, 64)
    ]


def test_a_pass_reads_a_bounded_number_of_parts_together(history: History) -> None:
    for i in range(5):
        history.append(rows((f"a{i}", 1, "x"), (f"b{i}", 1, "x")))
    assert shards(history, 2, merged_parts=2) == [["a0", "b0"], ["a1", "a2"], ["b1", "b2"], ["a3", "a4"], ["b3", "b4"]]


def test_parts_that_stay_open_hold_no_more_rows_than_a_few_reads(history: History) -> None:
    for i in range(6):
        history.append(rows(*((f"p{i}{j}", 1, "x") for j in range(10))))
    reader = PartsReader(10, max_open=8, min_batch_rows=1)
    for part in history.parts():
        reader.read([(part, np.array([0]))], SCHEMA)
        assert reader.held <= 20


def test_rows_after_the_last_read_ones_are_found(history: History) -> None:
    part = history.append(rows(*((f"p{i:04}", 1, "x") for i in range(5000))))
    reader = PartsReader(64)
    for wanted in ([0, 4999], [17, 18, 3000], [16]):
        table = reader.read([(part, np.array(wanted))], SCHEMA)
        assert ids(table) == [f"p{i:04}" for i in wanted]
    assert reader.read([(part, np.array([1, 2]))], pa.schema([SCHEMA.field("version")])).to_pydict() == {
        "version": [1, 1]
    }


def test_a_part_that_is_gone_or_torn_is_named(history: History) -> None:
    part = history.append(rows(("a", 1, "x")))
    wanted = [(part, np.array([0]))]
    part.write_bytes(b"torn")
    for read in (lambda: PartsReader(64).read(wanted, SCHEMA), lambda: is_sorted_by_key(part)):
        with pytest.raises(HistoryError, match=f"{part.name} cannot be read .* Move it away"):
            read()
    part.unlink()
    for read in (lambda: PartsReader(64).read(wanted, SCHEMA), lambda: is_sorted_by_key(part)):
        with pytest.raises(PartGoneError, match=part.name):
            read()


def test_a_part_in_another_order_is_read_as_it_stands(history: History) -> None:
    history.append(rows(("c", 1, "x"), ("a", 1, "x")))
    part = unsorted_part(history, rows(("z", 1, "x"), ("b", 1, "x"), ("y", 1, "x")))
    assert not is_sorted_by_key(part)
    assert shards(history, 2) == [["a", "c"], ["z", "b"], ["y"]]
    assert compact(history, grace_s=-1) == 2
    assert shards(history, 2) == [["a", "b"], ["c", "y"], ["z"]]
