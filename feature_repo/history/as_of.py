"""What was known of a view at a moment: of each key the newest version among the rows that were there by then.

Two clocks count: a row's event time, and its created time, when it came into the history. So an event of yesterday that
arrives today is not known as of last night, and a moment that has passed gives the same rows forever.

DuckDB finds the rows by a few narrow columns, in bounded memory; texts and vectors are read of those rows alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
from numpy.typing import NDArray

from feature_repo.definitions import CREATED_TIME, DELETED, EVENT_TIME, VERSION
from feature_repo.errors import HistoryError
from feature_repo.jobs.shards import Shard
from feature_repo.rows import EMBEDDING_DIM

_MEMORY: Final = "384MB"  # DuckDB goes to its temporary files beyond that


def known_rows(parts: Sequence[Path], key: str, at_us: int, rows: int) -> Iterator[Shard]:
    """Where the live rows as of `at_us` (microseconds since the Unix epoch) stand, in the order of the parts.

    Of equal versions the one written last counts. Shards have up to `rows` rows.

    Raises:
        HistoryError: a part cannot be read.
    """
    if not parts:
        return
    names = [str(part) for part in parts]
    moment = "make_timestamptz(cast(? as bigint))"
    newest = f"""
        select part, file_row_number as row
        from (
            select part.part, file_row_number, {DELETED} as deleted, row_number() over (
                partition by {key} order by {VERSION} desc, {CREATED_TIME} desc, part desc, file_row_number desc
            ) as place
            from read_parquet(?, filename = true, file_row_number = true)
            join (select unnest(?) as filename, unnest(range(?)) as part) as part using (filename)
            where {EVENT_TIME} <= {moment} and {CREATED_TIME} <= {moment}
        )
        where place = 1 and not deleted
        order by part, row
    """
    with closing(duckdb.connect()) as connection:
        try:
            connection.execute(f"set memory_limit = '{_MEMORY}'")
            connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
            found = connection.sql(newest, params=[names, names, len(names), at_us, at_us])
            for number, batch in enumerate(found.to_arrow_reader(rows)):
                part, starts = np.unique(batch["part"].to_numpy(), return_index=True)
                pieces = np.split(batch["row"].to_numpy(), starts[1:])
                yield Shard(number, [(parts[at], some) for at, some in zip(part.tolist(), pieces, strict=True)])
        except duckdb.Error as error:
            raise HistoryError(
                f"{parts[0].parent} cannot be read: {error}. Move away the part that it names."
            ) from error


def matrices(column: Any) -> list[NDArray[np.float32]]:
    """A column of lists of vectors, `List<List<float32>>` `[N]`, as one array `[n, 256]` for each row.

    Each is a copy: it keeps nothing else of the column in memory.
    """
    column = column.combine_chunks()
    outer, inner = column.offsets.to_numpy(), column.values.offsets.to_numpy()
    numbers = column.values.values.to_numpy(zero_copy_only=False)
    found = []
    for start, end in zip(outer[:-1].tolist(), outer[1:].tolist(), strict=True):
        flat = numbers[inner[start] : inner[end]]
        found.append(flat.reshape(end - start, EMBEDDING_DIM).astype(np.float32))
    return found
