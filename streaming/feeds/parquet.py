"""Parquet: one product per row, columns with the contract's names or their aliases, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming.errors import FeedError
from streaming.feeds.rows import Row, RowBuilder

_BATCH_ROWS = 1_024


def read_parquet(path: Path, builder: RowBuilder) -> Iterator[Row]:
    """Stream the products of a Parquet file; the first is row 1. A null means that the row does not state the value.

    Raises:
        FeedError: The file is not Parquet, is damaged, or lacks a required column.
    """
    import pyarrow as pa  # heavy: commands that read no Parquet must not pay for it
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = builder.columns(names)
            builder.require_columns(path, columns.values(), names)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
                # Arrow returns nanoseconds as a pandas type; the contract's times are in microseconds.
                fields = [f.with_type(pa.timestamp("us", f.type.tz)) if _is_nanoseconds(f) else f for f in batch.schema]
                for row in batch.cast(pa.schema(fields), safe=False).to_pylist():
                    number += 1
                    yield builder.build(number, {columns[name]: v for name, v in row.items() if v is not None})
    except FeedError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        where = f" after row {number}" if number else ""
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise FeedError(f"{path} is not a valid Parquet file{where}: {reason}.") from error


def _is_nanoseconds(field: Any) -> bool:
    return str(field.type).startswith("timestamp[ns")
