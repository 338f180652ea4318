"""What all readers share: versions, ids seen once, columns by any of their names."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streaming.contracts import ProductUpdate
from streaming.errors import FeedError
from streaming.feeds import BadRow, read_feed
from streaming.feeds.rows import RowBuilder, field_of

NOW = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
NOW_US = 1_769_860_800_000_005


def test_a_row_after_a_refused_one_with_the_same_id_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "A"}\n{"id": "A", "title": "Mug"}\n')
    first, second = read_feed(tmp_path / "a.jsonl", now=NOW)
    assert isinstance(first, BadRow)
    assert first.field == "title"
    assert isinstance(second, ProductUpdate)


def test_rows_without_a_version_share_the_time_of_the_import(tmp_path: Path) -> None:
    """So that a later import of the same file wins."""
    (tmp_path / "a.jsonl").write_text('{"id": "A", "title": "Mug"}\n{"id": "B", "title": "Mug"}\n')
    rows = [row for row in read_feed(tmp_path / "a.jsonl", now=NOW) if isinstance(row, ProductUpdate)]
    assert [(row.version, row.event_time) for row in rows] == [(NOW_US, NOW)] * 2
    later = next(read_feed(tmp_path / "a.jsonl", now=NOW + timedelta(microseconds=1)))
    assert isinstance(later, ProductUpdate)
    assert later.version > rows[0].version


@pytest.mark.parametrize(
    ("fields", "version", "event_time"),
    [
        ({"version": 17}, 17, NOW),
        ({"version": "17"}, 17, NOW),
        ({"updated_at": "2026-01-30T12:00:00Z"}, NOW_US - 5 - 86_400_000_000, datetime(2026, 1, 30, 12, tzinfo=UTC)),
        (
            {"updated_at": "2026-01-30 14:00:00+02:00"},
            NOW_US - 5 - 86_400_000_000,
            datetime(2026, 1, 30, 12, tzinfo=UTC),
        ),
        ({"updated_at": "2026-01-30"}, NOW_US - 5 - 129_600_000_000, datetime(2026, 1, 30, tzinfo=UTC)),
        ({"version": 17, "updated_at": "2026-01-30"}, 17, datetime(2026, 1, 30, tzinfo=UTC)),
    ],
)
def test_a_rows_own_version_or_time_counts(
    tmp_path: Path, fields: dict[str, object], version: int, event_time: datetime
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "A", "title": "Mug", **fields}))
    row = next(read_feed(tmp_path / "a.jsonl", now=NOW))
    assert isinstance(row, ProductUpdate), row
    assert (row.version, row.event_time) == (version, event_time)


def test_unknown_columns_are_ignored_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\ttitle\tshelf life\tmpn\nA\tMug\tlong\t1\n")
    (tmp_path / "a.jsonl").write_text('{"id": "A", "title": "Mug", "x": 1}\n{"id": "B", "title": "Mug", "x": 1}\n')
    for name, expected in (("a.tsv", {"shelf life": 1, "mpn": 1}), ("a.jsonl", {"x": 2})):
        feed = read_feed(tmp_path / name, now=NOW)
        assert all(isinstance(row, ProductUpdate) for row in feed)
        assert feed.unknown_columns == Counter(expected)


def test_a_feed_of_random_names_does_not_fill_the_memory(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(i), "title": "Mug", f"key {i}": 1}) for i in range(1_200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    feed = read_feed(tmp_path / "a.jsonl", now=NOW)
    assert len(list(feed)) == 1_200
    assert len(feed.unknown_columns) == 1_001
    assert feed.unknown_columns["…"] == 200


def test_a_bad_row_reads_as_a_sentence() -> None:
    assert str(BadRow(7, "A1", "price", "must be …")) == "row 7 (id 'A1'): price: must be …"
    assert str(BadRow(7, None, "", "is not JSON")) == "row 7: is not JSON"


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("Image Link", "image_link"),
        ("g:price", "price"),
        (" colour ", "color"),
        ("last-modified", "updated_at"),
        ("shelf", None),
    ],
)
def test_a_column_is_known_by_its_name_in_any_spelling_or_by_an_alias(column: str, field: str | None) -> None:
    assert field_of(column) == field


def test_the_contracts_own_column_wins_over_an_alias_wherever_it_stands(tmp_path: Path) -> None:
    for names in (["name", "title", "sku"], ["title", "name", "sku"]):
        builder = RowBuilder(tmp_path, now=NOW, currency=None)
        assert builder.columns(names) == {"title": "title", "sku": "id"}


@pytest.mark.parametrize(
    ("fields", "missing"), [({"title"}, "id"), ({"id"}, "title"), ({"op"}, "id"), ({"id", "op"}, None)]
)
def test_a_table_needs_an_id_and_a_title_unless_it_states_the_operation(
    tmp_path: Path, fields: set[str], missing: str | None
) -> None:
    builder = RowBuilder(tmp_path, now=NOW, currency=None)
    if missing is None:
        builder.require_columns(tmp_path, fields, fields)
        return
    with pytest.raises(FeedError, match=f"has no column '{missing}'"):
        builder.require_columns(tmp_path, fields, fields)
