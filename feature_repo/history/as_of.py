"""The rows of a view as of a time: for each key, the newest version among the rows that existed by then.

Two clocks count: a row's event time, and its created time, when it entered the history. So an event of yesterday that
arrives today does not count as of last night, and a time in the past gives the same rows forever.

DuckDB finds the rows by a few narrow columns, in bounded memory; texts and vectors are read of those rows only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.definitions import CREATED_TIME, DELETED, EVENT_TIME, VERSION
from feature_repo.errors import HistoryError
from feature_repo.history.parts import Pieces
from feature_repo.rows import EMBEDDING_DIM

_MEMORY: Final = "384MB"  # DuckDB uses temporary files beyond that


def find_rows(parts: Sequence[Path], key: str, at_us: int, rows: int) -> Iterator[Pieces]:
    """Find the live rows as of a time. Of equal versions, the row that was written last counts.

    Args:
        parts: The parts of one history.
        key: The column of the entity key.
        at_us: The time in microseconds since the Unix epoch.
        rows: The number of rows per yielded value, at most.

    Yields:
        The places of rows, in the order of the parts.

    Raises:
        HistoryError: A part cannot be read.
    """
    if not parts:
        return
    names = [str(part) for part in parts]
    time = "make_timestamptz(cast(? as bigint))"
    newest = f"""
        select part, file_row_number as row
        from (
            select part.part, file_row_number, {DELETED} as deleted, row_number() over (
                partition by {key} order by {VERSION} desc, {CREATED_TIME} desc, part desc, file_row_number desc
            ) as rank
            from read_parquet(?, filename = true, file_row_number = true)
            join (select unnest(?) as filename, unnest(range(?)) as part) as part using (filename)
            where {EVENT_TIME} <= {time} and {CREATED_TIME} <= {time}
        )
        where rank = 1 and not deleted
        order by part, row
    """
    with closing(duckdb.connect()) as connection:
        try:
            connection.execute(f"set memory_limit = '{_MEMORY}'")
            connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
            result = connection.sql(newest, params=[names, names, len(names), at_us, at_us])
            for batch in result.to_arrow_reader(rows):
                numbers, starts = np.unique(batch["part"].to_numpy(), return_index=True)
                pieces = np.split(batch["row"].to_numpy(), starts[1:])
                yield [(parts[number], piece) for number, piece in zip(numbers.tolist(), pieces, strict=True)]
        except duckdb.Error as error:
            raise HistoryError(
                f"{parts[0].parent} cannot be read: {error}. Move away the part that the error names."
            ) from error


def matrices(column: pa.ChunkedArray) -> list[NDArray[np.float32]]:
    """Convert a column of lists of vectors, `List<List<float32>>` [n], into one array [k, 256] per row.

    Each array is a copy, so that it keeps nothing else of the column in memory.
    """
    lists = column.combine_chunks()
    outer, inner = lists.offsets.to_numpy(), lists.values.offsets.to_numpy()
    numbers = lists.values.values.to_numpy(zero_copy_only=False)
    return [
        numbers[inner[start] : inner[end]].reshape(end - start, EMBEDDING_DIM).astype(np.float32)
        for start, end in zip(outer[:-1].tolist(), outer[1:].tolist(), strict=True)
    ]
