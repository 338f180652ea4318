"""Parquet: one product a row, columns under the contract's names or their aliases, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming.errors import FeedError
from streaming.feeds.rows import Row, RowBuilder

_BATCH = 1_024


def read_parquet(path: Path, builder: RowBuilder) -> Iterator[Row]:
    """The products of a Parquet file; the first is row 1. A null is a value that the row does not state.

    Raises:
        FeedError: not Parquet, damaged, or without a column that is needed.
    """
    import pyarrow as pa  # on the command line's path: not before it is needed
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = builder.columns(names)
            builder.need(path, columns.values(), names)
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns)):
                # Nanoseconds would come as pandas' own type; the contract's clock ticks in microseconds.
                fields = [f.with_type(pa.timestamp("us", f.type.tz)) if _is_nano(f) else f for f in batch.schema]
                for row in batch.cast(pa.schema(fields), safe=False).to_pylist():
                    number += 1
                    yield builder.build(number, {columns[name]: v for name, v in row.items() if v is not None})
    except FeedError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        where = f" after row {number}" if number else ""
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise FeedError(f"{path} is no sound Parquet file{where}: {reason}.") from error


def _is_nano(field: Any) -> bool:
    return str(field.type).startswith("timestamp[ns")
