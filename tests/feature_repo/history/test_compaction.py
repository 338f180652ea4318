from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_repo.history.compaction import compact
from feature_repo.history.parts import is_sorted_by_key
from feature_repo.history.writer import History
from tests.feature_repo.history.builders import content, rows


def test_compaction_merges_by_key_and_keeps_the_order_of_writing(history: History) -> None:
    history.group_rows = 4
    for i in range(5):
        history.append(rows(("again", 1, str(i)), (f"p{9 - i}", 1, "x"), (f"b{i}", 1, "x")))
    assert compact(history, grace_s=0) == 5
    (part,) = history.parts()
    merged = pq.read_table(part)
    assert merged["product_id"].to_pylist() == [
        *["again"] * 5,
        *(f"b{i}" for i in range(5)),
        *(f"p{i}" for i in range(5, 10)),
    ]
    assert merged["title"].to_pylist()[:5] == ["0", "1", "2", "3", "4"]
    assert is_sorted_by_key(part)


def test_compaction_keeps_the_content_in_fewer_parts(history: History) -> None:
    for i in range(7):
        history.append(rows((f"p{i}", 1, "x"), ("again", i, "y"), created=i))
    before = content(history)
    assert compact(history, rows_per_part=6, grace_s=0) == 6
    assert [len(pq.read_table(part)) for part in history.parts()] == [2, 6, 6]
    assert content(history) == before


def test_compaction_leaves_young_and_full_parts_alone(history: History) -> None:
    for i in range(3):
        history.append(rows((f"p{i}", 1, "x")))
    parts = history.parts()
    assert compact(history, grace_s=60) == 0
    assert compact(history, rows_per_part=1, grace_s=0) == 0
    assert history.parts() == parts


def test_compaction_cut_short_after_its_new_part_loses_and_doubles_nothing(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        history.append(rows((f"p{i}", 1, "x")))
    before = content(history)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            compact(history, grace_s=0)
    assert len(history.parts()) == 4
    assert content(history) == before


def test_compaction_removes_what_dead_writers_left_long_ago(history: History) -> None:
    history.append(rows(("a", 1, "x")))
    old, new = (history.folder / f"part-{name}.parquet.partial" for name in ("old", "new"))
    for partial in (old, new):
        partial.write_bytes(b"half")
    os.utime(old, (0, 0))
    compact(history)
    assert not old.exists()
    assert new.exists()


def test_hundreds_of_small_parts_are_merged_some_at_a_time(history: History) -> None:
    for i in range(8):
        history.append(rows((f"p{i}", 1, "x")))
    before = content(history)
    assert compact(history, grace_s=-1, merged_parts=3) == 8
    assert len(history.parts()) == 3
    assert compact(history, grace_s=-1, merged_parts=3) == 3
    (part,) = history.parts()
    assert pq.read_table(part)["product_id"].to_pylist() == [f"p{i}" for i in range(8)]
    assert content(history) == before
