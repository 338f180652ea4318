"""What one materialization has to do and has done, in a DuckDB file that survives kill -9; memory stays bounded.

* `newest_row`: for each key the row of the history that counts, by part and row number, with its shard. `plan` finds it
  by a few narrow columns, without vectors and texts, at every start, so that compaction can move rows between runs.
* `done`: the rows that are online, shard by shard, one transaction each, with checksums of what was written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from feature_repo.history.parts import MERGED_PARTS, is_sorted_by_key
from feature_repo.jobs.shards import DoneShard, Shard, WrittenShard

_MEMORY: Final = "256MB"  # DuckDB uses its file beyond that
_DONE: Final = pa.schema(
    [
        ("shard", pa.int64()),
        ("id", pa.string()),
        ("version", pa.int64()),
        ("created_us", pa.int64()),
        ("checksum", pa.int64()),
    ]
)

_Parameters = Sequence[object]


class Plan(NamedTuple):
    """What is left of the history.

    Attributes:
        history_rows: Rows of the history in the window.
        products: Keys of those rows.
        remaining: Products that are not written yet.
        shards: The numbers of their shards.
    """

    history_rows: int
    products: int
    remaining: int
    shards: range


class Journal:
    """The journal of one view. The caller holds the view's lock: two processes must not open one journal.

    Args:
        path: The file; None for a journal in memory.
        request: What the run does; the journal forgets what it holds of another request.
        merged_parts: The number of parts that one pass reads together.
    """

    def __init__(self, path: Path | None, request: str, merged_parts: int = MERGED_PARTS) -> None:
        self._path, self._merged_parts = path, merged_parts
        self._parts: list[Path] = []
        self._connection = self._open()
        if self._value("select request from request") != request:
            self._run("delete from done")
            self._run("delete from request")
            self._run("insert into request values (?)", [request])

    def plan(
        self, parts: Sequence[Path], key: str, since_us: int | None, until_us: int | None, shard_rows: int
    ) -> Plan:
        """Find the rows to write: of each key the newest version, and of equal versions the row written last.

        A shard is a range of keys, so that it touches few pages of an online store's index. With a million rows, a
        shard that touched all pages would take twice the time.

        Args:
            parts: The parts of the history.
            key: The column of the entity key.
            since_us: The first event time in microseconds since the Unix epoch; None for no limit.
            until_us: The last event time, inclusive; None for no limit.
            shard_rows: The number of rows of a shard.

        Raises:
            duckdb.Error: A part cannot be read.
            HistoryError: A part cannot be read.
        """
        self._parts = list(parts)
        self._list_parts(parts)
        window = _Window(key, since_us, until_us)
        history_rows = self._count(f"({window.rows})", window.parameters(parts))
        self._find_newest_versions(window, parts)
        products = self._count("newest")
        first_shard = int(str(self._value("select coalesce(max(shard) + 1, 0) from done")))
        self._assign_shards(first_shard, shard_rows)
        self._run("drop table newest")
        remaining = self._count("newest_row")
        shards = range(first_shard, first_shard - (-remaining // shard_rows))
        return Plan(history_rows, products, remaining, shards)

    def shard(self, number: int) -> Shard:
        """Return the rows to write of a shard."""
        query = "select part, row from newest_row where shard = ? order by part, row"
        columns = self._connection.execute(query, [number]).fetchnumpy()
        parts, starts = np.unique(np.asarray(columns["part"]), return_index=True)
        rows = np.split(np.asarray(columns["row"], dtype=np.int64), starts[1:])
        return Shard(number, [(self._parts[part], piece) for part, piece in zip(parts.tolist(), rows, strict=True)])

    def done_rows(self) -> int:
        """Count the rows that this run, and the runs that it resumes, have written."""
        return self._count("done")

    def record(self, shard: WrittenShard) -> None:
        """Record the checkpoint: these rows are online. It is durable when this returns."""
        number = pa.array([shard.number] * len(shard.checksums), pa.int64())
        columns = [number, shard.ids, shard.versions, shard.created_us, pa.array(shard.checksums, pa.int64())]
        self._connection.register("shard_written", pa.Table.from_arrays(columns, schema=_DONE))
        self._run("insert into done select * from shard_written")
        self._connection.unregister("shard_written")

    def done_shards(self) -> Iterator[DoneShard]:
        """Yield every shard with its rows, without those that a later shard of this journal has replaced."""
        self._run(
            """create or replace temp table last as select * from done qualify row_number() over
            (partition by id order by version desc, created_us desc, shard desc) = 1 order by shard"""
        )
        for (number,) in self._connection.execute("select distinct shard from last order by shard").fetchall():
            query = "select id, version, checksum from last where shard = ?"
            columns = self._connection.execute(query, [number]).fetchnumpy()
            yield DoneShard(number, *(np.asarray(columns[name]).tolist() for name in ("id", "version", "checksum")))

    def close(self, *, forget: bool = False) -> None:
        """Close the file; with `forget`, remove it."""
        self._connection.close()
        if forget and self._path is not None:
            for file in _files(self._path):
                file.unlink(missing_ok=True)

    # The steps of a plan.

    def _list_parts(self, parts: Sequence[Path]) -> None:
        """Make the table `part`: name, number, and the pass over the parts that reads it."""
        ordered = [is_sorted_by_key(part) for part in parts]
        self._run(
            """create or replace table part as
            select unnest(?) as filename, unnest(range(?)) as part, unnest(?) as pass, unnest(?) as sorted_by_key""",
            [[str(part) for part in parts], len(parts), _passes(ordered, self._merged_parts), ordered],
        )

    def _find_newest_versions(self, window: _Window, parts: Sequence[Path]) -> None:
        """Make the table `newest`: one row per key."""
        self._run(
            f"""create or replace table newest as {window.rows}
            qualify row_number() over (partition by id order by version desc, created_us desc, part desc, row desc) = 1
            """,
            window.parameters(parts),
        )

    def _assign_shards(self, first_shard: int, shard_rows: int) -> None:
        """Make the table `newest_row`: rows of `newest` that are not done, with their shards, in reading order."""
        self._run(
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

    # The database.

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._path is None:
            return _connect(":memory:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connect(str(self._path))
        except duckdb.Error:  # damaged, or of another version of DuckDB: start over, writing twice changes nothing
            for file in _files(self._path):
                file.unlink(missing_ok=True)
            return _connect(str(self._path))

    def _run(self, statement: str, parameters: _Parameters = ()) -> None:
        self._connection.execute(statement, list(parameters))

    def _value(self, query: str, parameters: _Parameters = ()) -> object:
        # Fetch all rows: DuckDB refuses the next statement while a result is unfinished.
        rows = self._connection.execute(query, list(parameters)).fetchall()
        return rows[0][0] if rows else None

    def _count(self, source: str, parameters: _Parameters = ()) -> int:
        return int(str(self._value(f"select count(*) from {source}", parameters)))


class _Window(NamedTuple):
    """The rows of the history in a window of event times."""

    key: str
    since_us: int | None
    until_us: int | None

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


def _passes(ordered: Sequence[bool], merged_parts: int) -> list[int]:
    """Return the pass of each part: sorted parts share passes of `merged_parts` parts, any other has its own."""
    sorted_before = accumulate(ordered)  # including the current part
    return [
        count // merged_parts if is_sorted else len(ordered) + i
        for i, (is_sorted, count) in enumerate(zip(ordered, sorted_before, strict=True))
    ]


def _connect(path: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(path)
    connection.execute(f"set memory_limit = '{_MEMORY}'")
    if path == ":memory:":  # a database in a file has its temporary folder beside it
        connection.execute(f"set temp_directory = '{tempfile.gettempdir()}/sagelift-duckdb'")
    connection.execute("create table if not exists request (request varchar)")
    connection.execute(
        "create table if not exists done (shard bigint, id varchar, version bigint, created_us bigint, checksum bigint)"
    )
    return connection


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + ".wal")]
