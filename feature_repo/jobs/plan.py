"""Which rows of a view's history one materialization writes, cut into shards.

The plan finds them by a few narrow columns, without vectors and texts, at every start of a run, so that compaction can
move rows between runs. Its tables lie in the database of the journal, so memory stays bounded:

* `part`: the parts of the history, with the pass that reads each.
* `newest_row`: for each key the row that counts, by part and row number, with its shard; without the rows that the
  journal holds as done.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from feature_repo.history.parts import MERGED_PARTS, is_sorted_by_key
from feature_repo.jobs.shards import Shard

_Parameters = list[object]


class Window(NamedTuple):
    """The rows of the history in a window of event times.

    Attributes:
        key: The column of the entity key.
        since_us: The first event time in microseconds since the Unix epoch; None for no limit.
        until_us: The last event time, inclusive; None for no limit.
    """

    key: str
    since_us: int | None = None
    until_us: int | None = None

    @property
    def rows(self) -> str:
        """The query of their ids, versions and places."""
        return f"""
            select {self.key} as id, version, epoch_us(created_timestamp) as created_us, part.part,
                file_row_number as row
            from read_parquet(?, filename = true, file_row_number = true) as history join part using (filename)
            where epoch_us(event_timestamp) between coalesce(?, epoch_us(event_timestamp))
                and coalesce(?, epoch_us(event_timestamp))
        """

    def parameters(self, parts: Sequence[Path]) -> _Parameters:
        """Return the parameters of the query."""
        return [[str(part) for part in parts], self.since_us, self.until_us]


class Plan(NamedTuple):
    """What is left of the history.

    Attributes:
        history_rows: Rows of the history in the window.
        products: Keys of those rows.
        remaining: Products that are not written yet.
        shards: The numbers of their shards.
        database: The database that holds the rows of each shard.
        parts: The parts of the history.
    """

    history_rows: int
    products: int
    remaining: int
    shards: range
    database: duckdb.DuckDBPyConnection
    parts: Sequence[Path]

    def shard(self, number: int) -> Shard:
        """Return the rows to write of a shard."""
        query = "select part, row from newest_row where shard = ? order by part, row"
        columns = self.database.execute(query, [number]).fetchnumpy()
        parts, starts = np.unique(np.asarray(columns["part"]), return_index=True)
        rows = np.split(np.asarray(columns["row"], dtype=np.int64), starts[1:])
        return Shard(number, [(self.parts[part], piece) for part, piece in zip(parts.tolist(), rows, strict=True)])


def make_plan(
    database: duckdb.DuckDBPyConnection,
    parts: Sequence[Path],
    window: Window,
    shard_rows: int,
    merged_parts: int = MERGED_PARTS,
) -> Plan:
    """Find the rows to write: of each key the newest version, and of equal versions the row written last.

    A shard is a range of keys, so that it touches few pages of an online store's index. With a million rows, a shard
    that touched all pages would take twice the time.

    Args:
        database: The journal's database; its table `done` holds the rows that are online.
        parts: The parts of the history.
        window: Which rows of the parts count.
        shard_rows: The number of rows of a shard.
        merged_parts: The number of parts that one pass reads together.

    Raises:
        duckdb.Error: A part cannot be read.
        HistoryError: A part cannot be read.
    """
    if not parts:
        return Plan(0, 0, 0, range(0), database, parts)
    _list_parts(database, parts, merged_parts)
    history_rows = _count(database, f"({window.rows})", window.parameters(parts))
    _find_newest_versions(database, window, parts)
    products = _count(database, "newest")
    first_shard = _number(database, "select coalesce(max(shard) + 1, 0) from done")
    _assign_shards(database, first_shard, shard_rows)
    database.execute("drop table newest")
    remaining = _count(database, "newest_row")
    shards = range(first_shard, first_shard - (-remaining // shard_rows))
    return Plan(history_rows, products, remaining, shards, database, parts)


def _list_parts(database: duckdb.DuckDBPyConnection, parts: Sequence[Path], merged_parts: int) -> None:
    """Make the table `part`: name, number, and the pass over the parts that reads it."""
    ordered = [is_sorted_by_key(part) for part in parts]
    database.execute(
        """create or replace table part as
        select unnest(?) as filename, unnest(range(?)) as part, unnest(?) as pass, unnest(?) as sorted_by_key""",
        [[str(part) for part in parts], len(parts), _passes(ordered, merged_parts), ordered],
    )


def _passes(ordered: Sequence[bool], merged_parts: int) -> list[int]:
    """Return the pass of each part: sorted parts share passes of `merged_parts` parts, any other has its own."""
    sorted_before = accumulate(ordered)  # including the current part
    return [
        count // merged_parts if is_sorted else len(ordered) + i
        for i, (is_sorted, count) in enumerate(zip(ordered, sorted_before, strict=True))
    ]


def _find_newest_versions(database: duckdb.DuckDBPyConnection, window: Window, parts: Sequence[Path]) -> None:
    """Make the table `newest`: one row per key."""
    database.execute(
        f"""create or replace table newest as {window.rows}
        qualify row_number() over (partition by id order by version desc, created_us desc, part desc, row desc) = 1
        """,
        window.parameters(parts),
    )


def _assign_shards(database: duckdb.DuckDBPyConnection, first_shard: int, shard_rows: int) -> None:
    """Make the table `newest_row`: rows of `newest` that are not done, with their shards, in reading order."""
    database.execute(
        """create or replace table newest_row as
        with remaining as (from newest anti join done using (id, version, created_us)),
            placed as (
                select part, row,
                    row_number() over (order by pass, if(sorted_by_key, id, ''), part, row) - 1 as place
                from remaining join part using (part)
            )
        select part, row, ? + place // ? as shard from placed order by place""",
        [first_shard, shard_rows],
    )


def _count(database: duckdb.DuckDBPyConnection, source: str, parameters: _Parameters | None = None) -> int:
    return _number(database, f"select count(*) from {source}", parameters)


def _number(database: duckdb.DuckDBPyConnection, query: str, parameters: _Parameters | None = None) -> int:
    # Fetch all rows: DuckDB refuses the next statement while a result is unfinished.
    return int(database.execute(query, parameters or []).fetchall()[0][0])
