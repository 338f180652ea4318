from __future__ import annotations

import os

import pyarrow.parquet as pq
import pytest

from feature_repo.errors import HistoryError
from feature_repo.history.parts import GROUP_ROWS, is_sorted_by_key
from feature_repo.history.writer import History
from tests.feature_repo.history.builders import SCHEMA, content, rows


def test_what_was_appended_is_read_with_microseconds(history: History) -> None:
    part = rows(("a", 1, "x"), ("b", 1, "y"))
    history.append(part)
    assert history.read().equals(part)


def test_a_batch_appended_twice_is_read_once_and_the_last_writing_counts(history: History) -> None:
    history.append(rows(("a", 1, "corrected"), created=9))
    history.append(rows(("a", 1, "first"), ("a", 2, "next"), created=1))
    history.append(rows(("a", 1, "first"), created=1))
    assert content(history) == [("a", 1, "corrected"), ("a", 2, "next")]


def test_a_large_part_has_row_groups_of_a_size_that_can_be_read_one_by_one(history: History) -> None:
    part = history.append(rows(*((f"p{i}", 1, "x") for i in range(2 * GROUP_ROWS + 1))))
    groups = pq.read_metadata(part)
    sizes = [groups.row_group(group).num_rows for group in range(groups.num_row_groups)]
    assert sizes == [GROUP_ROWS, GROUP_ROWS, 1]


def test_the_rows_of_a_part_are_in_the_order_of_their_keys_and_equal_keys_as_they_came(history: History) -> None:
    part = history.append(rows(("b", 1, "x"), ("a", 2, "first"), ("c", 1, "x"), ("a", 1, "second"), ("a", 2, "third")))
    assert pq.read_table(part)["title"].to_pylist() == ["first", "second", "third", "x", "x"]
    assert is_sorted_by_key(part)


def test_parts_in_the_making_are_not_read(history: History) -> None:
    history.append(rows(("a", 1, "x")))
    (history.folder / "part-00000000000000001-00.parquet.partial").write_bytes(b"PAR1 half")
    assert content(history) == [("a", 1, "x")]


def test_a_failed_write_leaves_nothing_behind(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.append(rows(("a", 1, "x")))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HistoryError, match="No space left"):
        history.append(rows(("a", 2, "y")))
    assert len(list(history.folder.iterdir())) == 1


def test_a_part_of_another_schema_is_refused(history: History) -> None:
    with pytest.raises(HistoryError, match="must have the schema"):
        history.append(rows(("a", 1, "x")).drop_columns("title"))


def test_a_broken_part_is_named(history: History) -> None:
    history.append(rows(("a", 1, "x")))
    (history.folder / "part-broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(HistoryError, match=r"part-broken\.parquet cannot be read"):
        history.read()


def test_create_makes_one_empty_part_once(history: History) -> None:
    history.create()
    history.create()
    assert len(history.parts()) == 1
    assert history.read().equals(SCHEMA.empty_table())
