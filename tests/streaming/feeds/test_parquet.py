"""Parquet."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming.contracts import ProductUpdate
from streaming.errors import FeedError
from streaming.feeds import BadRow, Row, read_feed

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def read(tmp_path: Path, columns: dict[str, Any], **options: Any) -> list[Row]:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", **options)
    return list(read_feed(tmp_path / "a.parquet", now=NOW))


def test_columns_of_every_natural_type_are_read(tmp_path: Path) -> None:
    money = pa.struct([("amount", pa.decimal128(12, 2)), ("currency", pa.string())])
    columns = {
        "id": pa.array([17], pa.int64()),
        "title": pa.array(["Mug"]).dictionary_encode(),
        "price": pa.array([{"amount": Decimal("9.90"), "currency": "EUR"}], money),
        "additional_image_link": pa.array([["https://a/1.jpg", "https://a/2.jpg"]]),
        "category": pa.array([["Kitchen", "Mugs"]]),
        "stock": pa.array([4], pa.int32()),
        "updated_at": pa.array([datetime(2026, 1, 30)], pa.timestamp("us")),
    }
    (row,) = read(tmp_path, columns)
    assert isinstance(row, ProductUpdate), row
    assert (row.id, row.title, row.product_type, row.availability) == ("17", "Mug", ["Kitchen > Mugs"], "in_stock")
    assert row.price
    assert (row.price.amount_minor, row.price.currency) == (990, "EUR")
    assert row.additional_image_link == ["https://a/1.jpg", "https://a/2.jpg"]
    assert row.event_time == datetime(2026, 1, 30, tzinfo=UTC)


def test_nanosecond_times_of_pandas_are_read_in_microseconds(tmp_path: Path) -> None:
    at = pa.array([1_769_774_400_000_000_123], pa.timestamp("ns"))
    (row,) = read(tmp_path, {"id": ["A"], "title": ["Mug"], "updated_at": at})
    assert isinstance(row, ProductUpdate), row
    assert row.version == 1_769_774_400_000_000


def test_a_missing_number_as_pandas_writes_it_is_empty(tmp_path: Path) -> None:
    rows = read(
        tmp_path, {"id": ["A", "B"], "title": ["Mug", "Cup"], "price": [float("nan"), 5.0], "brand": [None, "Kiln"]}
    )
    assert [isinstance(row, ProductUpdate) and bool(row.price) for row in rows] == [False, True]


def test_bad_rows_are_refused_by_number_across_batches(tmp_path: Path) -> None:
    count = 2_500
    prices = [1.0] * count
    prices[2_047] = -1.0
    ids = [str(i) for i in range(count)]
    ids[2_400] = "3"
    rows = read(tmp_path, {"id": ids, "title": ["Mug"] * count, "price": prices}, row_group_size=700)
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert [(row.row, row.product_id, row.field) for row in bad] == [
        (2_048, "2047", "price.amount"),
        (2_401, "3", "id"),
    ]
    assert bad[1].rule == "is already used in row 4; use each id once"
    assert len(rows) == count


def test_columns_of_wrong_types_are_refused_row_by_row(tmp_path: Path) -> None:
    rows = read(tmp_path, {"id": ["A", "B"], "title": [b"Mug", b"Cup"]})
    assert [(row.field, row.rule) for row in rows if isinstance(row, BadRow)] == [
        ("title", "must be text, is binary")
    ] * 2


def test_a_table_without_titles_is_refused_unless_it_states_the_operation(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="has no column 'title'"):
        read(tmp_path, {"id": ["A"], "price": [1.0]})
    (row,) = read(tmp_path, {"id": ["A"], "price": [1.0], "op": ["patch"]})
    assert isinstance(row, ProductUpdate)
    assert row.op == "patch"


def test_a_damaged_file_is_refused_where_it_breaks(tmp_path: Path) -> None:
    columns = {"id": [str(i) for i in range(3_000)], "title": [f"Mug {i * 7919}" for i in range(3_000)]}
    pq.write_table(
        pa.table(columns), tmp_path / "a.parquet", row_group_size=1_500, compression="zstd", use_dictionary=False
    )
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    at = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(1).data_page_offset + 200
    data[at : at + 2_000] = b"\xff" * 2_000
    (tmp_path / "a.parquet").write_bytes(data)
    read_so_far: list[Row] = []
    with pytest.raises(FeedError, match=r"a\.parquet is not a valid Parquet file after row 1024"):
        read_so_far.extend(read_feed(tmp_path / "a.parquet", now=NOW))
    assert len(read_so_far) >= 1_024
