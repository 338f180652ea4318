from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import HistoryError
from feature_repo.history.parts import in_key_order
from feature_repo.history.writer import GROUP_ROWS, History, schema

SCHEMA = schema({"title": pa.string()})


def rows(*triples: tuple[str, int, str], created: int = 0) -> Any:
    moment = datetime.fromtimestamp(1_700_000_000 + created, UTC).replace(microsecond=123_457)
    return pa.Table.from_pylist(
        [
            {
                "product_id": product_id,
                "event_timestamp": moment,
                "created_timestamp": moment,
                "title": title,
                "version": version,
                "deleted": False,
            }
            for product_id, version, title in triples
        ],
        schema=SCHEMA,
    )


def content(history: History) -> list[tuple[str, int, str]]:
    table = history.read(["product_id", "version", "title"])
    return sorted(tuple(row.values()) for row in table.to_pylist())


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "view", SCHEMA)


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
    assert in_key_order(part)


def test_compaction_merges_by_key_and_keeps_the_order_of_writing(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_repo.history.writer.GROUP_ROWS", 4)
    for i in range(5):
        history.append(rows(("again", 1, str(i)), (f"p{9 - i}", 1, "x"), (f"b{i}", 1, "x")))
    assert history.compact(grace_s=0) == 5
    (part,) = history.parts()
    merged = pq.read_table(part)
    assert merged["product_id"].to_pylist() == [
        *["again"] * 5,
        *(f"b{i}" for i in range(5)),
        *(f"p{i}" for i in range(5, 10)),
    ]
    assert merged["title"].to_pylist()[:5] == ["0", "1", "2", "3", "4"]
    assert in_key_order(part)


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


def test_compaction_keeps_the_content_in_fewer_parts(history: History) -> None:
    for i in range(7):
        history.append(rows((f"p{i}", 1, "x"), ("again", i, "y"), created=i))
    before = content(history)
    assert history.compact(rows_per_part=6, grace_s=0) == 6
    assert [len(pq.read_table(part)) for part in history.parts()] == [2, 6, 6]
    assert content(history) == before


def test_compaction_leaves_young_and_full_parts_alone(history: History) -> None:
    for i in range(3):
        history.append(rows((f"p{i}", 1, "x")))
    parts = history.parts()
    assert history.compact(grace_s=60) == 0
    assert history.compact(rows_per_part=1, grace_s=0) == 0
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
            history.compact(grace_s=0)
    assert len(history.parts()) == 4
    assert content(history) == before


def test_compaction_removes_what_dead_writers_left_long_ago(history: History) -> None:
    history.append(rows(("a", 1, "x")))
    old, new = (history.folder / f"part-{name}.parquet.partial" for name in ("old", "new"))
    for aside in (old, new):
        aside.write_bytes(b"half")
    os.utime(old, (0, 0))
    history.compact()
    assert not old.exists()
    assert new.exists()
